"""Drawings of the trained models with matplotlib; the tables are from :mod:`vae_tune.analysis.models`."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    SymmetricalLogLocator,
)

from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.hyperparameters import axes as axes_of
from vae_tune.analysis.models import active_units, loss_parts, pareto, train_validation_gap
from vae_tune.analysis.study import Study
from vae_tune.config.names import (
    ACTIVE_UNITS,
    EPOCHS,
    GAP,
    LATENT_SIZE,
    ON_FRONT,
    PARAMETERS,
    STATE,
    TRIAL,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)
from vae_tune.record.trials import ranked
from vae_tune.views.figures import conventions, style

_FEW = 3


def draw_loss_parts(study: Study) -> Figure:
    """Draw reconstruction against KL, with lines of equal loss."""
    table = _finalists(study, loss_parts(study))
    if table.empty:
        return style.nothing("loss_parts")
    table, left_out = _without_outliers(table)
    figure, (ax,) = style.sheet("loss_parts", width=6.4, height=4.6)
    _trials(ax, study, table, VAL_KL, VAL_RECONSTRUCTION, left_out)
    _fit(ax, table[VAL_KL], table[VAL_RECONSTRUCTION])
    _equal_losses(ax)
    ax.set_xlabel(conventions.KL)
    ax.set_ylabel(conventions.RECONSTRUCTION)
    style.legend(figure, ax)
    return figure


def draw_active_units(study: Study) -> Figure:
    """Draw active units against latent size."""
    table = _finalists(study, active_units(study))
    if table.empty:
        return style.nothing("active_units")
    figure, (ax,) = style.sheet("active_units", width=6.4, height=4.6)
    sizes = table[LATENT_SIZE]
    shown = axes_of(study).get(LATENT_SIZE)
    if shown is None or shown.scale == "category":  # sizes are numbers all the same
        shown = Axis(LATENT_SIZE, "linear", int(sizes.min()) - 1, int(sizes.max()) + 1)
    _trials(ax, study, table, LATENT_SIZE, ACTIVE_UNITS)
    style.hyperparameter_axis(ax, "x", shown, sizes)
    if shown.scale == "log" and table[ACTIVE_UNITS].min() == 0:
        _from_zero(ax, max(shown.high, sizes.max()))
    else:
        style.hyperparameter_axis(ax, "y", shown, sizes)
        fewest = table[ACTIVE_UNITS].min()
        ax.set_ylim(bottom=min(ax.get_ylim()[0], 0.9 * fewest if shown.scale == "log" else fewest - 0.5))
    ax.axline((1, 1), (2, 2), color=style.GREY, linewidth=1, linestyle="--", zorder=1)
    ax.set_xlabel(shown.title)
    scales = {"log": f"{conventions.ACTIVE} (log)", "symlog": f"{conventions.ACTIVE} (log above 1)"}
    ax.set_ylabel(scales.get(ax.get_yscale(), conventions.ACTIVE))
    style.legend(figure, ax)
    return figure


def draw_train_validation_gap(study: Study) -> Figure:
    """Draw by how much the validation loss is above the training loss."""
    table = _finalists(study, train_validation_gap(study).dropna(subset=[GAP]))
    if table.empty:
        return style.nothing("train_validation_gap")
    figure, (ax,) = style.sheet("train_validation_gap", width=6.4, height=4.6)
    ax.axhline(0, color=style.GREY, linewidth=1, linestyle="--", zorder=1)
    _trials(ax, study, table, VAL_LOSS, GAP, style.loss_axis(ax, "x", table, GAP))
    ax.set_ylabel(conventions.GAP)
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    style.legend(figure, ax)
    return figure


def draw_pareto(study: Study) -> Figure:
    """Draw quality against the number of parameters, with the front."""
    table = _finalists(study, pareto(study))
    if table.empty:
        return style.nothing("pareto")
    figure, (ax,) = style.sheet("pareto", width=6.4, height=4.6)
    front = table[table[ON_FRONT]]
    ax.step(
        front[PARAMETERS], front[VAL_LOSS], where="post", color=style.BLACK, linewidth=1.6, label="front", zorder=5
    )
    _trials(ax, study, table, PARAMETERS, VAL_LOSS, style.loss_axis(ax, "y", table, PARAMETERS))
    ax.set_xscale("log")
    low, high = table[PARAMETERS].min() / 1.15, table[PARAMETERS].max() * 1.25
    ax.set_xlim(low, high)
    few = high < 4 * low  # 1, 2 and 5 of a decade would be one tick or none
    ax.xaxis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("parameters (log)")
    _name(ax, front)
    style.legend(figure, ax)
    return figure


def _from_zero(ax: Axes, high: float) -> None:
    """Let the y axis be logarithmic but below 1, so that it can begin at 0."""
    ax.set_yscale("symlog", linthresh=1, linscale=0.3)
    ax.set_ylim(-0.15, 1.2 * high)
    ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.short(value)))


def _finalists(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the trials that could win, or all rows where these are few.

    A model that was stopped after an epoch says little of what its configuration is like, and hides what the others
    are like by the range that its numbers need.
    """
    rows: Any = study.trials.reset_index().itertuples()
    finalists = table[table[TRIAL].isin([row.trial for row in ranked(rows, study.max_epochs)])]
    return finalists if len(finalists) >= _FEW else table


def _trials(ax: Axes, study: Study, table: pd.DataFrame, x: str, y: str, more: str = "") -> None:
    """Draw the trials of ``table`` and say which they are."""
    style.scatter(ax, table[x], table[y], table[STATE])
    style.star(ax, study, table, x, y)
    which = f"{len(table)} trials trained for {table[EPOCHS].max()} epochs" if len(table) < len(study.trials) else ""
    style.note(ax, ", ".join(text for text in (which, more) if text))


def _name(ax: Axes, front: pd.DataFrame) -> None:
    """Write the trials' numbers at their points, the best first, as far as there is room."""
    taken: list[Any] = []
    for row in front[::-1].itertuples():
        point: Any = getattr(row, PARAMETERS), row.val_loss
        place = ax.transAxes.inverted().transform(ax.transData.transform(point))
        if all(abs(place - other)[0] > 0.12 or abs(place - other)[1] > 0.06 for other in taken):
            ax.annotate(f"trial {row.trial}", point, (5, 6), textcoords="offset points", fontsize=8, zorder=7)
            taken.append(place)


def _without_outliers(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Leave out trials whose loss is far above the others', which would hide all differences; say how many."""
    low, high = table[VAL_LOSS].quantile([0.25, 0.75])
    near = table[table[VAL_LOSS] <= high + 3 * (high - low)]
    if len(near) < _FEW or len(near) == len(table):
        return table, ""
    return near, f"{len(table) - len(near)} with a far higher loss not shown"


def _fit(ax: Axes, x: pd.Series[Any], y: pd.Series[Any]) -> None:
    """Show the points with a margin; an axis of equal numbers gets a unit."""
    for values, limit in ((x, ax.set_xlim), (y, ax.set_ylim)):
        margin = 0.07 * (values.max() - values.min()) or 0.5
        limit(values.min() - margin, values.max() + margin)


def _equal_losses(ax: Axes) -> None:
    """Draw the diagonals on which the sum of both axes is the same."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for loss in MaxNLocator(7).tick_values(left + bottom, right + top):
        ax.axline((left, loss - left), slope=-1, color=style.PALE, linewidth=1, zorder=0)
        x = min(right, loss - bottom)  # where the line leaves the axes
        if left < x and loss - x < top:
            ax.annotate(
                f"{loss:g}",
                (x, loss - x),
                xytext=(-3, 3),
                textcoords="offset points",
                fontsize=7.5,
                color=style.GREY,
                ha="right",
            )
