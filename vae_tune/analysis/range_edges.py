"""Whether a range of the search space ends too soon: where the best trials lie, and whether the loss still falls.

That the best trials lie at an end may be chance, or the work of other hyperparameters. So a surface is fitted to the
losses of all trials that can be compared, and an end counts as too narrow only where it still falls there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from vae_tune.analysis.hyperparameters import Axis, axes, comparable
from vae_tune.analysis.study import Study
from vae_tune.config.names import (
    BEST,
    COMPLETE,
    CROWDED,
    EDGE,
    EPOCH,
    EPOCHS,
    FALL,
    FROM,
    HIGH,
    HYPERPARAMETER,
    LEAST,
    LOW,
    MOST,
    PLACE,
    STATE,
    TO,
    TRIALS,
    VAL_LOSS,
)
from vae_tune.config.settings import UsageError

Array = npt.NDArray[np.float64]

LATE = 0.3
"""Of the epochs of a whole trial: earlier losses were seen to say little of the last ones' order."""
_OUTER = 0.1  # of a range: where a winner is said to be at the edge
_CROWDED = 0.2  # of a range: where half of the best trials are said to crowd at the edge
_CLOSE = 0.05  # of a range: no room left beyond the best trials
_FEW = 3  # trials from which on their fate says something
_TENTH = 0.1  # of a range, for which a fall is told
_OFF = -0.5  # place of what no log range has, such as 0
_SPARE = 3  # degrees of freedom that a fit leaves for its error


@dataclass(frozen=True)
class Fall:
    """By how much the loss falls towards an end of a range, at that end: nats per image for a tenth of the range."""

    nats: float
    low: float
    high: float
    """Ends of the 95 % interval."""


def best_trials(study: Study) -> pd.DataFrame:
    """Return the best quarter of the trials that can be compared (at least 5 of them), the best first.

    See :func:`vae_tune.analysis.hyperparameters.comparable` for which these are and for the columns.
    """
    trials = comparable(study).sort_values(VAL_LOSS, ignore_index=True)
    return trials.head(max(5, len(trials) // 4))


def edges(study: Study) -> pd.DataFrame:
    """Return where in each range the best trials are, and whether it is too narrow.

    Places are shares of the range, on its own scale: 0 is its lower end, 1 its upper end. The best trials crowd at an
    end where the best one lies in the outer tenth, or at least half of them in the outer fifth; but not where there is
    room left beyond all of them (a twentieth of the range) in which 3 or more trials were tried, nor where no trial
    can lie beyond, such as below one layer. Such a range is too narrow where, besides, the loss still falls at the
    end, by more than its 95 % interval (see :func:`fall`), the trials are compared late enough (from 3 tenths of the
    epochs on), and the complete trials do not say the contrary.

    Returns:
        One row per hyperparameter with a range: hyperparameter, low and high (of the range), best (the best trial's
        value), place (the best trial's), from and to (places of the lowest and the highest of the best trials),
        crowded (low or high where they crowd, else empty), edge (the same where the range is too narrow, else empty),
        fall (nats per image for a tenth of the range, at the crowded end) with least and most of its 95 % interval,
        trials that were compared, epoch at which. No rows where fewer than 10 trials can be compared.
    """
    compared, top, rows = comparable(study), best_trials(study), []
    for axis in axes(study).values():
        if axis.scale == "category" or top.empty:
            continue
        values = top[axis.name].to_numpy(np.float64)
        places, tried = axis.place(values), axis.place(study.trials[axis.name].dropna())
        ends = {LOW: (places, tried), HIGH: (1 - places, 1 - tried)}
        narrow = [end for end in ends if _crowds(*ends[end]) and _goes_on(study, axis, end)]
        crowded = min(narrow, key=lambda end: ends[end][0][0], default="")
        found = fall(study, compared, axis.name, crowded) if crowded else None
        edge = crowded if found and found.low > 0 and _holds(study, compared, axis, crowded) else ""
        told = (np.nan,) * 3 if found is None else (found.nats, found.low, found.high)
        where = (axis.low, axis.high, values[0], places[0], places.min(), places.max(), crowded, edge)
        rows.append((axis.name, *where, *told, len(compared), compared[EPOCH].iloc[0]))
    columns = [HYPERPARAMETER, LOW, HIGH, BEST, PLACE, FROM, TO, CROWDED, EDGE, FALL, LEAST, MOST, TRIALS, EPOCH]
    return pd.DataFrame(rows, columns=columns)


def fall(study: Study, trials: pd.DataFrame, name: str, end: str) -> Fall | None:
    """Return by how much the loss falls towards an end of a range, by a surface fitted to ``trials``.

    The surface is a sum of parabolas, one for each range, and of a level for each choice. What a parabola does at its
    end depends on its form: so a cubic in place of the range's own parabola must fall there too, by half of its own
    interval at least.

    Args:
        study: the study.
        trials: what :func:`vae_tune.analysis.hyperparameters.comparable` returned.
        name: a hyperparameter with a range.
        end: low or high.

    Returns:
        None where there are too few trials for the surface, or where the cubic does not fall.
    """
    own, losses, others = np.empty(0), trials[VAL_LOSS].to_numpy(np.float64), []
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
    falls, half = -parabola[0], parabola[1]
    return Fall(falls * _TENTH, (falls - half) * _TENTH, (falls + half) * _TENTH)


def slope(x: Array, y: Array) -> tuple[float, float]:
    """Return the slope of a least-squares line, and half of its 95 % interval (Student's t): of 3 points or more."""
    found = _fitted(np.column_stack([np.ones(len(x)), x]), y, {1: 1.0}, spare=1)
    assert found is not None
    return found


def _fitted(terms: Array, losses: Array, weights: dict[int, float], spare: int = _SPARE) -> tuple[float, float] | None:
    """Return a weighted sum of a least-squares fit's coefficients, and half of its 95 % interval (Student's t)."""
    free = len(losses) - int(np.linalg.matrix_rank(terms)) if len(losses) else 0
    if free < spare:
        return None
    coefficients = np.linalg.lstsq(terms, losses, rcond=None)[0]
    direction = np.zeros(terms.shape[1])
    direction[list(weights)] = list(weights.values())
    error = ((losses - terms @ coefficients) ** 2).sum() / free
    variance = error * direction @ np.linalg.pinv(terms.T @ terms) @ direction
    return float(direction @ coefficients), float(stdtrit(free, 0.975) * np.sqrt(max(variance, 0.0)))


def _holds(study: Study, compared: pd.DataFrame, axis: Axis, end: str) -> bool:
    """Tell whether losses of that epoch count, and whether the complete trials do not contradict them."""
    epoch = compared[EPOCH].iloc[0]
    if epoch == study.max_epochs:
        return True
    whole = study.trials[(study.trials[STATE] == COMPLETE) & (study.trials[EPOCHS] == study.max_epochs)]
    places = pd.Series(axis.place(whole[axis.name]), whole.index)
    order = (places if end == HIGH else -places).rank().corr(whole[VAL_LOSS].rank()) if len(whole) >= _FEW else -1.0
    return bool(epoch >= LATE * study.max_epochs and order < 0)


def _crowds(best: Any, tried: Any) -> bool:
    """Tell whether the best trials crowd at an end, from their and all trials' distances to it."""
    crowded = best[0] < _OUTER or np.mean(best < _CROWDED) >= 0.5
    beyond = (tried < best.min()).sum()
    return bool(crowded and (best.min() < _CLOSE or beyond < _FEW))


def _goes_on(study: Study, axis: Axis, end: str) -> bool:
    """Tell whether there is anything beyond an end of a range."""
    step = 1 if axis.whole else 0.01 * (axis.low if axis.scale == "log" else axis.high - axis.low)
    beyond: Any = axis.low - step if end == LOW else axis.high + step
    try:
        replace(study.reference, **{axis.name: beyond})
    except UsageError:
        return False
    return True
