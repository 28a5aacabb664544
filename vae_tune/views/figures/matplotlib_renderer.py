"""Draws panels, which are plotly JSON, with matplotlib: for files and notebooks."""

from __future__ import annotations

import html
import math
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from vae_tune.views.figures.chart import Panel, Panels, Part, view_of, within
from vae_tune.views.figures.conventions import COLOURS

_COLOURS = COLOURS | {"ink": "#222222", "soft": "#8A8A8A", "card": "white"}
_MARKERS = {"circle": "o", "circle-open": "o", "x": "x", "triangle-up": "^", "diamond": "D", "star": "*"}
_DASHES: dict[str, Literal["-", "--", ":"]] = {"solid": "-", "dash": "--", "dot": ":"}
_SHIFTS = {"left": 3, "center": 0, "right": -3}
_SMALL, _GREY = 8.5, "#555555"


def draw(title: str, panels: Panels, missing: str) -> Figure:
    """Return a figure with all ``panels``, or one that says what is ``missing`` where there are none."""
    first = next(iter(panels.values()), Panel({}, {}, []))
    columns = 1 if first.wide else max(1, min(4, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    width = max(8.4, 1.5 * len(first.x.get("tickvals", ()))) if first.wide else max(6.4, 3.3 * columns + 1)
    height = first.layout["height"] / 75 + 0.6 if "height" in first.layout else 1.2 + max(3.2, 2.9 * rows)
    figure = Figure((width, height) if panels else (7.2, 2.2), 110, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_COLOURS["ink"])
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    alike = len({panel.x["title"]["text"] for panel in panels.values()}) < len(panels)
    for number, (ax, (label, panel)) in enumerate(zip(axes, panels.items(), strict=False)):
        _panel(ax, panel)
        ax.set_title(label if alike else "", loc="left", fontsize=9.5, color=_GREY)
        if number % columns and panel.y["title"] == first.y["title"]:
            ax.set_ylabel("")
            ax.tick_params(labelleft=panel.y != first.y)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    if not panels:
        axes[0].text(0.5, 0.5, missing, ha="center", va="center", fontsize=11, color=_GREY, wrap=True)
    _legend(figure, axes)
    return figure


def as_text(name: str) -> str:
    """Return a plotly text, such as a name that a user gave, so that matplotlib draws it as it is.

    Two dollar signs would enclose a formula, and a leading underscore would keep a mark out of the legend; a space in
    front of it does not show.
    """
    text = html.unescape(name.replace("<br>", "\n")).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _panel(ax: Axes, panel: Panel) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_COLOURS["soft"])
    ax.tick_params(colors="#444444", labelsize=_SMALL, which="both")
    ax.set_axisbelow(True)
    ax.grid(color="#ECECEC", linewidth=0.8)
    for letter, part in (("x", panel.x), ("y", panel.y)):
        if part.get("type") == "log":
            getattr(ax, f"set_{letter}scale")("log")
    count = sum(len(trace["x"]) for trace in panel.data if trace.get("mode") == "markers")
    for trace in panel.data:
        if trace["type"] == "heatmap":
            _cells(ax, trace)
        elif trace["type"] == "bar":
            _bars(ax, trace)
        elif trace.get("visible", True):
            _line(ax, trace) if trace["mode"] == "lines" else _points(ax, panel, trace, count)
    for shape in panel.layout.get("shapes", ()):
        across = "xref" in shape
        draw_rule: Any = ax.axhline if across else ax.axvline
        draw_rule(shape["y0" if across else "x0"], linewidth=1, zorder=1, **_stroke(shape["line"]))
    for label in panel.layout.get("annotations", ()):
        _label(ax, panel, label)
    _axis(ax, "x", panel.x)
    _axis(ax, "y", panel.y)
    note = " ".join(filter(None, (panel.note, panel.hidden())))
    ax.set_title(note, loc="right", fontsize=_SMALL, color=_GREY)


def _axis(ax: Axes, letter: str, part: Part) -> None:
    axis: Any = getattr(ax, f"{letter}axis")
    axis.set_label_text(as_text(part["title"]["text"]), fontsize=9.5)
    if "tickvals" in part:
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(part["tickvals"], [as_text(text) for text in part["ticktext"]])
        axis.grid(visible=part["showgrid"])
    elif "dtick" in part:
        axis.set_major_locator(MaxNLocator("auto", integer=True))
    if "range" in part:
        getattr(ax, f"set_{letter}lim")(*view_of(part))
    if part.get("side") == "top":
        axis.tick_top()
        axis.set_tick_params(length=0)
        ax.spines[:].set_visible(False)
    if not part.get("visible", True):
        axis.set_visible(False)


def _colour(name: str) -> str:
    return _COLOURS[name.removeprefix("@")]


def _name(trace: Part) -> str:
    return as_text(trace["name"]) or "_"  # what begins so is in no legend


def _stroke(line: Part) -> dict[str, Any]:
    return {"color": _colour(line["color"]), "linestyle": _DASHES[line.get("dash", "solid")]}


def _line(ax: Axes, trace: Part) -> None:
    line, x, y = trace["line"], np.array(trace["x"], float), np.array(trace["y"], float)
    shape: Any = "steps-post" if line.get("shape") == "hv" else "default"
    how = {"linewidth": line["width"], "alpha": trace["opacity"], "label": _name(trace), **_stroke(line)}
    ax.plot(x, y, drawstyle=shape, **how)


def _points(ax: Axes, panel: Panel, trace: Part, count: int) -> None:
    """Draw the points of trials; those outside of the view are ticks at the border of the panel."""
    x, y = np.array(trace["x"], float), np.array(trace["y"], float)
    symbol, colour, size = trace["marker"]["symbol"], _colour(trace["marker"]["color"]), trace["marker"]["size"]
    special = symbol in ("diamond", "star")
    alpha = 1.0 if special else max(0.25, min(0.9, math.sqrt(200 / max(1, count))))
    ticks: dict[str, Any] = {"color": colour, "s": 34, "linewidths": 1.1, "alpha": alpha, "zorder": 3}
    above, beside = ~within(panel.y, y) & within(panel.x, x), ~within(panel.x, x) & within(panel.y, y)
    if "yaxis" in trace:
        above, ticks["label"] = np.full(len(x), fill_value=True), _name(trace)
    else:
        shrink = 1.0 if special else max(0.3, min(1.0, math.sqrt(100 / max(1, count))))
        how: dict[str, Any] = {"facecolors": colour, "edgecolors": "white", "linewidths": 0.6}
        if symbol == "circle-open":
            how = {"facecolors": "none", "edgecolors": colour, "linewidths": 0.9}
        elif symbol == "x":
            how = {"color": colour, "linewidths": 1.4}
        elif symbol == "star":
            how["edgecolors"] = _COLOURS["ink"]
        how |= {"marker": _MARKERS[symbol], "s": 0.9 * size**2 * shrink, "zorder": 6 if special else 4}
        ax.scatter(x, y, label=_name(trace), alpha=alpha, **how)
    if above.any():
        low, _ = view_of(panel.y)
        across: Any = ax.get_xaxis_transform()
        ax.scatter(x[above], np.where(y[above] < low, 0.01, 0.99), marker="|", transform=across, **ticks)
    if beside.any():
        low, _ = view_of(panel.x)
        along: Any = ax.get_yaxis_transform()
        ax.scatter(np.where(x[beside] < low, 0.01, 0.99), y[beside], marker="_", transform=along, **ticks)


def _bars(ax: Axes, trace: Part) -> None:
    how: dict[str, Any] = {"color": _colour(trace["marker"]["color"]), "edgecolor": "white", "label": _name(trace)}
    how["linewidth"] = 0.5 if len(trace["x"]) < 200 else 0
    if trace.get("orientation") == "h":
        bars = ax.barh(trace["y"], trace["x"], trace["width"], trace.get("base", 0), **how)
    else:
        bars = ax.bar(trace["x"], trace["y"], trace["width"], trace.get("base", 0), **how)
    if trace["textposition"] == "outside":
        ax.bar_label(bars, trace["text"], padding=3, fontsize=_SMALL)
    elif trace["textposition"] == "inside":
        texts = [text if height else "" for text, height in zip(trace["text"], trace["y"], strict=True)]
        ax.bar_label(bars, texts, label_type="center", fontsize=_SMALL, color="white")


def _cells(ax: Axes, trace: Part) -> None:
    x, y, z = np.array(trace["x"]), np.array(trace["y"]), np.array(trace["z"], float)
    scale = trace["colorscale"]
    names = [f"scale-{step}" for step in range(5)] if scale == "@scale" else [name for _, name in scale]
    colours = LinearSegmentedColormap.from_list("", [_colour(name) for name in names])
    low, high = trace["zmin"], trace["zmax"]
    mesh = ax.pcolormesh(x, y, z, cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=1.5, zorder=1)
    across, up = (
        np.sqrt(edges[1:] * edges[:-1]) if scale == "log" else (edges[1:] + edges[:-1]) / 2
        for edges, scale in ((x, ax.get_xscale()), (y, ax.get_yscale()))
    )
    for row, column in np.argwhere(np.isfinite(z)):
        dark = np.dot(colours((z[row, column] - low) / (high - low))[:3], (0.3, 0.6, 0.1)) < 0.55
        how: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": _SMALL, "zorder": 3}
        ax.text(
            across[column], up[row], as_text(trace["text"][row][column]), color="white" if dark else "#222222", **how
        )
    figure: Any = ax.figure
    bar = figure.colorbar(mesh, ax=ax, shrink=0.92, extend="max" if z[np.isfinite(z)].max() > high else "neither")
    bar.set_label(trace["colorbar"]["title"]["text"], size=9.5)
    bar.ax.tick_params(colors="#444444", labelsize=_SMALL)
    bar.outline.set_visible(False)


def _label(ax: Axes, panel: Panel, label: Part) -> None:
    x, y = (
        10 ** label[letter] if part.get("type") == "log" else label[letter]
        for letter, part in (("x", panel.x), ("y", panel.y))
    )
    up: Any = {"top": "top", "bottom": "bottom", "middle": "center"}[label["yanchor"]]
    shift = (_SHIFTS[label["xanchor"]], 3 if up == "bottom" else 0)
    where: Any = ax.get_xaxis_transform() if "yref" in label else "data"
    how: dict[str, Any] = {"fontsize": 8, "color": _GREY, "zorder": 7, "annotation_clip": True}
    ax.annotate(as_text(label["text"]), (x, y), shift, where, "offset points", ha=label["xanchor"], va=up, **how)


def _legend(figure: Figure, axes: list[Axes]) -> None:
    """Put one legend for all ``axes`` below them."""
    found: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    if found:
        legend = figure.legend(
            found.values(), found, loc="outside lower center", ncols=len(found), fontsize=_SMALL, frameon=False
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
