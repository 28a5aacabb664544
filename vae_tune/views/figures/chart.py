"""The parts of a figure as plotly JSON, and the catalogue of all figures.

Each figure is described once, as plain dicts in plotly's schema (https://plotly.com/javascript/reference), without an
import of plotly. The report passes them to plotly as they are; ``matplotlib_renderer`` draws them to files and in
notebooks. Colours are names with an ``@``, such as ``@complete``, for which the report has those of its light or dark
theme. ``customdata`` holds trial numbers, by which the report finds a trial in every plot.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.study import Study
from vae_tune.analysis.view import log_ticks, loss_range
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, REFERENCE_TRIAL, RUNNING, STATE, STATE_WORDS, TRIAL, VAL_LOSS
from vae_tune.views.figures.conventions import LOSS, REFERENCE, WINNER

Part = dict[str, Any]
"""A trace, an axis, a shape or an annotation of plotly."""

SYMBOLS = {PRUNED: "circle-open", FAIL: "x", RUNNING: "triangle-up", COMPLETE: "circle"}
"""By state, in the order in which trials are drawn: complete ones come last, on top."""
ROW = 32
"""Pixels of a row of horizontal bars."""
_FRAME = 100  # pixels around rows
_RIMMED = 200  # points, which more are drawn faster without rims
_FEW = 10
_HOVER = "trial %{customdata}<br>%{xaxis.title.text} %{x:.5~g}<br>%{yaxis.title.text} %{y:.5~g}"


@dataclass(frozen=True)
class Panel:
    """Two axes and what they show: a figure of plotly, and one of the panels of a figure of matplotlib."""

    x: Part
    y: Part
    data: list[Part]
    note: str = ""
    """A sentence about this study."""
    wide: bool = False
    layout: Part = field(default_factory=dict)

    def figure(self) -> Part:
        """Return it for plotly."""
        for number, trace in enumerate(self.data):
            if not trace["name"] or trace["name"] in [other["name"] for other in self.data[:number]]:
                trace["showlegend"] = False
        return {"data": self.data, "layout": {"xaxis": self.x, "yaxis": self.y, "barmode": "overlay", **self.layout}}

    def hidden(self) -> str:
        """Say how many trials have no point inside the first view; "" for none."""
        inside: dict[Any, bool] = {}
        for trace in self.data:
            if trace["type"] == "scatter" and "customdata" in trace and trace.get("visible", True):
                x, y = np.array(trace["x"], float), np.array(trace["y"], float)
                shown = within(self.x, x) & (within(self.y, y) | ("yaxis" in trace))
                for trial, known, here in zip(trace["customdata"], ~np.isnan(x + y), shown, strict=True):
                    if known:
                        inside[trial] = inside.get(trial, False) or bool(here)
        count = list(inside.values()).count(False)
        return f"{count} {'trial lies' if count == 1 else 'trials lie'} outside this view." if count else ""


Panels = dict[str, Panel]
"""By label; none where there is nothing to draw."""


@dataclass(frozen=True)
class Figure:
    """One figure of a study."""

    table: Callable[..., pd.DataFrame]
    panels: Callable[..., Panels]
    title: str
    reading: str
    """What is shown and how to read it."""
    missing: str
    """What a study lacks if there is nothing to draw."""


FIGURES: dict[str, Figure] = {}
"""By the name of the table function, once :mod:`vae_tune.views.figures.catalogue` is imported."""


def figure(
    table: Callable[..., pd.DataFrame], title: str, reading: str, missing: str = "No trial has reported an epoch yet."
) -> Callable[[Callable[..., Panels]], Callable[..., Panels]]:
    """Add the decorated function, which describes the panels of a figure, to ``FIGURES``."""

    def register(panels: Callable[..., Panels]) -> Callable[..., Panels]:
        FIGURES[table.__name__] = Figure(table, panels, title, reading, missing)
        return panels

    return register


def trial_points(study: Study, table: pd.DataFrame, x: str, y: str, hover: str = _HOVER) -> list[Part]:
    """Return points for the trials of ``table``: a trace per state, one for the reference and one for the winner."""
    best, numbers = study.best_trial, table[TRIAL]
    special = numbers.isin([best, REFERENCE_TRIAL])
    groups = [(STATE_WORDS[state], (table[STATE] == state) & ~special, symbol, 6) for state, symbol in SYMBOLS.items()]
    groups += [(REFERENCE, (numbers == REFERENCE_TRIAL) & (numbers != best), "diamond", 9)]
    groups += [(WINNER, numbers == best, "star", 14)]
    return [
        points(name, table[own], x, y, name, symbol, size, hover) for name, own, symbol, size in groups if own.any()
    ]


def points(
    name: str, table: pd.DataFrame, x: str, y: str, colour: str, symbol: str, size: int = 6, hover: str = _HOVER
) -> Part:
    """Return one point per row of ``table``."""
    marker: Part = {"color": f"@{colour}", "symbol": symbol, "size": size}
    if len(table) <= _RIMMED and not symbol.endswith("-open"):
        marker["line"] = {"width": 1, "color": "@card"}
    return {"type": "scatter", "mode": "markers", "name": name, "marker": marker, **_places(table, x, y, hover)}


def unseen(table: pd.DataFrame, x: str, y: str) -> Part:
    """Return the places of trials that are not drawn; the report shows that of a trial that is chosen."""
    return {"type": "scatter", "name": "", "visible": False, **_places(table, x, y, "")}


def _places(table: pd.DataFrame, x: str, y: str, hover: str) -> Part:
    where = {"x": plain(table[x]), "y": plain(table[y]), "customdata": plain(table[TRIAL])}
    return where | ({"hovertemplate": f"{hover}<extra></extra>"} if hover else {})


def curves(name: str, colour: str, x: Any, y: Any, trials: Any, hover: str = _HOVER, **style: Any) -> Part:
    """Return the lines of several trials as one trace, in which gaps separate them."""
    numbers = np.asarray(trials)
    starts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    x, y, numbers = (np.insert(np.asarray(values, float), starts, math.nan) for values in (x, y, numbers))
    return line(name, x, y, colour, **style) | {
        "customdata": plain(numbers),
        "hovertemplate": f"{hover}<extra></extra>",
    }


def line(
    name: str, x: Iterable[Any], y: Iterable[Any], colour: str = "soft", opacity: float = 1, **style: Any
) -> Part:
    """Return a line; ``style`` is plotly's: ``width``, ``dash`` (dash, dot) and ``shape`` (hv for steps)."""
    how = {"line": {"color": f"@{colour}", "width": 1, **style}, "opacity": opacity, "hoverinfo": "skip"}
    return {"type": "scatter", "mode": "lines", "name": name, "x": plain(x), "y": plain(y), **how}


def special_lines(study: Study) -> dict[int, Part]:
    """Return the styles of the lines of the reference and of the winner, by trial."""
    lines: dict[int, Part] = {REFERENCE_TRIAL: {"name": REFERENCE, "colour": REFERENCE, "width": 2, "dash": "dash"}}
    best = study.best_trial
    return lines if best is None else lines | {best: {"name": WINNER, "colour": WINNER, "width": 3}}


def bars(name: str, colour: str, x: Iterable[Any], y: Iterable[Any], **more: Any) -> Part:
    """Return bars, upright ones by default; ``more`` is plotly's."""
    marker = {"color": f"@{colour}", "line": {"width": 0.5, "color": "@card"}}
    return {"type": "bar", "name": name, "marker": marker, "x": plain(x), "y": plain(y), "textposition": "none"} | more


def cells(x: Any, y: Any, z: npt.NDArray[Any], texts: list[list[str]], title: str, **more: Any) -> Part:
    """Return a grid of coloured cells between the edges ``x`` and ``y``; ``z`` and ``texts`` have a row per ``y``."""
    bar = {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    how = {"text": texts, "texttemplate": "%{text}", "colorbar": bar, "hoverongaps": False, **more}
    return {"type": "heatmap", "name": "", "x": plain(x), "y": plain(y), "z": [plain(row) for row in z], **how}


def rows(names: Sequence[str], *, least: int = 0) -> tuple[Part, Part]:
    """Return the axis of named rows, the first at the bottom, and the layout with their height."""
    return axis("", (-0.6, len(names) - 0.4), dict(enumerate(names))), {
        "height": max(least, _FRAME + ROW * len(names))
    }


def rule(text: str = "", dash: str = "dot", **at: float) -> tuple[Part, Part]:
    """Return a line across the panel at an ``x`` or a ``y``, as a shape, and its label, as an annotation."""
    ((letter, place),) = at.items()
    other = "y" if letter == "x" else "x"
    ends = {f"{letter}0": place, f"{letter}1": place, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    shape = {"type": "line", "layer": "below", "line": {"color": "@soft", "width": 1, "dash": dash}, **ends}
    return shape, label(text, place, 1, yref="paper", yanchor="top")


def label(text: str, x: float, y: float, **more: Any) -> Part:
    """Return words to the right of a point; on a log axis plotly wants the logarithm of the place."""
    how = {"showarrow": False, "xanchor": "left", "yanchor": "middle", "font": {"size": 10, "color": "@soft"}, **more}
    return {"text": html.escape(text, quote=False), "x": number(x), "y": number(y), **how}


def axis(
    title: str,
    view: tuple[float, float] | None = None,
    ticks: Mapping[Any, str] | None = None,
    *,
    log: bool = False,
    whole: bool = False,
) -> Part:
    """Return an axis that begins with a ``view``; ``ticks`` are labels by place, ``whole`` allows no fractions."""
    drawn: Part = {"title": {"text": title}} | ({"type": "log"} if log else {})
    if view is not None:
        drawn["range"] = plain(map(math.log10, view) if log else view)
        drawn |= {"dtick": 1} if whole and view[1] - view[0] <= _FEW else {}
    if ticks is not None:
        texts = [html.escape(text, quote=False) for text in ticks.values()]
        drawn |= {"tickvals": plain(ticks), "ticktext": texts, "showgrid": log, "zeroline": False}
    return drawn


def view_of(drawn: Part) -> tuple[float, float]:
    """Return both ends of the first view of an axis, infinite where it has none."""
    low, high = drawn.get("range", (-math.inf, math.inf))
    return (10**low, 10**high) if drawn.get("type") == "log" else (low, high)


def within(drawn: Part, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which values lie inside the first view of an axis."""
    low, high = view_of(drawn)
    return np.asarray((values >= low) & (values <= high))


def loss_axis(table: pd.DataFrame, column: str = VAL_LOSS, title: str = LOSS) -> Part:
    """Return an axis that begins with the view of :func:`vae_tune.analysis.view.loss_range`."""
    return axis(title, loss_range(table[column], table[STATE]))


def hyperparameter_axis(known: Axis, values: Sequence[Any] = ()) -> Part:
    """Return the axis of a hyperparameter with its whole range and all ``values`` in view."""
    if known.scale == "category":
        names = known.options(values)
        return axis(known.title, (-0.6, len(names) - 0.4), {place: str(name) for place, name in enumerate(names)})
    log = known.scale == "log"
    numbers = [
        known.low,
        known.high,
        *(float(value) for value in values if pd.notna(value) and (value > 0 or not log)),
    ]
    low, high = float(min(numbers)), float(max(numbers))
    if log:
        return axis(
            known.title, (low * (low / high) ** 0.04, high * (high / low) ** 0.04), log_ticks(low, high), log=True
        )
    return axis(known.title, (1.04 * low - 0.04 * high, 1.04 * high - 0.04 * low), whole=known.whole)


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
        short = float(f"{value:.6g}") if math.isfinite(value) else None
        return int(short) if short is not None and short.is_integer() else short
    return str(value)
