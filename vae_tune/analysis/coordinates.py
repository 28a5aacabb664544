"""Parallel coordinates as plain lines, where plotly's own need WebGL and know neither logarithms nor themes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vae_tune.analysis import hyperparameters
from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.study import Study
from vae_tune.analysis.view import loss_range
from vae_tune.config.names import COMPLETE, EPOCHS, FAIL, STATE, TRIAL, VAL_LOSS
from vae_tune.views.figures.traces import Figure, category, figure, log_ticks, plain

_BINS = 4
_TICKS = 5
_MARGIN = 0.35
_ROOM = 0.06  # of an axis' height, between two ticks

Ticks = dict[float, str]
"""Places from 0 to 1, and what to write there."""


def parallel(study: Study, *, whole: bool) -> Figure | None:
    """Draw each configuration as a line across all hyperparameters to its loss; ``whole``: only of complete trials."""
    table = hyperparameters.parallel(study)
    drawn = table[VAL_LOSS].notna() & ((table[STATE] == COMPLETE) if whole else (table[STATE] != FAIL))
    if not drawn.any():
        return None
    columns = [_place(known, table[name]) for name, known in hyperparameters.axes(study).items()]
    names = [known.title for known in hyperparameters.axes(study).values()]
    if not whole:
        columns.append(_on_line(Axis(EPOCHS, "linear", 0, study.max_epochs), table[EPOCHS]))
        names.append(EPOCHS)
    columns.append(_losses(table[drawn], table[VAL_LOSS]))
    names.append(VAL_LOSS)
    places = np.column_stack([place for place, _ in columns])
    order = table[VAL_LOSS].where(drawn).rank(method="first").to_numpy()
    parts = np.ceil(order / drawn.sum() * _BINS)  # 1 holds the best, NaN what is not drawn
    best = (table[TRIAL] == study.best_trial).to_numpy()
    traces = [
        _lines(table[TRIAL][chosen], places[chosen], f"@scale-{part - 1}", 1)
        for part in range(_BINS, 0, -1)
        if (chosen := (parts == part) & ~best).any()
    ]
    if best.any():
        traces.append(_lines(table[TRIAL][best], places[best], "@winner", 3))
    if not drawn.all():
        traces.insert(0, _lines(table[TRIAL][~drawn], places[~drawn], "@pruned", 1) | {"visible": False})
    last = len(names) - 1
    x = {
        "range": [-_MARGIN / 2, last + _MARGIN],
        "showgrid": False,
        "fixedrange": True,
        "side": "top",
        "zeroline": False,
    }
    x |= {"tickvals": list(range(len(names))), "ticktext": names}
    y = {"range": [-0.03, 1.03], "visible": False, "fixedrange": True}
    return figure(traces, x, y, showlegend=False, shapes=_rulers(last), annotations=_labels([t for _, t in columns]))


def _lines(trials: pd.Series[Any], places: npt.NDArray[Any], colour: str, width: float) -> dict[str, Any]:
    """Return one trace of lines with gaps between them; ``places``: (trials, axes) from 0 to 1."""
    count, axes = places.shape
    gap = np.full((count, 1), np.nan)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*range(axes), None] * count,
        "y": plain(np.hstack([places, gap]).ravel()),
        "customdata": [number for trial in trials for number in (*[int(trial)] * axes, None)],
        "hovertemplate": "trial %{customdata}<extra></extra>",
        "line": {"color": colour, "width": width},
        "opacity": 0.8 if width == 1 else 1,
    }


def _rulers(last: int) -> list[dict[str, Any]]:
    line = {"color": "@soft", "width": 1}
    return [
        {"type": "line", "layer": "below", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": line}
        for place in range(last + 1)
    ]


def _labels(ticks: Sequence[Ticks]) -> list[dict[str, Any]]:
    return [
        {"x": axis, "y": place, "text": text, "xanchor": "left", "xshift": 3, "showarrow": False}
        | {"font": {"size": 10, "color": "@soft"}}
        for axis, labels in enumerate(ticks)
        for place, text in labels.items()
    ]


def _place(known: Axis, values: pd.Series[Any]) -> tuple[npt.NDArray[Any], Ticks]:
    """Return where on their axis the values of a hyperparameter lie, from 0 to 1, and the axis' ticks."""
    if known.scale == "category":
        names = list(dict.fromkeys(map(category, [*known.choices, *values])))  # a reference may lie outside
        step = 1 / max(1, len(names) - 1)
        places = np.array([names.index(category(value)) * step for value in values])
        return places, {index * step: name for index, name in enumerate(names)}
    shown = [value for value in values if value > 0 or known.scale == "linear"]
    return _on_line(replace(known, low=min([known.low, *shown]), high=max([known.high, *shown])), values)


def _on_line(known: Axis, values: pd.Series[Any]) -> tuple[npt.NDArray[Any], Ticks]:
    """Return where numbers lie on their axis, those beyond at its ends, and its ticks likewise."""
    low, high = known.low, known.high
    marks = log_ticks(low, high)["tickvals"] if known.scale == "log" else _steps(low, high, 1 if known.whole else 0)
    ticks = [mark for mark in marks if low <= mark <= high]
    labels = (f"{tick:g}" for tick in ticks)
    return np.clip(known.place(values), 0, 1), dict(zip(known.place(ticks).tolist(), labels, strict=True))


def _losses(table: pd.DataFrame, losses: pd.Series[Any]) -> tuple[npt.NDArray[Any], Ticks]:
    """Return the same for ``losses``, on the axis for those of ``table``; its upper end says so if more are beyond."""
    low, high = loss_range(table[VAL_LOSS], table[STATE]) or (0, 1)
    places, ticks = _on_line(Axis(VAL_LOSS, "linear", low, high), losses)
    if (table[VAL_LOSS] > high).any():
        ticks = {place: text for place, text in ticks.items() if place < 1 - _ROOM} | {1.0: f"{high:.4g}, more"}
    return places, ticks


def _steps(low: float, high: float, least: float) -> list[float]:
    """Return round numbers from ``low`` to ``high``, about ``_TICKS`` of them, not closer than ``least``."""
    if high <= low:
        return [low]
    rough = max((high - low) / _TICKS, least)
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= rough)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
