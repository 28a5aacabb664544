"""How good searches are, by the trials that they train to the end.

A search's *incumbent* is the best trial trained to the end so far. It is *near* the best once its loss is within a
given distance, by default 1 % of the span of the table: from the best to the median loss at the last epoch. A search
that never comes near counts with the epochs, or the seconds, at which it ends. Before the first complete trial, the
incumbent counts as the median of the table. Intervals are 95 %, from a bootstrap over searches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from peer_clock import Epoch

Array = npt.NDArray[np.float64]
Axis = Literal["epochs", "seconds"]
SHARE = 0.01  # of the span
_RESAMPLES = 1000


@dataclass(frozen=True)
class Search:
    """What a search reached."""

    completed: Sequence[tuple[int, float, float]]
    """Each trial trained to the end: epochs of all trials by then, simulated seconds, loss; in the order of time."""
    epochs: int
    seconds: float
    trials: int

    @classmethod
    def of(cls, log: Sequence[Epoch], max_epochs: int) -> Search:
        """Return the results of a log; a loss that is not finite is no result."""
        completed = [
            (spent, one.seconds, one.loss)
            for spent, one in enumerate(log, start=1)
            if one.epoch == max_epochs and np.isfinite(one.loss)
        ]
        return cls(completed, len(log), log[-1].seconds, len({one.trial for one in log}))


@dataclass(frozen=True)
class Scale:
    """Losses at the last epoch by which searches on a table are judged."""

    best: float
    median: float
    near: float
    """The highest loss that is near the best."""

    @classmethod
    def of(cls, best: float, median: float, distance: float | None = None) -> Scale:
        """Return the scale on which losses up to ``distance`` above the best are near; by default 1 % of the span."""
        return cls(best, median, best + (SHARE * (median - best) if distance is None else distance))


def cost_to_near(search: Search, scale: Scale, axis: Axis) -> float:
    """Return when the incumbent came near the best; if never, when the search ended."""
    for spent, seconds, loss in search.completed:
        if loss <= scale.near:
            return spent if axis == "epochs" else seconds
    return search.epochs if axis == "epochs" else search.seconds


def is_near(search: Search, scale: Scale, epochs: float) -> bool:
    """Return whether the incumbent was near the best after so many epochs."""
    return any(loss <= scale.near for spent, _, loss in search.completed if spent <= epochs)


def regret(search: Search, scale: Scale, epochs: float) -> float:
    """Return the incumbent's loss after so many epochs, minus the best."""
    return min([scale.median, *(loss for spent, _, loss in search.completed if spent <= epochs)]) - scale.best


def interval(values: Sequence[float], statistic: Callable[..., Any] = np.median) -> tuple[float, float, float]:
    """Return a statistic and its 95 % percentile interval, which is NaN for a single value."""
    array = np.array(values, np.float64)
    if len(array) == 1:
        return float(array[0]), np.nan, np.nan
    resampled = statistic(array[_picks(len(array))], axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(statistic(array)), float(low), float(high)


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[float, float, float]:
    """Return the ratio of two medians over the seeds that both have, and its interval from resampled pairs."""
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = np.array([[ours[seed], theirs[seed]] for seed in seeds])
    value = np.median(pairs, axis=0)
    if len(seeds) == 1:
        return float(value[0] / value[1]), np.nan, np.nan
    medians = np.median(pairs[_picks(len(seeds))], axis=1)
    low, high = np.quantile(medians[:, 0] / medians[:, 1], [0.025, 0.975])
    return float(value[0] / value[1]), float(low), float(high)


def _picks(count: int) -> npt.NDArray[np.int64]:
    """Return resamples of ``count`` values as indices: (resamples, count)."""
    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
