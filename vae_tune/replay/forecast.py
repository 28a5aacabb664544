"""What the end of a search foretells by a replay of its record: other reduction factors, more trials.

The recorded trials run once more in their order, each with its own curve, which goes on as the surrogate expects
where training was stopped. For more trials the study's own sampler and scheduler go on from there; a new trial's curve
is the expected one times the noise of a recorded one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vae_tune.analysis.advice import Finding
from vae_tune.analysis.study import Study
from vae_tune.config import suggestions
from vae_tune.config.files import write_json
from vae_tune.config.names import COMPLETE, EPOCH, FORECAST_FILE, SPEARMAN, VAL_LOSS
from vae_tune.config.settings import AshaConfig
from vae_tune.replay.curves import Curve, Curves, load_curves
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import ReplayedTrial, simulate
from vae_tune.replay.surrogate import FEWEST, LOWEST_CORRELATION, Surrogate, is_poor
from vae_tune.search.initial_trials import reference_values

SECONDS = 4.0
"""That a forecast takes at most, but for one step of it."""
MORE = 50
"""Trials whose gain is foretold."""
_FACTORS = (2, 3, 4)
_MOST = 100  # trials that teach the surrogate: its time grows with their cube
_REPEATS, _FEWEST_REPEATS = 10, 3
_AS_GOOD = 0.05  # nats by which another best trial is as good
_BETTER = 0.1  # nats from which on another best trial is worth its epochs
_WORTH = 0.1  # of the epochs: a saving that is worth a word


class _OutOfTime(Exception):
    """A forecast takes too long."""


def write_forecast(study: Study, seconds: float = SECONDS) -> None:
    """Write the forecast into the study's folder, where :func:`vae_tune.analysis.advice.read_forecast` finds it."""
    findings = [asdict(finding) for finding in forecast(study, seconds)]
    write_json(study.folder / FORECAST_FILE, {"trials": len(study.trials), "findings": findings})


def forecast(study: Study, seconds: float = SECONDS) -> list[Finding]:
    """Return what a replay foretells, or why nothing is foretold; after ``seconds`` what there is by then."""
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise _OutOfTime

    found: list[Finding] = []
    try:
        for finding in _foretell(study, check):
            found.append(finding)
    except _OutOfTime:
        late = f"it takes more than {seconds:.0f} s" if seconds > 0 else "no time is left"
        found.append(Finding("replay", f"No {'further ' if found else ''}forecast by a replay: {late}."))
    return found


def _foretell(study: Study, check: Callable[[], None]) -> Iterator[Finding]:
    check()
    curves = load_curves(study.folder)
    if curves.whole.sum() < FEWEST:
        told = f"{curves.whole.sum()} trials trained to the end, needs {FEWEST}"
        yield Finding("replay", f"Not enough data for a forecast: {told}.")
        return
    asha, last = study.config.asha, study.max_epochs
    rungs = [set(replace(asha, scheduler="asha", reduction_factor=factor).rungs(last)) for factor in _FACTORS]
    surrogate = Surrogate(_some(curves), sorted({1, last, *asha.rungs(last)}.union(*rungs)), check)
    for ahead in (True, False):
        validated = surrogate.validate(ahead=ahead)
        if is_poor(validated):
            poorest = validated.sort_values(SPEARMAN, na_position="first").iloc[0]
            found = "unknown" if np.isnan(poorest[SPEARMAN]) else f"{poorest[SPEARMAN]:.2f}"
            told = f"rank correlation {found} at epoch {poorest[EPOCH]:.0f}, needs {LOWEST_CORRELATION}"
            yield Finding("replay", f"Not enough data for a forecast: {told}.")
            return
    workers = study.manifest["runs"][-1].get("slots", {}).get("count", 1)
    source = Recorded(curves, surrogate, check)
    yield from _factors(study, source, workers)
    yield from _gain(study, source, workers)


class Recorded:
    """A source of the study's own curves, continued where they end early; a new trial's is expected, with noise."""

    best = 0.0

    def __init__(self, curves: Curves, surrogate: Surrogate, check: Callable[[], None] = lambda: None):
        self.curves = curves
        self._surrogate = surrogate
        self._check = check
        self._places = {_key(values): index for index, values in reversed([*enumerate(curves.values)])}
        self._noise = surrogate.residuals()
        self._continued: dict[int, Curve] = {}
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        """Draw other noise."""
        self._random = np.random.default_rng(seed)

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve of a recorded or of a new configuration."""
        self._check()
        index = self._places.get(_key(values))
        if index is None:
            expected = self._surrogate.curve(values)
            return Curve(expected.losses * self._random.choice(self._noise), expected.seconds)
        if index not in self._continued:
            self._continued[index] = self._recorded(index)
        return self._continued[index]

    def _recorded(self, index: int) -> Curve:
        """Return the curve of a recorded configuration to the last epoch."""
        losses, seconds = self.curves.losses[index], self.curves.seconds[index]
        if np.isinf(losses).any():
            return Curve(np.where(np.isnan(losses), np.inf, losses), _filled(seconds, np.full_like(seconds, 1.0)))
        expected = self._surrogate.continued(self.curves.values[index], losses)
        return Curve(expected.losses, _filled(seconds, expected.seconds))


def _factors(study: Study, source: Recorded, workers: int) -> Iterator[Finding]:
    """Tell whether the study's own trials would have cost less with another reduction factor."""
    own = replace(study.config.asha, audit_fraction=0.0)
    stops = own if own.scheduler != "none" else replace(own, scheduler="asha")
    settings = {own, *(replace(stops, reduction_factor=factor) for factor in _FACTORS)}
    points, told, cost = _points(source.curves), [], {}
    for asha in sorted(settings, key=lambda asha: (asha.scheduler, asha.reduction_factor)):
        trials = simulate(source, Setting("random", asha, workers), len(points) + 1, 0, points)
        cost[asha] = sum(trial.epochs for trial in trials), _best(trials)
        told.append(f"{_name(asha)} ({cost[asha][0]} epochs, best {cost[asha][1]:.2f} nats)")
    if len({epochs for epochs, _ in cost.values()}) == 1:
        return
    spent, best = cost[own]
    text = f"Its own trials replayed: {', '.join(told)}."
    cheapest = min(cost, key=lambda asha: (cost[asha][1] > best + _AS_GOOD, cost[asha][0]))
    finest = min(cost, key=lambda asha: cost[asha][1])
    if cost[finest][1] < best - _BETTER:
        much = f"{best - cost[finest][1]:.2f} nats better for {cost[finest][0] / spent - 1:+.0%} epochs"
        yield Finding("stopping", text, f"{_option(finest, own)} may be {much}.")
    elif cost[cheapest][0] <= (1 - _WORTH) * spent:
        saved = 1 - cost[cheapest][0] / spent
        yield Finding("stopping", text, f"{_option(cheapest, own)} would have saved {saved:.0%} of the epochs.")
    else:
        yield Finding("stopping", f"{text} No other would have saved a tenth.")


def _gain(study: Study, source: Recorded, workers: int) -> Iterator[Finding]:
    """Tell what more trials are expected to bring."""
    setting = Setting(study.config.sampler, replace(study.config.asha, audit_fraction=0.0), workers)
    points = _points(source.curves)
    gains: list[float] = []
    epochs: list[int] = []
    if study.best is None or study.best["state"] != COMPLETE:
        return
    for seed in range(_REPEATS):
        source.reseed(seed)
        try:
            trials = simulate(source, setting, len(points) + 1 + MORE, seed, points)[len(points) + 1 :]
        except _OutOfTime:
            if len(gains) < _FEWEST_REPEATS:
                raise
            break
        gains.append(max(0.0, study.best[VAL_LOSS] - _best(trials)))
        epochs.append(sum(trial.epochs for trial in trials))
    mean = np.mean(gains)
    text = (
        f"{MORE} more trials are expected to gain {mean:.2f} nats ({min(gains):.2f} to {max(gains):.2f} in "
        f"{len(gains)} replays) for about {np.mean(epochs):.0f} epochs."
    )
    more = f"To go on: {suggestions.resume(study.place, num_samples=len(study.trials) + MORE)}"
    certain = bool(min(gains) >= _BETTER or max(gains) < _BETTER)
    yield Finding("trials", text, more if mean >= _BETTER else "They promise little.", certain)


def _some(curves: Curves) -> Curves:
    """Return so many of the curves, by chance, that fitting them is quick: the whole ones first, but stopped ones too.

    From these alone it is learnt how a curve that was stopped goes on: half of what is kept, where there are so many.
    """
    order = np.random.default_rng(0).permutation(len(curves.values))
    whole, stopped = order[curves.whole[order]], order[~curves.whole[order]]
    fewest = min(len(stopped), _MOST // 2)
    kept = np.sort(np.concatenate([whole[: _MOST - fewest], stopped])[:_MOST])
    values = tuple(curves.values[index] for index in kept)
    return replace(curves, values=values, losses=curves.losses[kept], seconds=curves.seconds[kept])


def _points(curves: Curves) -> list[Mapping[str, Any]]:
    """Return the recorded configurations but the reference, with which every search begins."""
    reference = reference_values(curves.space, curves.reference)
    return [values for values in curves.values if values != reference]


def _best(trials: list[ReplayedTrial]) -> float:
    return min((trial.val_loss for trial in trials if trial.state == COMPLETE), default=np.inf)


def _name(asha: AshaConfig) -> str:
    return "no early stopping" if asha.scheduler == "none" else f"reduction factor {asha.reduction_factor}"


def _option(asha: AshaConfig, own: AshaConfig) -> str:
    if asha.scheduler == own.scheduler:
        return f"--reduction-factor {asha.reduction_factor}"
    return f"--scheduler {asha.scheduler} --reduction-factor {asha.reduction_factor}"


def _key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(values.values())


def _filled(seconds: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(seconds), expected, seconds)
