"""Parts of plotly figures as plain dicts: traces of trials, axes, numbers that cost few bytes."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.study import Study
from vae_tune.analysis.view import loss_range
from vae_tune.config.names import (
    COMPLETE,
    EPOCH,
    FAIL,
    PRUNED,
    REFERENCE_TRIAL,
    RUNNING,
    STATE,
    STATE_WORDS,
    TRIAL,
    VAL_LOSS,
)
from vae_tune.views.figures.conventions import LOSS, REFERENCE, WINNER

Figure = dict[str, Any]

STATES = (PRUNED, FAIL, RUNNING, COMPLETE)
"""In the order in which they are drawn: what matters most comes last, on top."""
COLOURS = {state: f"@{word}" for state, word in STATE_WORDS.items()}
_SYMBOLS = {COMPLETE: "circle", PRUNED: "circle", FAIL: "x", RUNNING: "triangle-up"}
_CROWD = 200
_FEW = 10


def figure(traces: Sequence[Any], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> Figure:
    """Return a figure with two axes."""
    return {"data": list(traces), "layout": {"xaxis": x, "yaxis": y, **layout}}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": title}, **more}


def loss_axis(table: pd.DataFrame, column: str = VAL_LOSS, title: str = LOSS) -> dict[str, Any]:
    """Return a plain axis that begins with the view of :func:`loss_range`; a double click shows all."""
    return viewed(loss_range(table[column], table[STATE]), title)


def viewed(view: tuple[float, float] | None, title: str = LOSS) -> dict[str, Any]:
    """Return an axis that begins with a view, if there is one."""
    return axis(title) if view is None else axis(title, range=plain(view))


def out_of_view(drawn: Figure) -> int:
    """Return how many of a figure's trials have no point inside of the ranges with which its axes begin."""
    x, y = (drawn["layout"][name].get("range", (-math.inf, math.inf)) for name in ("xaxis", "yaxis"))
    inside: dict[int, bool] = {}
    for trace in (trace for trace in drawn["data"] if trace.get("visible", True)):
        places = zip(trace.get("x", ()), trace.get("y", ()), trace.get("customdata", ()), strict=False)
        for here, there, trial in places if trace["type"] == "scatter" else ():
            if isinstance(trial, int) and here is not None and there is not None:
                shown = trace.get("yaxis") or (_within(here, x) and _within(there, y))
                inside[trial] = inside.get(trial, False) or bool(shown)
    return sum(not seen for seen in inside.values())


def _within(value: Any, view: Sequence[float]) -> bool:
    """Tell whether a number lies in a view; a category always does."""
    return not isinstance(value, int | float) or view[0] <= value <= view[1]


def parameter_axis(known: Axis) -> dict[str, Any]:
    """Return the axis of a hyperparameter over its range."""
    if known.scale == "category":
        return axis(known.title, type="category", categoryarray=[category(choice) for choice in known.choices])
    if known.scale == "log":
        return axis(known.title, type="log", **log_ticks(known.low, known.high))
    few = known.whole and known.high - known.low <= _FEW
    return axis(known.title, dtick=1) if few else axis(known.title)


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Return ticks that read well on a log axis: 1, 2, 5 of each decade where these are few, else the decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low * 0.7 <= tick <= high * 1.4]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def trials(study: Study, table: pd.DataFrame, x: str, y: str) -> list[Any]:
    """Return a trace of points per state, one for the reference and one for the winner, which carry their names."""
    best = study.best_trial
    traces = []
    for state in STATES:
        part = table[(table[STATE] == state) & ~table[TRIAL].isin([best, REFERENCE_TRIAL])]
        if len(part):
            traces.append(points(part, x, y, STATE_WORDS[state], COLOURS[state], symbol=_SYMBOLS[state], opacity=0.75))
    reference = table[table[TRIAL] == REFERENCE_TRIAL]
    if len(reference) and best != REFERENCE_TRIAL:
        traces.append(points(reference, x, y, REFERENCE, "@reference", symbol="diamond", size=10))
    if (table[TRIAL] == best).any():
        traces.append(points(table[table[TRIAL] == best], x, y, WINNER, "@winner", symbol="star", size=14))
    return traces


def points(
    table: pd.DataFrame, x: str, y: str, name: str, colour: str, symbol: str = "circle", size: int = 7, **more: Any
) -> dict[str, Any]:
    """Return a trace of points, one a row, that know their trials."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": plain(table[x]),
        "y": plain(table[y]),
        "customdata": plain(table[TRIAL]),
        "hovertemplate": f"trial %{{customdata}}<br>{x} %{{x:.5~g}}<br>{y} %{{y:.5~g}}<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": size, **_rim(len(table))},
        **more,
    }


def elsewhere(table: pd.DataFrame, x: str, y: str) -> dict[str, Any]:
    """Return the places of trials that a figure does not draw; the page shows that of a trial that is chosen."""
    where = {"x": plain(table[x]), "y": plain(table[y]), "customdata": plain(table[TRIAL])}
    return {"type": "scatter", "visible": False, **where}


def category(value: Any) -> str:
    """Return a choice or a worker's name so that plotly shows it as it is: it reads HTML."""
    return html.escape(str(value), quote=False)


def _rim(count: int) -> dict[str, Any]:
    """Return a rim that tells neighbours apart; a crowd is drawn faster without."""
    return {"line": {"width": 1, "color": "@card"}} if count <= _CROWD else {}


def curves(table: pd.DataFrame, name: str, colour: str, width: float, dash: str = "solid") -> dict[str, Any]:
    """Return the learning curves of ``table`` (by trial and epoch) as one trace, in which a gap parts the trials."""
    last = table[TRIAL].ne(table[TRIAL].shift(-1)).to_numpy()
    gaps = np.flatnonzero(last)[:-1] + 1
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": _parted(table[EPOCH], gaps),
        "y": _parted(table[VAL_LOSS], gaps),
        "customdata": _parted(table[TRIAL], gaps),
        "hovertemplate": "trial %{customdata}<br>epoch %{x}: %{y:.2f}<extra></extra>",
        "line": {"color": colour, "width": width, "dash": dash},
    }


def line(x: Iterable[Any], y: Iterable[Any], name: str, **style: Any) -> dict[str, Any]:
    """Return a line that stands for no trial."""
    where = {"x": plain(x), "y": plain(y), "line": {"color": "@soft", "width": 2, **style}}
    return {"type": "scatter", "mode": "lines", "name": name, "hoverinfo": "skip", **where}


def plain(values: Iterable[Any]) -> list[Any]:
    """Return values as JSON takes them, see :func:`number`."""
    return [number(value) for value in values]


def number(value: Any) -> Any:
    """Return a number with six digits, None where it is not finite; anything else as text, but None as None."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, bool | np.bool_ | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return str(value)


def _parted(values: pd.Series[Any], gaps: Any) -> list[Any]:
    parted = plain(values)
    for gap in reversed(gaps):
        parted.insert(gap, None)
    return parted
