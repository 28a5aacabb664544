"""The parts of a figure as plain dicts in plotly's schema (https://plotly.com/javascript/reference), without plotly.

The report passes them to plotly as they are, ``matplotlib_renderer`` draws them to files and in notebooks. Colors are
names with an ``@``, such as ``@complete``, for which the report has those of its light or dark theme. ``customdata``
holds trial numbers, by which the report finds a trial in every plot.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd

from vae_tune.analysis.axis_ranges import loss_range
from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.study import Study
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, REFERENCE_TRIAL, RUNNING, STATE, STATE_WORDS, TRIAL, VAL_LOSS
from vae_tune.views.figures.conventions import REFERENCE, WINNER, loss_title
from vae_tune.views.json_values import number, plain

Part = dict[str, Any]  # a trace, an axis, a shape or an annotation of plotly
View = tuple[float, float] | None

SYMBOLS = {PRUNED: "circle-open", FAIL: "x", RUNNING: "triangle-up", COMPLETE: "circle"}
"""By state, in the order in which trials are drawn: complete ones come last, on top."""
_RIMMED = 200  # points, which more are drawn faster without rims
_FEW = 10
_LABEL = {"size": 10, "color": "@soft"}
TRIAL_HOVER = "trial %{customdata}"
HOVER = f"{TRIAL_HOVER}<br>%{{xaxis.title.text}} %{{x:.5~g}}<br>%{{yaxis.title.text}} %{{y:.5~g}}"


@dataclass(frozen=True)
class Panel:
    """Two axes and what they show: a figure of plotly, and one of the panels of a figure of matplotlib."""

    x: Part
    y: Part
    data: list[Part]
    note: str = ""  # a sentence about this study
    wide: bool = False
    layout: Part = field(default_factory=dict)

    def figure(self) -> Part:
        """Return it for plotly."""
        for place, trace in enumerate(self.data):
            if not trace["name"] or trace["name"] in [other["name"] for other in self.data[:place]]:
                trace["showlegend"] = False
        legible = {"mode": "hide", "minsize": 9}  # a low bar shows its number on hover alone
        axes = {"xaxis": self.x, "yaxis": self.y}
        return {"data": self.data, "layout": {**axes, "barmode": "overlay", "uniformtext": legible, **self.layout}}

    def hidden(self) -> str:
        """Say how many trials have no point inside the first view; "" for none."""
        inside: dict[Any, bool] = {}
        for trace in self.data:
            if trace["type"] == "scatter" and "customdata" in trace and trace.get("visible", True):
                x, y = np.array(trace["x"], float), np.array(trace["y"], float)
                inner_x, inner_y = np.clip(x, *view_of(self.x)), np.clip(y, *view_of(self.y))
                shown = (inner_x == x) & ((inner_y == y) | ("yaxis" in trace))
                for trial, known, here in zip(trace["customdata"], ~np.isnan(x + y), shown, strict=True):
                    if known:
                        inside[trial] = inside.get(trial, False) or bool(here)
        count = list(inside.values()).count(False)
        return f"{count} {'trial lies' if count == 1 else 'trials lie'} outside this view." if count else ""


Panels = dict[str, Panel]  # by label; none where there is nothing to draw


@dataclass(frozen=True)
class Figure:
    """One figure of a study."""

    table: Callable[..., pd.DataFrame]
    panels: Callable[..., Panels]
    title: str
    reading: str
    """How to read the figure."""
    missing: str
    """The reason if there is nothing to draw."""


FIGURES: dict[str, Figure] = {}  # by the name of the table function


def figure(
    table: Callable[..., pd.DataFrame], title: str, reading: str, missing: str = "No trial has reported an epoch yet."
) -> Callable[[Callable[..., Panels]], Callable[..., Panels]]:
    """Add the decorated function, which describes the panels of a figure, to ``FIGURES``.

    It is given the study with its losses in the unit in which people are shown them.
    """

    def register(panels: Callable[..., Panels]) -> Callable[..., Panels]:
        @wraps(panels)
        def describe(study: Study, *options: Any, **named: Any) -> Panels:
            return panels(study.shown, *options, **named)

        FIGURES[table.__name__] = Figure(table, describe, title, reading, missing)
        return describe

    return register


def trial_points(study: Study, table: pd.DataFrame, x: str, y: str, hover: str = HOVER) -> list[Part]:
    """Return points for the trials of ``table``: a trace per state, one for the reference and one for the winner."""
    best, numbers = study.best_trial, table[TRIAL]
    special = numbers.isin([best, REFERENCE_TRIAL])
    groups = [(STATE_WORDS[state], (table[STATE] == state) & ~special, symbol, 7) for state, symbol in SYMBOLS.items()]
    groups += [(REFERENCE, (numbers == REFERENCE_TRIAL) & (numbers != best), "diamond", 9)]
    groups += [(WINNER, numbers == best, "star", 14)]
    return [points(name, table[own], x, y, name, mark, size, hover) for name, own, mark, size in groups if own.any()]


def points(
    name: str, table: pd.DataFrame, x: str, y: str, color: str, symbol: str, size: int = 5, hover: str = HOVER
) -> Part:
    """Return one point per row of ``table``."""
    marker: Part = {"color": f"@{color}", "symbol": symbol, "size": size}
    if len(table) <= _RIMMED and symbol != "circle-open":
        marker["line"] = {"width": 1, "color": "@card"}
    where = {"x": plain(table[x]), "y": plain(table[y]), "customdata": plain(table[TRIAL])}
    how = {"mode": "markers", "name": name, "marker": marker, "hovertemplate": f"{hover}<extra></extra>"}
    return {"type": "scatter", **how, **where}


def curves(name: str, color: str, x: Any, y: Any, trials: Any, hover: str = HOVER, **style: Any) -> Part:
    """Return the lines of several trials as one trace, in which gaps separate them."""
    numbers = np.asarray(trials)
    starts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    x, y, numbers = (np.insert(np.asarray(values, float), starts, math.nan) for values in (x, y, numbers))
    known = {"customdata": plain(numbers), "hovertemplate": f"{hover}<extra></extra>"}
    return line(name, x, y, color, **style) | known


def line(name: str, x: Iterable[Any], y: Iterable[Any], color: str = "soft", opacity: float = 1, **style: Any) -> Part:
    """Return a line; ``style`` is plotly's: ``width``, ``dash`` (dash, dot) and ``shape`` (hv for steps)."""
    how = {"line": {"color": f"@{color}", "width": 1, **style}, "opacity": opacity, "hoverinfo": "skip"}
    return {"type": "scatter", "mode": "lines", "name": name, "x": plain(x), "y": plain(y), **how}


def special_lines(study: Study) -> dict[int, Part]:
    """Return the styles of the lines of the reference and of the winner, by trial."""
    lines: dict[int, Part] = {REFERENCE_TRIAL: {"name": REFERENCE, "color": REFERENCE, "width": 2, "dash": "dash"}}
    best = study.best_trial
    return lines if best is None else lines | {best: {"name": WINNER, "color": WINNER, "width": 3}}


def bars(name: str, color: str, x: Iterable[Any], y: Iterable[Any], **more: Any) -> Part:
    """Return bars, upright ones by default; ``more`` is plotly's."""
    marker = {"color": f"@{color}", "line": {"width": 0.5, "color": "@card"}}
    return {"type": "bar", "name": name, "marker": marker, "x": plain(x), "y": plain(y), "textposition": "none"} | more


def cells(x: Any, y: Any, z: Any, text: list[list[str]], title: str, limits: tuple[float, float], **more: Any) -> Part:
    """Return a grid of colored cells between the edges ``x`` and ``y``; ``z`` and ``text`` have one row per ``y``."""
    bar = {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    where = {"x": plain(x), "y": plain(y), "z": [plain(row) for row in z], "zmin": limits[0], "zmax": limits[1]}
    how = {"text": text, "texttemplate": "%{text}", "colorbar": bar, "hoverongaps": False, **more}
    return {"type": "heatmap", "name": "", **where, **how}


def rule(text: str = "", dash: str = "dot", **at: float) -> Part:
    """Return a line across the panel at an ``x`` or a ``y``, as a shape of plotly."""
    ((letter, place),) = at.items()
    other = "y" if letter == "x" else "x"
    ends = {f"{letter}0": place, f"{letter}1": place, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    words = {"text": text, "textposition": "end", "textangle": 0, "xanchor": "left", "font": _LABEL}
    stroke = {"color": "@soft", "width": 1, "dash": dash}
    return {"type": "line", "layer": "below", "line": stroke, "label": words, **ends}


def label(text: str, x: float, y: float, **more: Any) -> Part:
    """Return words to the right of a point, as an annotation; with the logarithm of its place on a log axis."""
    how = {"showarrow": False, "xanchor": "left", "yanchor": "middle", "font": _LABEL, **more}
    return {"text": html.escape(text, quote=False), "x": number(x), "y": number(y), **how}


def axis(
    title: str, view: View = None, ticks: Mapping[float, str] | None = None, *, log: bool = False, whole: bool = False
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


def named_axis(names: Iterable[Any]) -> Part:
    """Return an axis with a name at 0, 1, 2 ..."""
    ticks = {float(number): str(name) for number, name in enumerate(names)}
    return axis("", (-0.6, len(ticks) - 0.4), ticks)


def view_of(drawn: Part) -> tuple[float, float]:
    """Return both ends of the first view of an axis, infinite where it has none."""
    low, high = drawn.get("range", (-math.inf, math.inf))
    return (10**low, 10**high) if drawn.get("type") == "log" else (low, high)


def loss_axis(table: pd.DataFrame, title: str, column: str = VAL_LOSS, *, maximize: bool = False) -> Part:
    """Return an axis of losses that begins with the view of :func:`vae_tune.analysis.axis_ranges.loss_range`."""
    return axis(title, loss_range(table[column], table[STATE], maximize=maximize))


def ranked_axis(study: Study, table: pd.DataFrame) -> Part:
    """Return an axis of what ranks the trials of a study that is shown."""
    return loss_axis(table, loss_title(study), study.ranking.name, maximize=study.ranking.maximize)


def hyperparameter_axis(known: Axis) -> Part:
    """Return the axis of a hyperparameter with its whole range in view."""
    if known.scale == "category":
        return named_axis(known.choices) | {"title": {"text": known.title}}
    low, high = float(known.low), float(known.high)
    if known.scale == "log":
        view = low * (low / high) ** 0.04, high * (high / low) ** 0.04
        return axis(known.title, view, known.ticks, log=True)
    return axis(known.title, (1.04 * low - 0.04 * high, 1.04 * high - 0.04 * low), whole=known.whole)
