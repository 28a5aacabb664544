"""Drawings of what the hyperparameters did, with matplotlib; tables from :mod:`vae_tune.analysis.hyperparameters`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vae_tune.analysis.hyperparameters import (
    FANOVA,
    PED_ANOVA,
    Axis,
    importance,
    pair,
    pair_grid,
    parallel,
    slices,
)
from vae_tune.analysis.hyperparameters import (
    axes as axes_of,
)
from vae_tune.analysis.study import Study
from vae_tune.config.names import (
    COMPLETE,
    EPOCH,
    EPOCHS,
    HYPERPARAMETER,
    IMPORTANCE,
    METHOD,
    STATE,
    TRIAL,
    TRIALS,
    VAL_LOSS,
    VALUE,
)
from vae_tune.views.figures import style
from vae_tune.views.figures.conventions import COLOURS, LOSS, METHODS, SHARE

_CELLS = 10
_SEEN = 0.75  # of the scale of colours: a line of the palest would not show
_ROOM = 0.06  # of an axis' height, between two marks


def draw_slices(study: Study) -> Figure:
    """Draw the loss by each hyperparameter, a panel each."""
    table = style.with_loss(slices(study)).copy()
    if table.empty:
        return style.nothing("slices")
    known = axes_of(study)
    columns = min(4, len(known))
    rows = math.ceil(len(known) / columns)
    figure, panels = style.sheet(
        "slices", width=max(4.4, 2.9 * columns), height=1.2 + 2.9 * rows, columns=columns, rows=rows
    )
    for ax, (name, shown) in zip(panels, known.items(), strict=False):
        own = table[table[HYPERPARAMETER] == name].copy()
        own["place"] = style.places(shown, list(own[VALUE]))
        style.scatter(ax, own["place"], own[VAL_LOSS], own[STATE])
        style.star(ax, study, own, "place", VAL_LOSS)
        style.hyperparameter_axis(ax, "x", shown, own["place"])
        beyond = style.loss_axis(ax, "y", own, "place")
        if own["place"].isna().any():  # no other trial may lie outside of the space
            style.note(ax, "reference not on this axis")
    for index, ax in enumerate(panels):
        ax.set_visible(index < len(known))
        if index % columns:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    style.headnote(figure, beyond)
    style.legend(figure, *panels[: len(known)])
    return figure


def draw_pair_grid(study: Study, x: str | None = None, y: str | None = None) -> Figure:
    """Draw which cells of a plane of two hyperparameters hold good trials; see ``pair_grid`` for the arguments."""
    chosen = (x, y) if x and y else pair(study)
    table = pair_grid(study, x, y, _CELLS)
    if chosen is None or not table[VAL_LOSS].notna().any():
        return style.nothing("pair_grid")
    first, second = (axes_of(study)[name] for name in chosen)
    figure, (ax,) = style.sheet("pair_grid", width=7.2, height=5.0)
    norm = style.loss_norm(study)
    rows = len(table[second.name].unique())
    cells = table[VAL_LOSS].to_numpy().reshape(-1, rows).T
    mesh = ax.pcolormesh(
        _edges(first), _edges(second), cells, cmap=style.MAP, norm=norm, edgecolors="white", linewidth=1.5, zorder=1
    )
    places = [style.places(shown, list(table[shown.name]), spread=0) for shown in (first, second)]
    for place_x, place_y, epochs, loss in zip(*places, table[EPOCHS], table[VAL_LOSS], strict=True):
        if epochs:
            ax.text(
                place_x,
                place_y,
                str(epochs),
                ha="center",
                va="center",
                fontsize=8.5,
                zorder=3,
                color="white" if norm(loss) < 0.55 else style.BLACK,
            )
    whole = study.trials.reset_index()
    whole["x"], whole["y"] = (style.places(shown, list(whole[shown.name])) for shown in (first, second))
    style.star(ax, study, whole, "x", "y")
    style.hyperparameter_axis(ax, "x", first)
    style.hyperparameter_axis(ax, "y", second)
    ax.grid(visible=False)
    ax.set_facecolor("#F6F6F6")
    style.colorbar(figure, mesh, ax, LOSS, extend="max", ticks=style.loss_ticks(norm), format="%g")
    style.legend(figure, ax)
    return figure


def _edges(shown: Axis) -> npt.NDArray[np.float64]:
    if shown.scale == "category":
        return np.arange(len(shown.choices) + 1, dtype=np.float64) - 0.5
    return shown.edges(_CELLS)


def draw_parallel(study: Study) -> Figure:
    """Draw each configuration as a line over all hyperparameters, coloured by its loss."""
    table = style.with_loss(parallel(study))
    if table.empty:
        return style.nothing("parallel")
    known = axes_of(study)
    figure, (ax,) = style.sheet("parallel", width=max(6.4, 1.7 * (len(known) + 2)), height=4.4)
    norm = style.loss_norm(study)
    heights = np.column_stack(
        [
            *(_height(shown, table[name]) for name, shown in known.items()),
            1 - np.asarray(norm(table[VAL_LOSS].to_numpy())),
        ]
    )
    order = np.lexsort((-table[VAL_LOSS].to_numpy(), table[STATE] == COMPLETE))  # the best are drawn last, on top
    lines = [np.column_stack([np.arange(heights.shape[1]), heights[index]]) for index in order]
    whole = (table[STATE] == COMPLETE).to_numpy()[order]
    colours = style.MAP(_SEEN * np.asarray(norm(table[VAL_LOSS].to_numpy()[order])))
    colours[:, 3] = np.where(whole, 1.0, 0.35) * style.crowd(len(table))
    ax.add_collection(LineCollection(lines, colors=list(colours), linewidths=np.where(whole, 1.5, 0.8)))
    for trial, line in style.special_lines(study).items():
        for own in heights[table[TRIAL].to_numpy() == trial]:
            ax.plot(own, **line)
    for place, shown in enumerate(known.values()):
        marks = style.round_numbers(shown)
        _ruler(ax, place, zip(_height(shown, pd.Series(marks)), map(style.short, marks), strict=True))
    _ruler(ax, len(known), _loss_marks(norm, table[VAL_LOSS].max()))
    ax.set_xlim(-0.25, len(known) + 0.45)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xticks(
        range(len(known) + 1), [*(shown.title for shown in known.values()), "validation loss\n(nats per image)"]
    )
    ax.tick_params(axis="x", length=0, labelsize=9.5, pad=6)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
    style.legend(figure, ax)
    return figure


def _loss_marks(norm: Normalize, worst: float) -> list[tuple[float, str]]:
    """Return the marks of the axis of losses, the best on top; its lower end holds what is worse, too."""
    marks = [(1 - float(norm(tick)), f"{tick:g}") for tick in style.loss_ticks(norm)]
    high = float(norm.vmax or 0)
    return [*(mark for mark in marks if mark[0] > _ROOM), (0.0, f"{high:.4g}, more")] if worst > high else marks


def _height(shown: Axis, values: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Return where values lie between the ends of a range, 0 to 1; a little beyond where they lie outside."""
    if shown.scale == "category":
        return style.places(shown, list(values), spread=0) / max(1, len(shown.choices) - 1)
    return np.clip(shown.place(values), -0.02, 1.02)


def _ruler(ax: Axes, place: float, marks: Iterable[tuple[float, str]]) -> None:
    """Draw an upright axis with ``marks``, each a height and a text."""
    ax.plot([place, place], [0, 1], color=style.BLACK, linewidth=1, zorder=6)
    for height, text in marks:
        ax.plot([place, place + 0.03], [height, height], color=style.BLACK, linewidth=1, zorder=6)
        ax.text(
            place + 0.05,
            height,
            text,
            fontsize=8.5,
            va="center",
            zorder=7,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )


def draw_importance(study: Study) -> Figure:
    """Draw how much each hyperparameter mattered, by two methods."""
    table = importance(study)
    if table.empty:
        return style.nothing("importance")
    shares = table.pivot_table(index=HYPERPARAMETER, columns=METHOD, values=IMPORTANCE)
    shares = shares.loc[shares.mean(axis=1).sort_values().index]
    figure, (ax,) = style.sheet("importance", width=6.4, height=1.7 + 0.55 * len(shares))
    for method, colour, shift in (
        (PED_ANOVA, COLOURS["scale-2"], 0.2),
        (FANOVA, COLOURS["scale-0"], -0.2),
    ):
        heights = np.arange(len(shares)) + shift
        ax.barh(heights, shares[method], height=0.36, color=colour, label=METHODS[method])
        for height, share in zip(heights, shares[method], strict=True):
            ax.annotate(
                f"{share:.0%}", (share, height), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8.5
            )
    epoch, trials = table[EPOCH].iloc[0], table[TRIALS].iloc[0]
    style.note(ax, f"by the losses of {trials} trials at epoch {epoch}")
    ax.set_yticks(range(len(shares)), list(shares.index))
    ax.set_xlabel(SHARE)
    ax.set_xlim(0, min(1.0, shares.to_numpy().max() * 1.15))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="y", visible=False)
    style.legend(figure, ax)
    return figure
