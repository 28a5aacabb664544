"""What the drawings share: sheet, colours, marks, and loss axes on which the good trials can be told apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vae_tune.analysis.captions import CAPTIONS
from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.study import Study
from vae_tune.analysis.view import beyond, beyond_words, loss_range
from vae_tune.config.names import (
    COMPLETE,
    FAIL,
    PRUNED,
    REFERENCE_TRIAL,
    RUNNING,
    STATE,
    STATE_WORDS,
    STATES,
    TRIAL,
    VAL_LOSS,
)
from vae_tune.views.figures.conventions import COLOURS, LOSS, REFERENCE, WINNER

STATE_COLOURS = {state: COLOURS[STATE_WORDS[state]] for state in STATES}
BLUE, GREY, RED, GREEN = STATE_COLOURS.values()
ORANGE, PURPLE, BLACK, PALE = COLOURS[WINNER], COLOURS[REFERENCE], COLOURS["best"], "#D9D9D9"
MAP = LinearSegmentedColormap.from_list("losses", [COLOURS[f"scale-{step}"] for step in range(5)])
"""Colours of losses: the lower, the darker."""
AGREEMENT = LinearSegmentedColormap.from_list("agreement", [RED, "white", BLUE])
"""Colours of a correlation, from -1 to 1."""

_MARKS: dict[str, dict[str, Any]] = {
    PRUNED: {"marker": "o", "s": 16, "facecolors": "none", "linewidths": 0.9, "zorder": 2},
    FAIL: {"marker": "x", "s": 30, "linewidths": 1.4, "zorder": 3},
    RUNNING: {"marker": "^", "s": 26, "facecolors": "none", "linewidths": 1.1, "zorder": 3},
    COMPLETE: {"marker": "o", "s": 30, "linewidths": 0.5, "zorder": 4},
}


def as_text(name: Any) -> str:
    """Return a name of users, such as a study's, so that matplotlib draws it as it is, in legends too.

    Two dollar signs would begin and end a formula. A leading underscore would keep an artist out of legends; a space
    in front of it does not show.
    """
    escaped = str(name).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def sheet(name: str, **size: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure for the caption ``name`` and its axes; ``size`` is that of :func:`panels`."""
    return panels(CAPTIONS[name].title, **size)


def panels(
    title: str, *, width: float = 7.2, height: float = 4.2, columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row; sizes are inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=BLACK)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.tick_params(colors="#444444", labelsize=8.5, which="both")
        ax.xaxis.label.set_size(9.5)
        ax.yaxis.label.set_size(9.5)
        ax.set_axisbelow(True)
        ax.grid(color="#ECECEC", linewidth=0.8)
    return figure, axes


def nothing(name: str) -> Figure:
    """Return a figure that says in words why there is nothing to draw."""
    figure, (ax,) = sheet(name, height=2.2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, CAPTIONS[name].nothing, ha="center", va="center", fontsize=11, color="#555555", wrap=True)
    return figure


def scatter(ax: Axes, x: Any, y: Any, states: Any) -> None:
    """Draw trials as marks by state."""
    x, y, states = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(states, dtype=str)
    shrink = min(1.0, (100 / max(1, len(states))) ** 0.5)
    for state, mark in _MARKS.items():
        here = (states == state) & np.isfinite(x) & np.isfinite(y)
        if here.any():
            colours: dict[str, Any] = {"edgecolors" if "facecolors" in mark else "color": STATE_COLOURS[state]}
            size = mark["s"] * max(0.3, shrink)
            ax.scatter(x[here], y[here], label=STATE_WORDS[state], **mark | colours | {"s": size}, alpha=crowd(len(x)))


def crowd(count: int) -> float:
    """Return how opaque each of ``count`` trials is drawn."""
    return max(0.25, min(0.9, math.sqrt(200 / max(1, count))))


def star(ax: Axes, study: Study, table: pd.DataFrame, x: str, y: str) -> None:
    """Mark the winner and the reference among the rows of ``table``, each drawn at its columns ``x`` and ``y``."""
    marks: dict[int | None, tuple[str, dict[str, Any]]] = {
        REFERENCE_TRIAL: (REFERENCE, {"marker": "D", "s": 46, "facecolors": "white", "edgecolors": PURPLE})
    }
    label = WINNER if (best := study.best_trial) != REFERENCE_TRIAL else f"{REFERENCE}, the {WINNER}"
    marks[best] = (label, {"marker": "*", "s": 190, "color": ORANGE, "edgecolors": BLACK})
    for trial, (label, how) in marks.items():
        row = table[(table[TRIAL] == trial) & table[y].notna()]
        if len(row):
            linewidths = 1.6 if label == REFERENCE else 0.7
            ax.scatter(row[x].astype(float), row[y], label=label, zorder=6, linewidths=linewidths, **how)


def special_lines(study: Study) -> dict[int, dict[str, Any]]:
    """Return how the lines of the reference and of the winner are drawn, by trial."""
    edge = [withStroke(linewidth=3.6, foreground=BLACK)]
    lines: dict[int, dict[str, Any]] = {
        REFERENCE_TRIAL: {"label": REFERENCE, "color": PURPLE, "linestyle": "--", "linewidth": 2.4, "zorder": 5}
    }
    if (best := study.best_trial) is not None:
        label = WINNER if best != REFERENCE_TRIAL else f"{REFERENCE}, the {WINNER}"
        lines[best] = {"label": label, "color": ORANGE, "linewidth": 2.4, "zorder": 6, "path_effects": edge}
    return lines


def colorbar(figure: Figure, mappable: Any, ax: Axes, label: str, **how: Any) -> None:
    """Explain colours beside ``ax``."""
    bar = figure.colorbar(mappable, ax=ax, shrink=0.92, **how)
    bar.set_label(label, size=9.5)
    bar.ax.tick_params(colors="#444444", labelsize=8.5)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def note(ax: Axes, text: str) -> None:
    """Say something small over the right end of ``ax``."""
    ax.set_title(text, loc="right", fontsize=9.5, color="#555555")


def headnote(figure: Figure, text: str) -> None:
    """Say something small beside the title of a figure."""
    figure.text(0.99, 0.98, text, ha="right", va="top", fontsize=9.5, color="#555555")


def legend(figure: Figure, *axes: Axes) -> None:
    """Put one legend for all ``axes`` under them."""
    found: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        shown = figure.legend(
            found.values(), found, loc="outside lower center", ncols=len(found), fontsize=8.5, frameon=False
        )
        for handle in shown.legend_handles:
            if handle is not None:
                handle.set_alpha(1)


def loss_axis(
    ax: Axes, which: Literal["x", "y"], table: pd.DataFrame, along: str, column: str = VAL_LOSS, label: str = LOSS
) -> str:
    """Make an axis a plain one with the range of :func:`loss_range`.

    Trials beyond it become ticks at its border, over their place on the other axis, the column ``along``. Return how
    many these are, in words; "" for none.
    """
    view = loss_range(table[column], table[STATE])
    getattr(ax, f"{which}axis").set_label_text(label)
    if view is None:
        return ""
    getattr(ax, f"set_{which}lim")(*view)
    outside = table[np.isfinite(table[column]) & ~table[column].between(*view) & table[along].notna()]
    for state, colour in STATE_COLOURS.items():
        own = outside[outside[STATE] == state]
        ends, places = np.where(own[column] < view[0], 0.01, 0.99), own[along].astype(float)
        if len(own):
            upright = which == "y"
            x, y = (places, ends) if upright else (ends, places)
            across: Any = ax.get_xaxis_transform() if upright else ax.get_yaxis_transform()
            how: dict[str, Any] = {"marker": "|" if upright else "_", "color": colour, "transform": across}
            ax.scatter(x, y, s=34, linewidths=1.1, alpha=crowd(len(table)), zorder=3, **how)
    return beyond_words(beyond(table[column], view))


def loss_norm(study: Study) -> Normalize:
    """Return the same range for colours: what lies beyond has the colour of its end."""
    low, high = loss_range(study.trials[VAL_LOSS], study.trials[STATE]) or (0, 1)
    return Normalize(low, high, clip=True)


def loss_ticks(norm: Normalize) -> list[float]:
    """Return round losses between the ends of a scale of colours."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    return [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]


def hyperparameter_axis(ax: Axes, which: Literal["x", "y"], shown: Axis, values: Iterable[Any] = ()) -> None:
    """Make an axis one of a hyperparameter: log where its range is, the whole range and all ``values`` in view."""
    axis: Any = getattr(ax, f"{which}axis")
    limit = getattr(ax, f"set_{which}lim")
    axis.set_label_text(shown.title)
    if shown.scale == "category":
        axis.set_ticks(range(len(shown.choices)), [as_text(choice) for choice in shown.choices])
        limit(-0.6, len(shown.choices) - 0.4)
        return
    numbers = [shown.low, shown.high, *(float(value) for value in values if pd.notna(value))]
    low, high = min(numbers), max(numbers)
    if shown.scale == "linear":
        margin = 0.04 * (high - low)
        limit(low - margin, high + margin)
        axis.set_major_locator(MaxNLocator("auto", integer=shown.whole))
        return
    getattr(ax, f"set_{which}scale")("log")
    margin = (high / low) ** 0.04
    limit(low / margin, high * margin)
    if high / low < 1000:  # decades alone would be too few
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def round_numbers(shown: Axis) -> list[Any]:
    """Return some round values of a hyperparameter's range, or all its choices."""
    if shown.scale == "category":
        return list(shown.choices)
    locator = LogLocator(subs=(1, 2, 5) if shown.high / shown.low < 1000 else (1,)) if shown.scale == "log" else None
    ticks = (locator or MaxNLocator(6, integer=shown.whole)).tick_values(shown.low, shown.high)
    return [float(tick) for tick in ticks if shown.low <= tick <= shown.high]


def short(value: Any) -> str:
    """Return a value as an axis shows it."""
    if not isinstance(value, float):
        return as_text(value)
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 0.01 else f"{value:g}"


def places(shown: Axis, values: Sequence[Any], spread: float = 0.18) -> npt.NDArray[np.float64]:
    """Return where ``values`` of a hyperparameter lie on its axis, NaN for what does not, as 0 on a log one.

    Choices are spread a little, to be told apart.
    """
    if shown.scale != "category":
        numbers = np.array([float(value) if pd.notna(value) else math.nan for value in values])
        return np.where(numbers > 0, numbers, math.nan) if shown.scale == "log" else numbers
    known = {choice: float(place) for place, choice in enumerate(shown.choices)}
    shifts = np.random.default_rng(0).uniform(-spread, spread, len(values))
    return np.array([known.get(value, math.nan) for value in values]) + shifts


def with_loss(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a loss."""
    return table[table[VAL_LOSS].notna()]
