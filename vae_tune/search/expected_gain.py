"""Which trial to train for one more epoch: the one with the highest expected gain per epoch.

The gain of a trial is by how much its final loss lies below that of the best complete trial. A trial may be left after
each epoch. So its value is that of the best plan of the form "train one epoch; then train to the end if the loss that
is expected then is low enough": the plan's expected gain, divided by its expected epochs. A new configuration is
charged the epochs of ``PRICE`` whole trainings more, since the number of configurations is limited.

The variances are those given the fitted kernel, which is uncertain too. So trials are chosen by variances that are
``CAUTION`` times as large, which keeps a search from settling early; whether it ends follows from those of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from vae_tune.config.space import Space
from vae_tune.search.learning_curves import Hyperparameters, Points, Process, default_hyperparameters, fit, togo
from vae_tune.search.unit_cube import Array, UnitCube

INITIAL = 10
"""New configurations, after the reference, before the first that the model chooses."""
PRICE = 1.0
"""Whole trainings that a new configuration is charged beside the epochs that it trains."""
CAUTION = 2.0
"""Factor of the variances by which trials are chosen."""
MIN_GAIN = 0.001
"""Of the spread of the losses, median to best: the gain below which a trial is not worth going on."""
NEW = -1
"""In place of a trial's number: a new configuration."""

_ANYWHERE = 3  # one in so many of the later configurations is a point of the initial sequence too
_FLOOR = 0.3  # of the spread: the distance of the floor below the lowest loss
_EQUAL = 1e-9  # the least spread
_CAP = 1.0  # logarithm of excess above the median, beyond which losses count as equally poor
_KEPT = (1, 2, 4, 8, 16, 32, 64)  # epochs whose losses are used beside a trial's last
_MOST, _MOST_BEST = 250, 150  # trials that are used; those of them with the lowest losses, the others are the newest
_MOST_POINTS = 500  # losses that are used
_FITTED = 150  # losses to which the kernel is fitted
_INITIAL_FIT = 5  # reports before the first fit of the kernel
_FIT_AFTER = 1.2  # the kernel is fitted again when there are so many times as many reports
_RANDOM, _NEAR, _CENTERS = 256, 40, 5  # new configurations: anywhere, and near each of the best trials
_STEPS = (0.02, 0.07, 0.2)  # standard deviations of the near ones, in the unit cube
_CHANGED = 0.2  # probability that a choice of a near one changes
_PLANS = 120  # options whose plans are valued; the others count as trained to the end
_OUTCOMES = ndtri((np.arange(16) + 0.5) / 16)  # equally likely outcomes of an epoch
_DRAWS = 1000  # of joint final losses


@dataclass(frozen=True)
class Known:
    """A trial as a decision sees it."""

    number: int
    place: Array  # (d,) in the unit cube
    losses: Sequence[float]
    orders: Sequence[int]  # place of each loss among all reports
    is_running: bool = False
    has_diverged: bool = False
    has_ended: bool = False

    def waits(self, last: int) -> bool:
        """Return whether it is paused."""
        return not (self.is_running or self.has_diverged or self.has_ended) and len(self.losses) < last


@dataclass(frozen=True)
class Options:
    """What a free worker could train: m paused trials and new configurations."""

    numbers: npt.NDArray[np.int64]  # (m,) NEW for a new configuration
    places: Array  # (m, d)
    gains: Array  # (m,) expected when trained to the end, in the unit of the losses
    per_epoch: Array  # (m,) of the best plan
    worth: float
    """The default of the least gain for which a trial is trained on."""

    @property
    def best(self) -> int:
        """The row with the highest gain per epoch."""
        return int(np.argmax(self.per_epoch))


class Chooser:
    """Chooses what a free worker trains, as a function of seed and record."""

    def __init__(self, space: Space, last: int, seed: int):
        """Choose among trials of ``last`` epochs."""
        self.cube = UnitCube(space)
        self._last = last
        self._seed = seed
        self._fits: dict[int, Hyperparameters] = {}

    def is_initial(self, number: int) -> bool:
        """Return whether new trial ``number`` starts without a look at the losses."""
        return number <= INITIAL

    def is_anywhere(self, number: int) -> bool:
        """Return whether new trial ``number`` gets the next initial place instead of the one with the most to gain."""
        return number <= INITIAL or (number - INITIAL) % _ANYWHERE == 0

    def anywhere(self, number: int) -> Array:
        """Return the initial place of trial ``number``: of a scrambled Sobol sequence, (d,)."""
        from scipy.stats import qmc  # slow to import

        sequence = qmc.Sobol(len(self.cube.choices), seed=self._seed)
        if number:  # SciPy 1.17 raises an OverflowError at 0
            sequence.fast_forward(number)
        return np.asarray(self.cube.snap(sequence.random(1))[0])

    def options(self, trials: Sequence[Known], *, may_open: bool) -> Options | None:
        """Return what a free worker could train, or None if there is nothing, or no trial has reported."""
        paused = [trial for trial in trials if trial.waits(self._last)]
        if not any(trial.losses for trial in trials) or not (paused or may_open):
            return None
        model = self._model(trials)
        places, epochs = [trial.place for trial in paused], [len(trial.losses) for trial in paused]
        numbers = [trial.number for trial in paused]
        if may_open:
            new = self._new(trials, model)
            places, epochs, numbers = [*places, *new], [*epochs, *[0] * len(new)], [*numbers, *[NEW] * len(new)]
        if not numbers:
            return None
        worth = MIN_GAIN * model.final_spread([trial for trial in trials if trial.losses])
        return Options(*model.value(np.array(numbers), np.array(places), np.array(epochs)), worth)

    def outlook(self, trials: Sequence[Known]) -> tuple[float, float]:
        """Return the mean and the 90 % quantile of the gain from training all paused trials to the end."""
        paused = [trial for trial in trials if trial.waits(self._last) and trial.losses]
        return self._model(trials).joint_gain(paused) if paused else (0.0, 0.0)

    def _model(self, trials: Sequence[Known]) -> _Model:
        return _Model(trials, self._last, self.cube, self._hyperparameters(trials))

    def _hyperparameters(self, trials: Sequence[Known]) -> Hyperparameters:
        """Return the kernel fitted to the first reports; to how many of them follows from how many there are."""
        reports, due = sum(len(trial.losses) for trial in trials), _INITIAL_FIT
        if reports < due:
            return default_hyperparameters(len(self.cube.choices))
        while (later := max(due + 1, int(due * _FIT_AFTER))) <= reports:
            due = later
        if due not in self._fits:
            self._fits[due] = self._fit([_up_to(trial, due) for trial in trials])
        return self._fits[due]

    def _fit(self, trials: Sequence[Known]) -> Hyperparameters:
        data = _Data.of(trials, self._last)
        rows = np.arange(len(data.targets))
        if len(rows) > _FITTED:
            rows = np.sort(np.random.default_rng(0).choice(rows, _FITTED, replace=False))
        return fit(data.points[rows], data.targets[rows], self.cube.choices)

    def _new(self, trials: Sequence[Known], model: _Model) -> Array:
        """Return configurations that were not tried, some anywhere, some near the best trials."""
        random = np.random.default_rng([self._seed, len(trials), sum(len(trial.losses) for trial in trials)])
        shape = (_NEAR, len(self.cube.choices))
        started = [trial for trial in trials if trial.losses]
        best = np.argsort(model.final_means(started), kind="stable")[:_CENTERS]
        found = [random.random((_RANDOM, shape[1]))]
        for center in self.cube.spread(np.array([started[index].place for index in best])):
            moved = center + random.normal(size=shape) * random.choice(_STEPS, (_NEAR, 1))
            chosen = np.where(random.random(shape) < _CHANGED, random.random(shape), center)
            found.append(np.where(self.cube.choices, chosen, moved))
        places = self.cube.snap(np.clip(np.concatenate(found), 0.0, 1 - 1e-12))
        tried = {_key(place) for place in np.round([trial.place for trial in trials], 9)}
        is_new = [_key(place) not in tried for place in np.round(places, 9)]
        return places[is_new]


@dataclass(frozen=True)
class _Data:
    """Losses as the process sees them: standardized logarithms of their excess over a floor."""

    points: Points
    targets: Array  # (n,)
    floor: float
    mean: float
    scale: float

    @classmethod
    def of(cls, trials: Sequence[Known], last: int) -> _Data:
        """Return the losses of trials, of long curves some; a diverged trial is as poor as the poorest."""
        reported = _used([trial for trial in trials if trial.losses])
        floor = min(min(trial.losses) for trial in reported) - _FLOOR * _spread(trials)
        newest = np.log([trial.losses[-1] - floor for trial in reported])
        highest = float(np.median(newest)) + _CAP
        rows = [(trial, len(trial.losses)) for trial in reported]
        for index in np.argsort(newest, kind="stable"):
            rows += [(reported[index], epoch) for epoch in _KEPT if epoch < len(reported[index].losses)]
        del rows[_MOST_POINTS:]
        logs = [min(math.log(trial.losses[epoch - 1] - floor), highest) for trial, epoch in rows]
        diverged = [(trial, last) for trial in trials if trial.has_diverged]
        rows, logs = rows + diverged, logs + [max(logs)] * len(diverged)
        points = Points(
            np.array([trial.place for trial, _ in rows]),
            togo(np.array([epoch for _, epoch in rows]), last),
            np.array([trial.number for trial, _ in rows]),
        )
        mean, scale = float(newest.mean()), max(float(newest.std()), 1e-3)
        return cls(points, (np.array(logs) - mean) / scale, floor, mean, scale)

    def excess(self, standardized: Array) -> Array:
        """Return the median excess over the floor at a standardized logarithm."""
        return np.asarray(np.exp(standardized * self.scale + self.mean))


_Valued = tuple[npt.NDArray[np.int64], Array, Array, Array]


class _Model:
    """Predictions for the trials of a search as it stands."""

    def __init__(self, trials: Sequence[Known], last: int, cube: UnitCube, of: Hyperparameters):
        """Condition on all losses; a running trial counts as complete with the final loss that is expected of it.

        So others are not chosen where a running one will tell (Ginsbourger et al. 2010: kriging believer).
        """
        self._last = last
        self._data = data = _Data.of(trials, last)
        running = [trial for trial in trials if trial.is_running]
        points = data.points + _finals(running) if running else data.points
        self._process = Process(points, data.targets, cube.choices, of)
        complete = [trial for trial in trials if len(trial.losses) >= last]
        self._best = float(data.excess(self.final_means(complete or [t for t in trials if t.losses])).min())
        if complete:
            self._best = min(self._best, min(trial.losses[-1] for trial in complete) - data.floor)

    def final_means(self, trials: Sequence[Known]) -> Array:
        """Return the expected final losses of trials, as standardized logarithms: (n,)."""
        at = _finals(trials)
        return self._process.finals(at.places, at.trials)[0]

    def final_spread(self, trials: Sequence[Known]) -> float:
        """Return the distance from the lowest to the median expected final loss of trials."""
        finals = self._data.excess(self.final_means(trials))
        return float(np.median(finals) - finals.min())

    def joint_gain(self, trials: Sequence[Known]) -> tuple[float, float]:
        """Return mean and 90 % quantile of the gain by the best of trials, from fixed draws of their final losses."""
        mean, covariance = self._process.joint(_finals(trials))
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn = mean + np.random.default_rng(0).normal(size=(_DRAWS, len(mean))) @ root.T
        gains = np.maximum(self._best - self._data.excess(drawn).min(axis=1), 0.0)
        return float(gains.mean()), float(np.quantile(gains, 0.9))

    def value(self, numbers: npt.NDArray[np.int64], places: Array, epochs: npt.NDArray[np.int64]) -> _Valued:
        """Return numbers, places and gains of trials that have trained ``epochs`` (m,), as in :class:`Options`."""
        is_new, left = numbers == NEW, self._last - epochs
        trials = np.where(is_new, -1 - np.arange(len(numbers)), numbers)  # each shares nothing with any other
        mean, variance, across = self._process.finals(places, trials)
        # of a new configuration what is particular to a trial is luck, and no reason to try it
        own = np.where(is_new, self._process.of.constant**2, 0.0)
        mean = mean * self._data.scale + self._data.mean
        variance = np.maximum(variance - own, 1e-10) * self._data.scale**2
        gains = expected_improvement(self._best, mean, variance)
        variance *= CAUTION
        hopes = expected_improvement(self._best, mean, variance)
        price = np.where(is_new, PRICE * self._last, 0.0)
        per_epoch = hopes / (left + price)
        top = np.flatnonzero(left > 1)
        top = top[np.argsort(-hopes[top], kind="stable")[:_PLANS]]
        if len(top):
            then = Points(places[top], togo(epochs[top] + 1, self._last), trials[top])
            learned = self._process.learned(across[:, top], then, own[top]) * self._data.scale**2 * CAUTION
            learned = np.minimum(learned, variance[top] * (1 - 1e-6))
            plans = _plan_values(self._best, mean[top], variance[top], learned, left[top], price[top])
            per_epoch[top] = np.maximum(per_epoch[top], plans)
        return numbers, places, gains, per_epoch


def expected_improvement(best: float, mean: Array, variance: Array) -> Array:
    """Return the mean of max(0, best - exp(z)) for normal z; 0 < ``best``."""
    deviation = np.sqrt(variance)
    margin = (math.log(best) - mean) / deviation
    return np.asarray(best * ndtr(margin) - np.exp(mean + variance / 2) * ndtr(margin - deviation))


def _plan_values(
    best: float, mean: Array, variance: Array, learned: Array, left: npt.NDArray[np.int64], price: Array
) -> Array:
    """Return the gain per epoch of the best plan: (m,).

    An epoch moves the mean by a normal number with variance ``learned``. Of its equally likely outcomes, the lowest k
    lead to training to the end, with whichever k is best.
    """
    outcomes = mean[:, None] + np.sqrt(learned)[:, None] * _OUTCOMES
    gains = expected_improvement(best, outcomes, (variance - learned)[:, None])
    share = np.arange(1, len(_OUTCOMES) + 1) / len(_OUTCOMES)
    epochs = 1 + (left - 1)[:, None] * share + price[:, None]
    return np.asarray((np.cumsum(gains, axis=1) / len(_OUTCOMES) / epochs).max(axis=1))


def _finals(trials: Sequence[Known]) -> Points:
    """Return the last epoch of trials."""
    places, numbers = np.array([trial.place for trial in trials]), np.array([trial.number for trial in trials])
    return Points(places, np.zeros(len(trials)), numbers)


def _used(trials: Sequence[Known]) -> list[Known]:
    """Return the best and the newest of many trials."""
    if len(trials) <= _MOST:
        return list(trials)
    best = sorted(trials, key=lambda trial: (trial.losses[-1], trial.number))[:_MOST_BEST]
    numbers = {trial.number for trial in best}
    newest = [trial for trial in trials if trial.number not in numbers][_MOST_BEST - _MOST :]
    return sorted([*best, *newest], key=lambda trial: trial.number)


def _spread(trials: Sequence[Known]) -> float:
    """Return the distance from the lowest loss to the median of the newest ones of the initial trials."""
    newest = [trial.losses[-1] for trial in trials if trial.losses and trial.number <= INITIAL]
    newest = newest or [trial.losses[-1] for trial in trials if trial.losses]
    return max(float(np.median(newest)) - min(min(t.losses) for t in trials if t.losses), _EQUAL)


def _up_to(trial: Known, reports: int) -> Known:
    """Return a trial as it was after the first reports."""
    known = sum(order <= reports for order in trial.orders)
    return replace(trial, losses=trial.losses[:known], orders=trial.orders[:known], has_diverged=False)


def _key(rounded: Array) -> bytes:
    return (rounded + 0.0).tobytes()
