"""What the drawings share: sheet, colours, marks, and a loss axis that shows the best and the worst at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from vae_tune.names import COMPLETE, FAIL, PRUNED, REFERENCE_TRIAL, RUNNING, TRIAL, VAL_LOSS
from vae_tune.plots.captions import CAPTIONS
from vae_tune.plots.hyperparameters import Axis
from vae_tune.study import Study

# Okabe and Ito's colours, which people tell apart however they see colours
BLUE, ORANGE, RED, GREEN, PURPLE, BLACK = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#222222"
GREY, PALE = "#8A8A8A", "#D9D9D9"
MAP = "viridis_r"
"""Colours of losses: the lower, the darker."""
WINNER, REFERENCE = "winner", "reference"
LOSS = "validation loss (nats per image)"

STATE_COLOURS = {COMPLETE: BLUE, PRUNED: GREY, FAIL: RED, RUNNING: GREEN}
STATE_WORDS = {
    COMPLETE: "trained to the end",
    PRUNED: "stopped early",
    FAIL: "failed",
    RUNNING: "unfinished",
}
_MARKS: dict[str, dict[str, Any]] = {
    PRUNED: {"marker": "o", "s": 16, "facecolors": "none", "linewidths": 0.9, "zorder": 2},
    FAIL: {"marker": "x", "s": 30, "linewidths": 1.4, "zorder": 3},
    RUNNING: {"marker": "^", "s": 26, "facecolors": "none", "linewidths": 1.1, "zorder": 3},
    COMPLETE: {"marker": "o", "s": 30, "linewidths": 0.5, "zorder": 4},
}


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


def loss_axis(ax: Axes, which: Literal["x", "y"], losses: Any, label: str = LOSS) -> None:
    """Make an axis one of losses that is stretched near the lowest: see :func:`stretch`."""
    losses = _finite(losses)
    forward, inverse, ticks = stretch(losses)
    low, high = float(forward(losses.min())), float(forward(losses.max()))
    margin = 0.05 * (high - low) or 0.05
    axis: Any = getattr(ax, f"{which}axis")
    getattr(ax, f"set_{which}scale")("function", functions=(forward, inverse))
    getattr(ax, f"set_{which}lim")(inverse(low - margin), inverse(high + margin))
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_label_text(label)


def loss_norm(losses: Any) -> tuple[FuncNorm, list[float]]:
    """Return the same scale for colours, and its ticks."""
    losses = _finite(losses)
    forward, inverse, ticks = stretch(losses)
    high = losses.max() if losses.max() > losses.min() else losses.min() + 1
    return FuncNorm((forward, inverse), vmin=losses.min(), vmax=high), ticks


def _finite(losses: Any) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = np.asarray(losses, dtype=np.float64)
    return values[np.isfinite(values)]


def stretch(losses: npt.NDArray[np.float64]) -> tuple[Any, Any, list[float]]:
    """Return a scale that is logarithmic in the distance from the lowest loss, its inverse, and ticks for it.

    Between a first epoch and a last one losses fall by hundreds of nats, and the best trials differ by tenths. The
    distance is counted from a little below the lowest loss, by a tenth of the median distance, so that the scale is
    nearly linear among the best.
    """
    low = float(losses.min())
    scale = max(float(np.median(losses - low)) / 10, 0.1)

    def forward(values: Any) -> Any:
        return np.log(np.maximum(np.asarray(values, dtype=float) - low, -0.9 * scale) + scale)

    def inverse(values: Any) -> Any:
        return np.exp(values) - scale + low

    return forward, inverse, _ticks(low, float(losses.max()), forward)


def _ticks(low: float, high: float, forward: Any) -> list[float]:
    """Return round losses from ``low`` to ``high``, the rounder the further up, with room between them."""
    span = max(float(forward(high) - forward(low)), 1e-9)
    chosen: list[float] = []
    for step in (digits * 10.0**exponent for exponent in range(3, -3, -1) for digits in (5, 2, 1)):
        reach = min(high, low + 3 * step)
        for count in range(math.ceil(low / step), math.floor(reach / step) + 1):
            tick = round(count * step, 2)
            if all(abs(float(forward(tick) - forward(other))) >= 0.09 * span for other in chosen):
                chosen.append(tick)
    return sorted(chosen) or [low]


def hyperparameter_axis(ax: Axes, which: Literal["x", "y"], shown: Axis, values: Iterable[Any] = ()) -> None:
    """Make an axis one of a hyperparameter: log where its range is, the whole range and all ``values`` in view."""
    axis: Any = getattr(ax, f"{which}axis")
    limit = getattr(ax, f"set_{which}lim")
    axis.set_label_text(shown.name)
    if shown.scale == "category":
        axis.set_ticks(range(len(shown.choices)), [str(choice) for choice in shown.choices])
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
        return str(value)
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


def time_unit(hours: float) -> tuple[float, str]:
    """Return the unit that suits a span: how many are in an hour, and its name."""
    if hours > 3:
        return 1.0, "hours"
    return (60.0, "minutes") if hours * 60 > 3 else (3600.0, "seconds")


def with_loss(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a loss."""
    return table[table[VAL_LOSS].notna()]
