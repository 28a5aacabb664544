"""Ranges and ticks of axes: by default, a figure shows the losses that separate the good trials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from vae_tune.config.names import COMPLETE, STATE, TRIAL, VAL_LOSS

_MIN_COMPLETE = 3
_MIN_FOR_MEDIAN = 5
_SHOWN = 0.95  # quantile
_FAR = 5  # times the distance of the median from the lowest: losses beyond would squeeze the others
_BELOW, _ABOVE, _MARGIN = 0.1, 0.3, 0.1  # of the span
_EDGE = 0.2  # of the range, above a curve that is all in view


def loss_range(
    losses: pd.Series[Any], states: pd.Series[Any], *, maximize: bool = False
) -> tuple[float, float] | None:
    """Return the ends of an axis on which the fully trained trials can be told apart.

    Losses of stopped trials are from early epochs: with all of them in view the others would lie on one line. So the
    range goes from the lowest to a high quantile of the complete trials (of all, where fewer than 3 are complete),
    and no further than 5 times as far from the lowest as their median. ``states`` have the index of ``losses``, of
    which those that are not finite do not count. With ``maximize``, the highest values are the best ones.

    Returns:
        Low and high, low < high; None where there is no finite loss.
    """
    if maximize:
        mirrored = loss_range(-losses, states)
        return None if mirrored is None else (-mirrored[1], -mirrored[0])
    values = losses.replace([np.inf, -np.inf], np.nan).dropna()
    whole = values[states[values.index] == COMPLETE]
    good = whole if len(whole) >= _MIN_COMPLETE else values
    if values.empty:
        return None
    low, high = float(good.min()), float(good.quantile(_SHOWN))
    if len(good) >= _MIN_FOR_MEDIAN and (usual := float(good.median()) - low) > 0:
        high = min(high, low + _FAR * usual)
    span = high - low or 1.0
    return low - _BELOW * span, min(high + _ABOVE * span, float(values.max()) + _MARGIN * span)


def curve_range(
    curves: pd.DataFrame, winner: int | None, column: str = VAL_LOSS, *, maximize: bool = False
) -> tuple[float, float] | None:
    """Return :func:`loss_range` of the ends of learning curves, with the whole curve of the winner in view.

    ``curves`` has one row per report, by trial and epoch, as of :func:`vae_tune.analysis.progress.learning_curves`.
    """
    if maximize:
        mirrored = curve_range(curves.assign(**{column: -curves[column]}), winner, column)
        return None if mirrored is None else (-mirrored[1], -mirrored[0])
    ends = curves.drop_duplicates(TRIAL, keep="last")
    view, own = loss_range(ends[column], ends[STATE]), curves.loc[curves[TRIAL] == winner, column]
    if view is None or own.empty:
        return view
    low, high = view
    return low, max(high, float(own.max()) + _EDGE * (float(own.max()) - low))


def log_ticks(low: float, high: float) -> dict[float, str]:
    """Return ticks for a log axis: the decades, with 2 and 5 times them if these are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in ((1, 2, 5) if high / low < 1000 else (1,))]
    shown = {tick: _short(tick) for tick in ticks if low * 0.999 <= tick <= high * 1.001}
    return shown if len(shown) > 2 else round_ticks(low, high, count=8)


def round_ticks(low: float, high: float, whole: bool = False, count: int = 5) -> dict[float, str]:
    """Return about ``count`` round numbers between ``low`` and ``high``."""
    if high <= low:
        return {low: _short(low)}
    rough = max((high - low) / count, 1 if whole else 0)
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= rough)
    ticks = (step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1))
    return {tick: _short(tick) for tick in ticks}


def _short(value: float) -> str:
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= max(unit, 1e4):
            return f"{value / unit:g}{suffix}"
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 0.01 else f"{value:g}"
