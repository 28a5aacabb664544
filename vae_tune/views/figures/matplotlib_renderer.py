"""Draws panels, which are plotly JSON, with matplotlib: for files and notebooks."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from vae_tune.views.figures.chart import Panel, Panels, Part, view_of
from vae_tune.views.figures.conventions import COLORS

_OWN = {"ink": "#222222", "soft": "#8A8A8A", "line": "#D9D9D9", "card": "#FFFFFF"}
_COLORS = {f"@{name}": color for name, color in (COLORS | _OWN).items()}
_MARKERS = {"circle": "o", "circle-open": "o", "x": "X", "triangle-up": "^", "diamond": "D", "star": "*"}
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_SMALL, _GRAY = 8.5, "#555555"


def draw(title: str, panels: Panels, missing: str) -> Figure:
    """Return a figure with all ``panels``, or one that says what is ``missing`` where there are none."""
    first = next(iter(panels.values()), Panel({}, {}, []))
    columns = 1 if first.wide else max(1, min(4, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    width = max(8.4, 1.5 * len(first.x.get("tickvals", ()))) if first.wide else max(6.4, 3.3 * columns + 1)
    height = first.layout["height"] / 90 + 0.5 if "height" in first.layout else 1.2 + max(3.2, 2.9 * rows)
    figure = Figure((width, height) if panels else (7.2, 2.2), 110, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_COLORS["@ink"])
    axes: list[Any] = list(figure.subplots(rows, columns, squeeze=False).flat)
    alike = len({panel.x["title"]["text"] for panel in panels.values()}) < len(panels)
    for number, (ax, (label, panel)) in enumerate(zip(axes, panels.items(), strict=False)):
        _panel(ax, panel)
        ax.set_title(label if alike else "", loc="left", fontsize=9.5, color=_GRAY)
        if number % columns and panel.y["title"] == first.y["title"]:
            ax.set_ylabel("")
            ax.tick_params(labelleft=panel.y != first.y)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    if not panels:
        axes[0].text(0.5, 0.5, missing, ha="center", va="center", fontsize=11, color=_GRAY, wrap=True)
    named: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)  # of a line and its points, the line
    if named:
        how: Any = {"loc": "outside lower center", "ncols": min(len(named), int(width / 1.3)), "frameon": False}
        legend: Any = figure.legend(named.values(), named, fontsize=_SMALL, **how)
        for handle in legend.legend_handles:
            handle.set_alpha(1)
    return figure


def as_text(name: str) -> str:
    """Return a text of plotly so that matplotlib draws it as it is.

    A name may hold dollar signs, which enclose formulas, or begin with an underscore, which hides it from legends.
    """
    text = html.unescape(name.replace("<br>", "\n")).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _panel(ax: Any, panel: Panel) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_COLORS["@soft"])
    ax.tick_params(colors="#444444", labelsize=_SMALL, which="both")
    ax.set_axisbelow(True)
    ax.grid(color="#ECECEC", linewidth=0.8)
    _axis(ax, "x", panel.x)
    _axis(ax, "y", panel.y)
    for trace in panel.data:
        if trace["type"] == "heatmap":
            _cells(ax, trace)
        elif trace["type"] == "bar":
            _bars(ax, trace)
        elif trace.get("visible", True):
            _line(ax, trace) if trace["mode"] == "lines" else _points(ax, panel, trace)
    for shape in panel.layout.get("shapes", ()):
        draw_rule = ax.axvline if "yref" in shape else ax.axhline
        draw_rule(shape["x0" if "yref" in shape else "y0"], linewidth=1, zorder=1, **_stroke(shape["line"]))
        if text := shape["label"]["text"]:
            above = ax.get_xaxis_transform()
            ax.text(shape["x0"], 0.99, f" {text}", va="top", transform=above, color=_GRAY, fontsize=8)
    for label in panel.layout.get("annotations", ()):
        _label(ax, label)
    for part, limit in ((panel.x, ax.set_xlim), (panel.y, ax.set_ylim)):
        if "range" in part:
            limit(*view_of(part))
    note = " ".join(filter(None, (panel.note, panel.hidden())))
    ax.set_title(note, loc="right", fontsize=_SMALL, color=_GRAY)


def _axis(ax: Any, letter: str, part: Part) -> None:
    axis: Any = getattr(ax, f"{letter}axis")
    axis.set_label_text(as_text(part["title"]["text"]), fontsize=9.5)
    if part.get("type") == "log":
        getattr(ax, f"set_{letter}scale")("log")
        axis.set_minor_locator(NullLocator())
    if "tickvals" in part:
        axis.set_ticks(part["tickvals"], [as_text(text) for text in part["ticktext"]])
        axis.grid(visible=part["showgrid"])
    elif "dtick" in part:
        axis.set_major_locator(MaxNLocator("auto", integer=True))
    if not part.get("visible", True):
        axis.set_visible(False)
        ax.spines[:].set_visible(False)


def _name(trace: Part) -> str:
    return as_text(trace["name"]) or "_"  # matplotlib leaves such a name out of the legend


def _stroke(line: Part) -> dict[str, Any]:
    return {"color": _COLORS[line["color"]], "linestyle": _DASHES[line.get("dash", "solid")]}


def _line(ax: Any, trace: Part) -> None:
    line, x, y = trace["line"], np.array(trace["x"], float), np.array(trace["y"], float)
    shape = "steps-post" if line.get("shape") == "hv" else "default"
    how = {"linewidth": line["width"], "alpha": trace["opacity"], "label": _name(trace), **_stroke(line)}
    ax.plot(x, y, drawstyle=shape, **how)


def _points(ax: Any, panel: Panel, trace: Part) -> None:
    """Draw the points of trials; those outside the view, or with an axis of their own, are ticks at the border."""
    marker, symbol = trace["marker"], trace["marker"]["symbol"]
    x, y, view = np.array(trace["x"], float), np.array(trace["y"], float), view_of(panel.y)
    color, alpha = _COLORS[marker["color"]], max(0.25, min(1, math.sqrt(200 / max(1, len(x)))))
    ticks = {"color": color, "s": 34, "linewidths": 1.1, "alpha": alpha, "zorder": 3, "clip_on": False}
    if "yaxis" in trace:
        ax.scatter(x, np.full(len(x), view[1]), marker="|", label=_name(trace), **ticks)
        return
    edge = {"circle-open": color, "star": _COLORS["@ink"]}.get(symbol, "white")
    how = {"facecolors": "none" if symbol == "circle-open" else color, "edgecolors": edge, "alpha": alpha}
    how |= {"marker": _MARKERS[symbol], "s": 0.9 * marker["size"] ** 2 * alpha, "linewidths": 0.7, "zorder": 5}
    ax.scatter(x, y, label=_name(trace), **how)
    inner_x, inner_y = np.clip(x, *view_of(panel.x)), np.clip(y, *view)
    for out, mark in ((inner_y != y, "|"), ((inner_x != x) & (inner_y == y), "_")):
        ax.scatter(inner_x[out], inner_y[out], marker=mark, **ticks)


def _bars(ax: Any, trace: Part) -> None:
    flat = trace.get("orientation") == "h"
    places, lengths = (trace["y"], trace["x"]) if flat else (trace["x"], trace["y"])
    how = {"color": _COLORS[trace["marker"]["color"]], "edgecolor": "white", "label": _name(trace)}
    width = 0.5 if len(places) < 200 else 0
    bars = (ax.barh if flat else ax.bar)(places, lengths, trace["width"], trace.get("base", 0), linewidth=width, **how)
    if trace["textposition"] == "outside":
        ax.bar_label(bars, trace["text"], padding=3, fontsize=_SMALL)
    elif trace["textposition"] == "inside":
        texts = [text if length else "" for text, length in zip(trace["text"], lengths, strict=True)]
        ax.bar_label(bars, texts, label_type="center", fontsize=_SMALL, color="white")


def _cells(ax: Any, trace: Part) -> None:
    x, y, z = np.array(trace["x"]), np.array(trace["y"]), np.array(trace["z"], float)
    usual = [(step / 4, f"@scale-{step}") for step in range(5)]
    scale = usual if trace["colorscale"] == "@scale" else trace["colorscale"]
    colors = LinearSegmentedColormap.from_list("", [(place, _COLORS[name]) for place, name in scale])
    colors = colors.reversed() if trace.get("reversescale") else colors
    low, high = trace["zmin"], trace["zmax"]
    mesh = ax.pcolormesh(x, y, z, cmap=colors, vmin=low, vmax=high, edgecolors="white", linewidth=1.5, zorder=1)
    middle_x = np.sqrt(x[1:] * x[:-1]) if ax.get_xscale() == "log" else (x[1:] + x[:-1]) / 2
    middle_y = np.sqrt(y[1:] * y[:-1]) if ax.get_yscale() == "log" else (y[1:] + y[:-1]) / 2
    how = {"ha": "center", "va": "center", "fontsize": _SMALL, "zorder": 3}
    for row, column in np.argwhere(np.isfinite(z)):
        dark = np.dot(colors((z[row, column] - low) / (high - low))[:3], (0.3, 0.6, 0.1)) < 0.55
        how["color"] = "white" if dark else _COLORS["@ink"]
        ax.text(middle_x[column], middle_y[row], as_text(trace["text"][row][column]), **how)
    known = z[np.isfinite(z)]
    end = "min" if trace.get("reversescale") else "max"
    beyond = known.min() < low if end == "min" else known.max() > high
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.92, extend=end if beyond else "neither")
    bar.set_label(trace["colorbar"]["title"]["text"], size=9.5)
    bar.ax.tick_params(colors="#444444", labelsize=_SMALL)
    bar.outline.set_visible(False)


def _label(ax: Any, label: Part) -> None:
    x = 10 ** label["x"] if ax.get_xscale() == "log" else label["x"]
    y = 10 ** label["y"] if ax.get_yscale() == "log" else label["y"]
    where = {"ha": label["xanchor"], "va": {"middle": "center"}.get(label["yanchor"], label["yanchor"])}
    shift = ({"left": 3, "center": 0, "right": -3}[label["xanchor"]], 3 if where["va"] == "bottom" else 0)
    how = {"fontsize": 8, "color": _GRAY, "zorder": 7, "annotation_clip": True}
    how["bbox"] = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5}
    ax.annotate(as_text(label["text"]), (x, y), shift, textcoords="offset points", **where, **how)
