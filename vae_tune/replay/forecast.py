"""The forecast at the end of a search, by a replay of its record: other reduction factors, more trials.

The recorded trials are replayed in their order, each with its own curve, which the surrogate continues where training
was stopped. For more trials the study's own sampler and scheduler go on from there; a new trial's curve is the
expected one times the noise of a recorded one.

The comparison of reduction factors is specific to the rungs of ``AshaConfig``: it compares a scheduler without rungs
with the default one, and a scheduler with other rungs needs settings of its own in ``_compared``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from vae_tune.analysis.advice import Finding
from vae_tune.analysis.study import Study
from vae_tune.config.files import write_json
from vae_tune.config.message_hints import quantity
from vae_tune.config.names import COMPLETE, EPOCH, EPOCH_BUDGET, FORECAST_FILE, SPEARMAN, TARGET_LOSS, TIME_BUDGET
from vae_tune.config.settings import AshaConfig
from vae_tune.record.metadata import resume_command
from vae_tune.record.run_slots import most_slots, slots_of_run
from vae_tune.record.trials import read_trials, row_from_trial
from vae_tune.replay.curves import Array, Curve, Curves, study_curves
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import ReplayedTrial, simulate
from vae_tune.replay.surrogate import FEWEST, LOWEST_CORRELATION, Surrogate, is_poor
from vae_tune.search.initial_trials import reference_values
from vae_tune.search.scheduler import Outlook
from vae_tune.search.scheduler_factory import make_scheduler

SECONDS = 4.0  # time limit of a forecast, which its last step may exceed
MORE = 50  # additional trials whose gain is forecast
_FACTORS = (2, 3, 4)
_MOST = 100  # trials that the surrogate is fitted to: its time grows with their cube
_REPEATS, _FEWEST_REPEATS = 10, 3
_AS_GOOD = 0.05  # nats, as the next, see Study.threshold: another best trial this close is as good
_BETTER = 0.1  # nats: another best trial this much better is worth its epochs
_WORTH = 0.1  # of the epochs: a saving worth mentioning


class _OutOfTime(Exception): ...


def write_forecast(study: Study, seconds: float = SECONDS) -> Outlook | None:
    """Write the forecast into the study's folder, from which :func:`vae_tune.analysis.advice.read_forecast` reads.

    Return what the scheduler's own model expects of going on, if it has one.
    """
    outlook = _outlook(study) if study.scheduler.proposes and seconds > 0 else None
    findings = [asdict(finding) for finding in forecast(study, seconds, outlook)]
    counts = {"trials": len(study.trials), "epochs": len(study.epochs)}
    write_json(study.folder / FORECAST_FILE, {**counts, "findings": findings})
    return outlook


def forecast(study: Study, seconds: float = SECONDS, outlook: Outlook | None = None) -> list[Finding]:
    """Return the forecast, or why there is none; after ``seconds`` the findings up to then.

    ``outlook`` is that of the study's scheduler, if it is known.
    """
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise _OutOfTime

    found: list[Finding] = []
    try:
        for finding in _findings(study, check, outlook):
            found.append(finding)
    except _OutOfTime:
        late = f"it takes more than {seconds:.0f} s" if seconds > 0 else "no time is left"
        found.append(Finding("replay", f"No {'further ' if found else ''}forecast: {late}."))
    return found


def _findings(study: Study, check: Callable[[], None], outlook: Outlook | None) -> Iterator[Finding]:
    check()
    if study.scheduler.proposes:
        yield _expected(study, outlook or _outlook(study))
        return
    curves = study_curves(study)
    if curves.whole.sum() < FEWEST:
        yield _not_enough(f"{quantity(curves.whole.sum(), 'trial')} trained to the end, needs {FEWEST}")
        return
    last = study.max_epochs
    rungs = [set(asha.rungs(last)) for asha in _compared(study.config.asha)]
    surrogate = Surrogate(_some(curves), sorted({1, last}.union(*rungs)), check)
    for ahead in (True, False):
        validated = surrogate.validate(ahead=ahead)
        if is_poor(validated):
            poorest = validated.sort_values(SPEARMAN, na_position="first").iloc[0]
            found = "unknown" if np.isnan(poorest[SPEARMAN]) else f"{poorest[SPEARMAN]:.2f}"
            yield _not_enough(f"rank correlation {found} at epoch {poorest[EPOCH]:.0f}, needs {LOWEST_CORRELATION}")
            return
    most = most_slots(slots_of_run(study.metadata["runs"][-1]))
    workers = most.count if most else 1
    source = Recorded(curves, surrogate, check)
    yield from _factors(study, source, workers)
    yield from _gain(study, source, workers)


def _outlook(study: Study) -> Outlook | None:
    """Return what the scheduler's own model expects of going on; its decisions take too long for many replays."""
    study.scheduler.open(study.space, study.config.num_samples)
    return study.scheduler.outlook([row_from_trial(trial) for trial in read_trials(study.folder)])


def _expected(study: Study, outlook: Outlook | None) -> Finding:
    """Report why the search ended, and what going on is expected to bring."""
    unit, status, tried = study.loss_unit, study.metadata["status"], len(study.trials)
    why = {
        "complete": "",
        EPOCH_BUDGET: f"The search ended after {len(study.epochs)} epochs, by --max-total-epochs.",
        TIME_BUDGET: f"The search ended after {len(study.epochs)} epochs, by --time-budget.",
        TARGET_LOSS: "The search ended because the target loss was reached.",
    }.get(status, "The search has not ended.")
    if untried := study.config.num_samples - tried:
        why += f" {untried} of the {study.config.num_samples} configurations were not tried."
    if outlook is None:
        return Finding("replay", f"{why} No forecast: no trial was trained to the end.".lstrip())
    if not outlook.trials:
        return Finding("replay", f"{why} All trials were trained to the end.".lstrip())
    if status == "complete":
        least = unit.with_name(outlook.min_gain)
        named = "--min-gain" if study.config.asha.min_gain is not None else "the default of --min-gain"
        why = f"The search ended: {tried} configurations were tried, and no paused trial is expected to gain more "
        why += f"than {least}, {named}."
    return Finding(
        "trials",
        f"{why} Training the {outlook.trials} paused trials to the end is expected to gain "
        f"{unit.with_name(outlook.mean)} (in nine of ten cases at most {unit.text(outlook.high)}) for "
        f"{outlook.epochs} epochs.",
    )


def _not_enough(reason: str) -> Finding:
    return Finding("replay", f"Not enough data for a forecast: {reason}.")


class Recorded:
    """A source of the study's own curves, continued where they end early; a new trial's is expected, with noise."""

    def __init__(self, curves: Curves, surrogate: Surrogate, check: Callable[[], None] = lambda: None):
        """Continue the curves; ``check`` is called before each and ends the work by an exception."""
        self.curves = curves
        self._surrogate = surrogate
        self._check = check
        self._noise = surrogate.residuals()
        self._recorded: dict[tuple[Any, ...], Curve] = {}
        for values, losses, seconds in zip(curves.values, curves.losses, curves.seconds, strict=True):
            check()
            self._recorded.setdefault(tuple(values.values()), self._whole(values, losses, seconds))
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        """Draw other noise."""
        self._random = np.random.default_rng(seed)

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve of a recorded or of a new configuration."""
        self._check()
        if (recorded := self._recorded.get(tuple(values.values()))) is not None:
            return recorded
        return self._surrogate.with_noise(self._surrogate.curve(values), self._random.choice(self._noise))

    def _whole(self, values: Mapping[str, Any], losses: Array, seconds: Array) -> Curve:
        """Return a recorded curve to the last epoch."""
        if np.isinf(losses).any():
            return Curve(np.where(np.isnan(losses), np.inf, losses), np.where(np.isnan(seconds), 1.0, seconds))
        expected = self._surrogate.continued(values, losses)
        return Curve(expected.losses, np.where(np.isnan(seconds), expected.seconds, seconds))


def _factors(study: Study, source: Recorded, workers: int) -> Iterator[Finding]:
    """Report whether the recorded trials would have cost less with another reduction factor."""
    own = replace(study.config.asha, audit_fraction=0.0)
    points, costs, cost, unit = _points(source.curves), [], {}, study.loss_unit
    for asha in sorted(_compared(own), key=lambda asha: (asha.scheduler, asha.reduction_factor)):
        trials = simulate(source, Setting("random", asha, workers), len(points) + 1, 0, points)
        cost[asha] = sum(trial.epochs for trial in trials), _best(trials)
        name = make_scheduler(asha, study.max_epochs, 0).describe()
        name = f"reduction factor {asha.reduction_factor}" if asha.has_rungs else name
        costs.append(f"{name} ({cost[asha][0]} epochs, best {unit.level(cost[asha][1])} {unit.short})")
    if len({epochs for epochs, _ in cost.values()}) == 1:
        return
    spent, best = cost[own]
    text = f"The recorded trials replayed: {', '.join(costs)}."
    cheapest = min(cost, key=lambda asha: (cost[asha][1] > best + study.threshold(_AS_GOOD), cost[asha][0]))
    finest = min(cost, key=lambda asha: cost[asha][1])
    if cost[finest][1] < best - study.threshold(_BETTER):
        much = f"{unit.with_name(best - cost[finest][1])} better for {cost[finest][0] / spent - 1:+.0%} epochs"
        yield Finding("stopping", text, f"{_option(finest, own)} may be {much}.")
    elif cost[cheapest][0] <= (1 - _WORTH) * spent:
        saved = 1 - cost[cheapest][0] / spent
        yield Finding("stopping", text, f"{_option(cheapest, own)} would have saved {saved:.0%} of the epochs.")
    else:
        yield Finding("stopping", f"{text} No other setting would have saved a tenth of the epochs.")


def _gain(study: Study, source: Recorded, workers: int) -> Iterator[Finding]:
    """Report the expected gain of more trials."""
    setting = Setting(study.config.sampler, replace(study.config.asha, audit_fraction=0.0), workers)
    points = _points(source.curves)
    gains, epochs = list[float](), list[int]()
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
        gains.append(max(0.0, study.ranking.loss(study.best[study.ranking.name]) - _best(trials)))
        epochs.append(sum(trial.epochs for trial in trials))
    mean, unit, better = float(np.mean(gains)), study.loss_unit, study.threshold(_BETTER)
    text = (
        f"{MORE} more trials are expected to gain {unit.with_name(mean)} "
        f"({unit.text(min(gains))} to {unit.text(max(gains))} in "
        f"{len(gains)} replays) for about {np.mean(epochs):.0f} epochs."
    )
    more = f"To go on: {resume_command(study.metadata, study.place, num_samples=len(study.trials) + MORE)}"
    certain = bool(min(gains) >= better or max(gains) < better)
    yield Finding("trials", text, more if mean >= better else "They are not worth it.", certain)


def _some(curves: Curves) -> Curves:
    """Return a random choice of at most ``_MOST`` curves, so that fitting them is quick: the whole ones first.

    Stopped ones are up to half of it: the surrogate learns from them how a stopped curve goes on.
    """
    order = np.random.default_rng(0).permutation(len(curves.values))
    whole, stopped = order[curves.whole[order]], order[~curves.whole[order]]
    fewest = min(len(stopped), _MOST // 2)
    kept = np.sort(np.concatenate([whole[: _MOST - fewest], stopped])[:_MOST])
    values = tuple(curves.values[index] for index in kept)
    return replace(curves, values=values, losses=curves.losses[kept], seconds=curves.seconds[kept])


def _points(curves: Curves) -> list[Mapping[str, Any]]:
    """Return the recorded configurations without the reference, with which every search begins."""
    reference = reference_values(curves.space, curves.reference)
    return [values for values in curves.values if values != reference]


def _best(trials: list[ReplayedTrial]) -> float:
    return min((trial.val_loss for trial in trials if trial.state == COMPLETE), default=np.inf)


def _compared(own: AshaConfig) -> set[AshaConfig]:
    """Return the settings to compare: the study's own, and each reduction factor."""
    stops = own if own.has_rungs else replace(own, scheduler=AshaConfig.scheduler, min_gain=None)
    return {own, *(replace(stops, reduction_factor=factor) for factor in _FACTORS)}


def _option(asha: AshaConfig, own: AshaConfig) -> str:
    if asha.scheduler == own.scheduler:
        return f"--reduction-factor {asha.reduction_factor}"
    return f"--scheduler {asha.scheduler} --reduction-factor {asha.reduction_factor}"
