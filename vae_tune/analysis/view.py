"""Which losses a figure shows at first: a plain range in which the good trials can be told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vae_tune.config.names import COMPLETE, STATE, TRIAL, VAL_LOSS

_ENOUGH = 3
_TELLING = 5  # losses of which a median says what is usual
_SHOWN = 0.95  # quantile
_FAR = 5  # times the median's distance from the lowest: what lies beyond is no reason to squeeze the others
_BELOW, _ABOVE, _MARGIN = 0.1, 0.3, 0.1  # of the span
_EDGE = 0.2  # of the range, above a curve that is all in view


def loss_range(losses: pd.Series[Any], states: pd.Series[Any]) -> tuple[float, float] | None:
    """Return the ends of an axis on which the trials that were trained in full are told apart.

    Losses of stopped trials are those of early epochs: with all of them in view the others would lie on one line. So
    the range goes from the lowest to a high quantile of the complete trials (of all, where fewer than 3 are complete),
    and no further than 5 times as far from the lowest as their median. See :func:`beyond` for what lies above.

    Args:
        losses: nats per image, or another number of each trial; those that are not finite do not count.
        states: the trials' states, with the same index.

    Returns:
        Low and high, low < high; None where there is no finite loss.
    """
    values = losses.replace([np.inf, -np.inf], np.nan).dropna()
    whole = values[states[values.index] == COMPLETE]
    good = whole if len(whole) >= _ENOUGH else values
    if values.empty:
        return None
    low, high = float(good.min()), float(good.quantile(_SHOWN))
    if len(good) >= _TELLING and (usual := float(good.median()) - low) > 0:
        high = min(high, low + _FAR * usual)
    span = high - low or 1.0
    return low - _BELOW * span, min(high + _ABOVE * span, float(values.max()) + _MARGIN * span)


def curve_range(curves: pd.DataFrame, winner: int | None) -> tuple[float, float] | None:
    """Return :func:`loss_range` of the ends of learning curves, with the whole curve of the winner in view.

    Args:
        curves: one row per report, by trial and epoch: trial, state, val_loss in nats per image.
        winner: its number, or None.
    """
    ends = curves.drop_duplicates(TRIAL, keep="last")
    view, own = loss_range(ends[VAL_LOSS], ends[STATE]), curves.loc[curves[TRIAL] == winner, VAL_LOSS]
    if view is None or own.empty:
        return view
    low, high = view
    return low, max(high, float(own.max()) + _EDGE * (float(own.max()) - low))


def beyond(losses: pd.Series[Any], view: tuple[float, float]) -> int:
    """Return how many finite losses lie outside of a view."""
    return int((np.isfinite(losses) & ~losses.between(*view)).sum())


def beyond_words(count: int) -> str:
    """Return what a figure says of the trials that lie outside of its view; "" for none."""
    return f"{count} {'trial lies' if count == 1 else 'trials lie'} outside this view" if count else ""
