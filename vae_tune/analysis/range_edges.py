"""Where the best trials lie in each range of the search space, and whether the range is too narrow.

The best trials may lie at an end by chance, or because of other hyperparameters. So a surface is fitted to the losses
of all comparable trials, and a range counts as too narrow only where that surface still falls at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from vae_tune.analysis.hyperparameters import Axis, axes, comparable
from vae_tune.analysis.study import Study, complete_trials, parts_by_model
from vae_tune.config.errors import UsageError
from vae_tune.config.names import EPOCH, HIGH, LOW
from vae_tune.config.trial_values import with_values

Array = npt.NDArray[np.float64]

LATE = 0.3  # share of max_epochs from which losses count: earlier ones say little about the final order
_OUTER = 0.1  # of a range: a best trial this close to an end is at the edge
_CROWDED = 0.2  # of a range: half of the best trials this close to an end crowd there
_CLOSE = 0.05  # of a range: best trials this close to an end leave no room beyond them
_FEW = 3  # trials that support a statement
_STEP = 0.1  # of a range: the part for which a fall is given
_OFF = -0.5  # place of a value that a log range cannot hold, such as 0
_SPARE = 3  # degrees of freedom that a fit leaves for its error


@dataclass(frozen=True)
class RangeEdge:
    """The best trials within one range. Places are shares of the range, on its own scale, from 0 (low) to 1 (high)."""

    hyperparameter: str
    low: float
    high: float  # ends of the range
    best: float  # value of the best trial
    place: float  # of the best trial
    lowest: float
    highest: float  # places of the lowest and the highest of the best trials
    crowded: str  # low or high: the end where the best trials crowd; empty for neither
    edge: str  # the same end if the range is too narrow there; else empty
    fall: float  # of the loss at the crowded end, nats per image for a tenth of the range; NaN if it is not known
    fall_low: float
    fall_high: float  # ends of the fall's 95 % interval
    trials: int  # that were compared
    epoch: int  # at which they were compared


def best_trials(study: Study) -> pd.DataFrame:
    """Return the best quarter of the comparable trials, at least 5 of them, the best first.

    See :func:`vae_tune.analysis.hyperparameters.comparable` for the columns.
    """
    trials = comparable(study).sort_values(study.ranking.name, ascending=not study.ranking.maximize, ignore_index=True)
    return trials.head(max(5, len(trials) // 4))


def range_edges(study: Study) -> list[RangeEdge]:
    """Return where the best trials lie in each range, and whether the range is too narrow.

    The best trials crowd at an end if the best one lies in the outer tenth of the range, or at least half of them in
    the outer fifth. They do not crowd if 3 or more trials lie beyond all of them and there is room for that (a
    twentieth of the range), nor if no valid value lies beyond the end, such as below one layer. A range is too narrow
    if, besides, the loss still falls at that end by more than its 95 % interval (see :func:`loss_fall`), the trials
    are compared at 3 tenths of ``max_epochs`` or later, and the complete trials do not contradict it.

    Returns:
        One value per hyperparameter with a range; none if fewer than 10 trials can be compared. What only some models
        have is judged by their trials alone.
    """
    if conditions := study.space.conditions:
        parts = parts_by_model(study).items()
        found = [(model, edge) for model, part in parts for edge in range_edges(part)]
        return [edge for model, edge in found if not model or conditions.get(edge.hyperparameter, ("",))[0] == model]
    compared, top = comparable(study), best_trials(study)
    edges = []
    for name, axis in axes(study).items():
        if axis.scale == "category" or compared.empty:
            continue
        values = top[name].to_numpy(np.float64)
        places, tried = axis.place(values), axis.place(study.trials[name].dropna())
        away = {LOW: (places, tried), HIGH: (1 - places, 1 - tried)}
        narrow = {end: own[0][0] for end, own in away.items() if _crowds(*own) and _can_be_widened(study, axis, end)}
        crowded = min(narrow, key=narrow.__getitem__, default="")
        fall = loss_fall(study, compared, name, crowded) if crowded else None
        is_narrow = fall is not None and fall[1] > 0 and _counts(study, compared, axis, crowded)
        best = (float(values[0]), float(places[0]), float(places.min()), float(places.max()))
        edge, falls = crowded if is_narrow else "", fall or (np.nan, np.nan, np.nan)
        epoch = int(compared[EPOCH].iloc[0])
        edges.append(RangeEdge(name, axis.low, axis.high, *best, crowded, edge, *falls, len(compared), epoch))
    return edges


def loss_fall(study: Study, trials: pd.DataFrame, name: str, end: str) -> tuple[float, float, float] | None:
    """Return by how much the loss falls at the ``end`` of a range, by a surface fitted to comparable ``trials``.

    The surface is a sum of parabolas, one per range, and of a level per choice. The slope of a parabola at its end
    depends on the parabola's form, so a cubic in its place must fall there too, by at least half of its own interval.

    Returns:
        The fall and the ends of its 95 % interval, nats per image for a tenth of the range; None if there are too few
        trials for the surface, or if the cubic does not fall.
    """
    own, losses, others = np.empty(0), study.losses(trials).to_numpy(np.float64), []
    for axis in axes(study).values():
        if axis.scale == "category":
            others += [(trials[axis.name] == choice).to_numpy(np.float64) for choice in axis.choices[1:]]
            continue
        place = axis.place(trials[axis.name])
        if axis.name == name:
            own = place if end == HIGH else 1 - place
        else:
            beside = np.maximum(place, _OFF)
            others += [beside, beside**2]
    terms = np.column_stack([np.ones(len(losses)), own, own**2, *others])
    known = np.isfinite(terms).all(axis=1)
    parabola = _fitted(terms[known], losses[known], {1: 1.0, 2: 2.0})
    cubic = _fitted(np.column_stack([terms, own**3])[known], losses[known], {1: 1.0, 2: 2.0, terms.shape[1]: 3.0})
    if parabola is None or cubic is None or cubic[0] > -cubic[1] / 2:
        return None
    fall, half = -parabola[0], parabola[1]
    return fall * _STEP, (fall - half) * _STEP, (fall + half) * _STEP


def slope(x: Array, y: Array) -> tuple[float, float]:
    """Return the slope of a least-squares line through 3 or more points, and half of its 95 % interval."""
    found = _fitted(np.column_stack([np.ones(len(x)), x]), y, {1: 1.0}, spare=1)
    assert found is not None
    return found


def _fitted(terms: Array, losses: Array, weights: dict[int, float], spare: int = _SPARE) -> tuple[float, float] | None:
    """Return a weighted sum of a least-squares fit's coefficients, and half of its 95 % interval (Student's t)."""
    coefficients, _, rank, _ = np.linalg.lstsq(terms, losses, rcond=None)
    free = len(losses) - int(rank)
    if free < spare:
        return None
    direction = np.zeros(terms.shape[1])
    direction[list(weights)] = list(weights.values())
    error = ((losses - terms @ coefficients) ** 2).sum() / free
    variance = error * direction @ np.linalg.pinv(terms.T @ terms) @ direction
    return float(direction @ coefficients), float(stdtrit(free, 0.975) * np.sqrt(max(variance, 0.0)))


def _counts(study: Study, compared: pd.DataFrame, axis: Axis, end: str) -> bool:
    """Tell whether the compared epoch is late enough and the complete trials do not contradict its losses."""
    epoch = compared[EPOCH].iloc[0]
    if epoch == study.max_epochs:
        return True
    whole = complete_trials(study)
    places = pd.Series(axis.place(whole[axis.name]), whole.index)
    losses = study.losses(whole).rank()
    order = (places if end == HIGH else -places).rank().corr(losses) if len(whole) >= _FEW else -1.0
    return bool(epoch >= LATE * study.max_epochs and order < 0)


def _crowds(best: Any, tried: Any) -> bool:
    """Tell whether the best trials crowd at an end, given their and all trials' distances to it."""
    crowded = best[0] < _OUTER or np.mean(best < _CROWDED) >= 0.5
    beyond = (tried < best.min()).sum()
    return bool(crowded and (best.min() < _CLOSE or beyond < _FEW))


def _can_be_widened(study: Study, axis: Axis, end: str) -> bool:
    """Tell whether a trial may have a value beyond an end of a range."""
    step = 1 if axis.whole else 0.01 * (axis.low if axis.scale == "log" else axis.high - axis.low)
    beyond: Any = axis.low - step if end == LOW else axis.high + step
    try:
        with_values(study.reference, {axis.name: beyond})
    except UsageError:
        return False
    return True
