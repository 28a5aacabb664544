"""Drawings of how a search went, with matplotlib; the tables are from :mod:`vae_tune.analysis.progress`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_tune.analysis.progress import best_so_far, learning_curves, rung_correlation, rung_survival, timeline
from vae_tune.analysis.study import Study
from vae_tune.analysis.view import beyond_words, curve_range
from vae_tune.config.names import (
    BEST,
    COMPLETE,
    END_HOURS,
    EPOCH,
    EPOCH_A,
    EPOCH_B,
    FAIL,
    HOURS,
    IDLE,
    ORDER,
    PRUNED,
    REACHED,
    REFERENCE_TRIAL,
    RUNNING,
    SHARE,
    SPEARMAN,
    START_HOURS,
    STATE,
    STATE_WORDS,
    STOPPED,
    TRIAL,
    TRIALS,
    VAL_LOSS,
    WORKER,
)
from vae_tune.views.figures import style
from vae_tune.views.figures.conventions import BEST_SO_FAR, LOSS, STOPPED_HERE, WENT_ON, time_unit

_MANY_EPOCHS = 15  # from which on a curve shows no mark at each


def draw_best_so_far(study: Study) -> Figure:
    """Draw the incumbent against trials and against time, with each ended trial's last loss."""
    table = best_so_far(study)
    shown = style.with_loss(table).copy()
    if shown.empty:
        return style.nothing("best_so_far")
    units, unit = time_unit(table[HOURS].max())
    shown["time"] = shown[HOURS] * units
    figure, axes = style.sheet("best_so_far", columns=2, width=8.4)
    for ax, column, label in zip(axes, (ORDER, "time"), ("trials ended", f"{unit} of searching"), strict=True):
        style.scatter(ax, shown[column], shown[VAL_LOSS], shown[STATE])
        best = shown[shown[BEST].notna()]
        if len(best):
            end = shown[column].max() * 1.02
            ax.step(
                [*best[column], end],
                [*best[BEST], best[BEST].iloc[-1]],
                where="post",
                color=style.BLACK,
                linewidth=1.8,
                zorder=5,
                label=BEST_SO_FAR,
            )
        style.star(ax, study, shown, column, VAL_LOSS)
        beyond = style.loss_axis(ax, "y", shown, column)
        ax.set_xlabel(label)
        ax.set_xlim(left=0)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set_ylabel("")
    axes[1].tick_params(labelleft=False)
    style.headnote(figure, beyond)
    style.legend(figure, *axes)
    return figure


def draw_learning_curves(study: Study) -> Figure:
    """Draw each trial's validation loss by epoch, the stopped ones apart from those trained to the end.

    On the left the winner's whole curve is in view, on the right the end of the good ones.
    """
    table = learning_curves(study)
    if table.empty:
        return style.nothing("learning_curves")
    figure, (whole, end) = style.sheet("learning_curves", columns=2, width=10.0, height=4.6)
    for ax in (whole, end):
        _all_curves(ax, study, table)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    last = int(table[EPOCH].max())
    begin = max(1, last // 2)
    whole.set_ylabel(LOSS)
    style.note(end, f"from epoch {begin} on")
    words = []
    for ax, side, first in ((whole, "left", 1), (end, "right", begin)):
        own = table[table[EPOCH] >= first]
        low, high = curve_range(own, study.best_trial) or (0, 1)
        ax.set_ylim(low, high)
        ax.set_xlim(first - 0.02 * last, last * 1.02)
        if above := int((own.groupby(TRIAL)[VAL_LOSS].min() > high).sum()):
            words.append(f"{side}: {beyond_words(above)}")
    style.headnote(figure, ", ".join(words))
    style.legend(figure, whole)
    return figure


def _all_curves(ax: Axes, study: Study, table: pd.DataFrame) -> None:
    """Draw the curves of all trials, and the rungs."""
    best = study.best_trial
    opaque = style.crowd(table[TRIAL].nunique()) ** 2
    mark = "o" if study.max_epochs < _MANY_EPOCHS else ""
    for state, zorder in ((PRUNED, 2), (FAIL, 3), (RUNNING, 3), (COMPLETE, 4)):
        of_state = table[(table[STATE] == state) & ~table[TRIAL].isin([best, REFERENCE_TRIAL])]
        _curves(
            ax,
            of_state,
            color=style.STATE_COLOURS[state],
            linewidths=1.1,
            zorder=zorder,
            alpha=opaque if state != PRUNED else 0.6 * opaque,
            label=STATE_WORDS[state],
        )
        ends = of_state.drop_duplicates(TRIAL, keep="last")
        if state != COMPLETE:
            marks = {PRUNED: ".", FAIL: "x", RUNNING: "^"}
            ax.scatter(
                ends[EPOCH],
                ends[VAL_LOSS],
                marker=marks[state],
                s=18,
                color=style.STATE_COLOURS[state],
                zorder=zorder,
                linewidths=1,
            )
    for trial, line in style.special_lines(study).items():
        own = table[table[TRIAL] == trial]
        if len(own):
            ax.plot(own[EPOCH], own[VAL_LOSS], marker=mark, markersize=3.5, **line)
    for rung in study.rungs:
        ax.axvline(rung, color=style.GREY, linewidth=1, linestyle=":", zorder=1)
        ax.annotate(
            "rung",
            (rung, 1),
            (4, -2),
            ax.get_xaxis_transform(),
            "offset points",
            va="top",
            color=style.GREY,
            annotation_clip=True,
        )


def _curves(ax: Axes, table: pd.DataFrame, **how: Any) -> None:
    """Draw one line a trial."""
    if len(table):
        lines = [np.column_stack([own[EPOCH], own[VAL_LOSS]]) for _, own in table.groupby(TRIAL)]
        ax.add_collection(LineCollection(lines, **how))


def draw_rung_survival(study: Study) -> Figure:
    """Draw how many trials each rung stopped and let pass."""
    table = rung_survival(study)
    if table.empty:
        return style.nothing("rung_survival")
    figure, (ax,) = style.sheet("rung_survival", width=6.4, height=3.8)
    places = np.arange(len(table))
    passed = table[REACHED] - table[STOPPED]
    ax.bar(places, passed, color=style.BLUE, width=0.62, label=WENT_ON)
    ax.bar(
        places,
        table[STOPPED],
        bottom=passed,
        color=style.GREY,
        width=0.62,
        label=STOPPED_HERE,
        hatch="///",
        edgecolor="white",
    )
    for place, row in enumerate(table.itertuples()):
        note = f"{row.reached}"
        if row.epoch in study.rungs:
            note += f", {getattr(row, SHARE):.0%} passed"
        ax.annotate(note, (place, row.reached), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9)
    ax.set_xticks(places, [f"epoch {epoch}" for epoch in table[EPOCH]])
    ax.set_ylabel("trials")
    ax.set_ylim(0, table[REACHED].max() * 1.12)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="x", visible=False)
    style.legend(figure, ax)
    return figure


def draw_rung_correlation(study: Study) -> Figure:
    """Draw the rank correlation between each two rungs."""
    table = rung_correlation(study)
    if not table[SPEARMAN].notna().any():
        return style.nothing("rung_correlation")
    firsts, seconds = sorted(table[EPOCH_A].unique()), sorted(table[EPOCH_B].unique())
    figure, (ax,) = style.sheet("rung_correlation", width=2.6 + 1.1 * len(firsts), height=1.7 + 0.75 * len(seconds))
    grid = table.pivot_table(index=EPOCH_B, columns=EPOCH_A, values=SPEARMAN, dropna=False)
    grid = grid.reindex(index=seconds, columns=firsts)
    mesh = ax.imshow(grid.to_numpy(), cmap=style.AGREEMENT, vmin=-1, vmax=1, aspect="auto")
    for row in table.itertuples():
        value: Any = row.spearman
        known = pd.notna(value)
        text = f"{value:.2f}\n" if known else "?\n"
        ax.text(
            firsts.index(row.epoch_a),
            seconds.index(row.epoch_b),
            f"{text}{getattr(row, TRIALS)} trials",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if known and abs(value) > 0.6 else style.BLACK,
        )
    ax.set_xticks(range(len(firsts)), [f"epoch {epoch}" for epoch in firsts])
    ax.set_yticks(range(len(seconds)), [f"epoch {epoch}" for epoch in seconds])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    style.colorbar(figure, mesh, ax, "Spearman's rank correlation")
    return figure


def draw_timeline(study: Study) -> Figure:
    """Draw what each worker trained and when it idled."""
    table = timeline(study)
    if table.empty:
        return style.nothing("timeline")
    units, unit = time_unit(table[END_HOURS].max())
    workers = list(table[WORKER].unique())
    figure, (ax,) = style.sheet("timeline", width=8.4, height=1.6 + min(8.0, 0.42 * len(workers)))
    for state in (COMPLETE, PRUNED, FAIL, RUNNING):
        for worker, own in table[table[STATE] == state].groupby(WORKER):
            bars = [
                (start * units, (end - start) * units)
                for start, end in zip(own[START_HOURS], own[END_HOURS], strict=True)
            ]
            ax.broken_barh(
                bars,
                (workers.index(str(worker)) - 0.38, 0.76),
                facecolors=style.STATE_COLOURS[state],
                edgecolor="white",
                linewidth=0.5 if len(table) < 40 * len(workers) else 0,
                label=STATE_WORDS[state],
            )
    spans = (table[END_HOURS] - table[START_HOURS]).groupby(table[STATE]).sum()
    idle = spans.get(IDLE, 0.0) / spans.sum() if spans.sum() else 0.0
    style.note(ax, f"{idle:.0%} of the workers' time idle")
    ax.set_yticks(range(len(workers)), [style.as_text(worker) for worker in workers])
    ax.set_ylim(len(workers) - 0.4, -0.6)
    ax.set_xlim(0, table[END_HOURS].max() * units * 1.01 or 1)
    ax.set_xlabel(f"{unit} of searching")
    ax.grid(axis="y", visible=False)
    style.legend(figure, ax)
    return figure
