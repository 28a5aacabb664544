"""Results of replayed searches as tables: regret by epochs and time, the cost of a good trial, false stops.

Regret is the loss of the best trial trained to ``max_epochs`` so far, minus the lowest known loss; nats per image.
Intervals are 95 %, from 1,000 bootstrap resamples of the repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from vae_tune.config.names import COMPLETE, EPOCHS, HIGH, HOURS, LOW, PRUNED
from vae_tune.replay.curves import Array
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import ReplayedTrial

SETTING, AXIS, AT, REGRET = "setting", "axis", "at", "regret"
NEAR = (0.5, 1.0)
"""Nats above the best loss for an image of 28 x 28 gray pixels: X, the targets of ``epochs_to_X``."""
_RESAMPLES = 1000
_POINTS = 200  # of a regret curve
_MOMENTS: dict[str, Callable[[ReplayedTrial], float]] = {
    EPOCHS: lambda trial: trial.spent,
    HOURS: lambda trial: trial.ended / 3600,
}
"""When a trial ended, by axis."""

Searches = Mapping[Setting, Sequence[Sequence[ReplayedTrial]]]  # the repeats of each setting, each a list of trials


def lowest(searches: Searches, known: float) -> float:
    """Return the lowest final loss: ``known``, or a lower one that a replayed search reached."""
    reached = (t.val_loss for runs in searches.values() for run in runs for t in run if t.state == COMPLETE)
    return min([known, *reached])


def regret_table(searches: Searches, best: float) -> pd.DataFrame:
    """Return mean regret by epochs trained and by simulated hours.

    Returns:
        One row per setting, axis and point: setting, axis (epochs or hours), at, regret (mean over repeats), low and
        high of its interval. A setting's line starts where all of its repeats have a complete trial, and ends where
        the first of them ends.
    """
    rows = []
    for setting, runs in searches.items():
        for axis in _MOMENTS:
            steps = [_steps(run, axis, best) for run in runs]
            if any(len(at) == 0 for at, _ in steps):
                continue
            first, last = max(at[0] for at, _ in steps), min(_end(run, axis) for run in runs)
            grid = np.unique(np.linspace(first, max(first, last), _POINTS))
            lines = np.array([regret[np.searchsorted(at, grid, side="right") - 1] for at, regret in steps])
            low, high = bootstrap(lines, _mean)
            rows += [(str(setting), axis, *cells) for cells in zip(grid, lines.mean(axis=0), low, high, strict=True)]
    return pd.DataFrame(rows, columns=[SETTING, AXIS, AT, REGRET, LOW, HIGH])


def summary_table(searches: Searches, best: float, size_factor: float = 1.0) -> pd.DataFrame:
    """Return one row per setting.

    The targets X are multiplied by ``size_factor``, the values of an image relative to 28 x 28 gray pixels.

    Returns:
        setting; repeats; trials, epochs, hours of a search (means); ``regret`` at the end and ``fair_regret`` at the
        epochs of the setting with the fewest, with ``_low`` and ``_high``; for each of :data:`NEAR` ``epochs_to_X``
        (median over repeats, infinite if more than half never reach it) with its interval, and ``reached_X`` (share of
        repeats that reach it); ``best_stopped``: share of repeats in which the trial with the lowest final loss was
        stopped early, with its interval (NaN if final losses are not known).
    """
    fair = min(float(np.median([_end(run, EPOCHS) for run in runs])) for runs in searches.values())
    rows = []
    for setting, runs in searches.items():
        ends = np.array([[_at(run, np.inf, best), _at(run, fair, best)] for run in runs])
        near = np.array([[_reached(run, best + nats * size_factor) for nats in NEAR] for run in runs])
        stopped = np.array([[_stopped_the_best(run)] for run in runs])
        row: dict[str, object] = {SETTING: str(setting), "repeats": len(runs), "trials": len(runs[0])}
        row |= {axis: float(np.mean([_end(run, axis) for run in runs])) for axis in _MOMENTS}
        for name, values, statistic in (
            (REGRET, ends[:, [0]], _mean),
            (f"fair_{REGRET}", ends[:, [1]], _mean),
            *((f"epochs_to_{nats:g}", near[:, [index]], _median) for index, nats in enumerate(NEAR)),
            ("best_stopped", stopped, _mean),
        ):
            low, high = bootstrap(values, statistic)
            row |= {name: statistic(values)[0], f"{name}_low": low[0], f"{name}_high": high[0]}
        row |= {f"reached_{nats:g}": np.isfinite(near[:, index]).mean() for index, nats in enumerate(NEAR)}
        rows.append(row)
    return pd.DataFrame(rows)


def bootstrap(values: Array, statistic: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Return the ends of the 95 % percentile interval of a statistic over repeats, (points,) each; NaN for one repeat.

    ``statistic`` reduces the axis before the last of (repeats, points) and of (resamples, repeats, points).
    """
    if len(values) == 1:
        none = np.full(values.shape[1:], np.nan)
        return none, none
    picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    sampled = np.concatenate([statistic(values[part]) for part in np.array_split(picks, 20)])
    low, high = np.quantile(sampled, [0.025, 0.975], axis=0, method="inverted_cdf")
    return low, high


def _mean(values: Array) -> Array:
    return np.asarray(values.mean(axis=-2))


def _median(values: Array) -> Array:
    """Return the lower median, which is one of the values: infinite values need no interpolation."""
    return np.asarray(np.quantile(values, 0.5, axis=-2, method="inverted_cdf"))


def _steps(run: Sequence[ReplayedTrial], axis: str, best: float) -> tuple[Array, Array]:
    """Return when each trial completed, and the regret of the incumbent from then on."""
    whole = sorted((trial for trial in run if trial.state == COMPLETE), key=lambda trial: trial.spent)
    losses = np.minimum.accumulate([trial.val_loss for trial in whole]) if whole else np.array([])
    return np.array([_MOMENTS[axis](trial) for trial in whole]), losses - best


def _end(run: Sequence[ReplayedTrial], axis: str) -> float:
    return max(map(_MOMENTS[axis], run))


def _at(run: Sequence[ReplayedTrial], epochs: float, best: float) -> float:
    """Return the regret after so many epochs; before the first complete trial that of the first."""
    at, regret = _steps(run, EPOCHS, best)
    return float(regret[max(0, int(np.searchsorted(at, epochs, side="right")) - 1)]) if len(at) else np.inf


def _reached(run: Sequence[ReplayedTrial], loss: float) -> float:
    """Return the epochs trained until a complete trial was that good; infinite for never."""
    return min((trial.spent for trial in run if trial.state == COMPLETE and trial.val_loss <= loss), default=np.inf)


def _stopped_the_best(run: Sequence[ReplayedTrial]) -> float:
    finals = np.array([trial.final_loss for trial in run])
    if np.isnan(finals).any():
        return np.nan
    return float(run[int(finals.argmin())].state == PRUNED)
