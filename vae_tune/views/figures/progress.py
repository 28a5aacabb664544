"""Figures of how a search went; their tables are in :mod:`vae_tune.analysis.progress`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from vae_tune.analysis import compute_cost, progress
from vae_tune.analysis.axis_ranges import curve_range
from vae_tune.analysis.study import Study
from vae_tune.config import names
from vae_tune.config.names import COMPLETE, EPOCH, HOURS, PRUNED, STATE, STATE_WORDS, TRIAL, VAL_LOSS
from vae_tune.views.figures import chart
from vae_tune.views.figures.chart import Panel, Panels, Part, axis, figure
from vae_tune.views.figures.conventions import elbo_title, loss_title, time_unit
from vae_tune.views.json_values import plain

_SHORTEST_IDLE = 1 / 2000  # of the search: below it an idle time is not drawn


@figure(
    progress.best_so_far,
    "Best so far",
    "The line is the best of the trials trained to the end.",
    "No trial has ended with a loss yet.",
)
def best_so_far(study: Study) -> Panels:
    """Describe the incumbent against trials, epochs and time, with each ended trial's last loss."""
    table, ranked_by = progress.best_so_far(study), study.ranking.name
    units, unit = time_unit(table[HOURS].max())
    table = table.assign(**{HOURS: table[HOURS] * units})[table[ranked_by].notna()]
    titles = {
        names.ORDER: "trials ended",
        names.FINISHED: "epochs trained by all trials",
        HOURS: f"{unit} of searching",
    }
    panels = {}
    for label, column in zip(("trials", "epochs", "time"), titles if len(table) else (), strict=False):
        best = chart.line("best so far", table[column], table[names.BEST], "best", width=2, shape="hv")
        x = axis(titles[column], (0, 1.04 * table[column].max()), whole=column != HOURS)
        points = chart.trial_points(study, table, column, ranked_by)
        panels[label] = Panel(x, chart.ranked_axis(study, table), [best, *points])
    return panels


@figure(
    progress.learning_curves,
    "Learning curves",
    "Validation loss, or what else ranks trials, by epoch; at a rung (dotted) the poorer trials are stopped.",
)
def learning_curves(study: Study) -> Panels:
    """Describe each trial's loss by epoch: the winner's whole curve, and the later half of the good ones."""
    table = progress.learning_curves(study)
    last = int(table[EPOCH].max()) if len(table) else 0
    panels = {}
    for first in sorted({1, last // 2} - {0}) if last else ():
        part = table[table[EPOCH] >= first]
        margin = 0.03 * (last - first) or 0.5
        x = axis("epoch", (first - margin, last + margin), whole=True)
        rungs = [chart.rule("rung", x=rung) for rung in study.rungs if rung >= first]
        label = f"from epoch {first}" if first > 1 else "all epochs"
        ranked_by, maximize = study.ranking.name, study.ranking.maximize
        y = axis(loss_title(study), curve_range(part, study.best_trial, ranked_by, maximize=maximize))
        panels[label] = Panel(x, y, _curves(study, part, ranked_by), layout={"shapes": rungs})
        for column in (*study.ranking.columns[1:], VAL_LOSS) if first == 1 and study.ranking.is_users else ():
            title = elbo_title(study) if column == VAL_LOSS else f"{column} (validation)"
            y = axis(title, curve_range(part, study.best_trial, column, maximize=maximize and column != VAL_LOSS))
            panels[column] = Panel(x, y, _curves(study, part, column), layout={"shapes": rungs})
    return panels


def _curves(study: Study, table: pd.DataFrame, column: str) -> list[Part]:
    """Return the curves of each state, with marks where trials stopped, and those of the reference and the winner."""
    special = chart.special_lines(study)
    traces = []
    for state, symbol in chart.SYMBOLS.items():
        own, word = table[(table[STATE] == state) & ~table[TRIAL].isin(list(special))], STATE_WORDS[state]
        if len(own):
            traces.append(chart.curves(word, word, own[EPOCH], own[column], own[TRIAL], opacity=0.7))
            if state != COMPLETE:
                ends = own.drop_duplicates(TRIAL, keep="last")
                traces.append(chart.points(word, ends, EPOCH, column, word, symbol, 4))
    for trial, style in special.items():
        own = table[table[TRIAL] == trial]
        if len(own):
            traces.append(chart.curves(x=own[EPOCH], y=own[column], trials=own[TRIAL], **style))
    return traces


@figure(
    progress.rung_survival,
    "Trials at each rung",
    "Trials that reached each rung, and how many of them were pruned there.",
    "No trial has reached a rung yet.",
)
def rung_survival(study: Study) -> Panels:
    """Describe how many trials went on at each rung and how many were pruned there."""
    table = progress.rung_survival(study)
    if table.empty:
        return {}
    last = table[EPOCH] == study.max_epochs
    passed, stopped = table[names.REACHED] - table[names.STOPPED], table[names.STOPPED]
    complete, pruned = STATE_WORDS[COMPLETE], STATE_WORDS[PRUNED]
    traces = []
    for word, color, own, counts, base in (
        ("went on", "scale-2", ~last, passed, 0 * passed),
        (complete, complete, last, passed, 0 * passed),
        (pruned, pruned, ~last, stopped, passed),
    ):
        text = {"text": [str(count) for count in counts[own]], "textposition": "inside", "width": 0.65}
        text |= {"base": plain(base[own]), "hovertemplate": f"%{{text}} {word}<extra></extra>"}
        traces += [chart.bars(word, color, table.index[own], counts[own], **text)] if own.any() else []
    labels = []
    for place, (epoch, reached, _, share) in enumerate(table.itertuples(index=False)):
        words = f"{reached}, {share:.0%} passed" if epoch in study.rungs else f"{reached}"
        labels.append(chart.label(words, place, reached, xanchor="center", yanchor="bottom"))
    y = axis("trials", (0, 1.12 * table[names.REACHED].max()), whole=True)
    x = chart.named_axis(f"epoch {epoch}" for epoch in table[EPOCH])
    return {"": Panel(x, y, traces, layout={"annotations": labels})}


@figure(
    progress.rung_correlation,
    "Do early losses predict late ones?",
    "Rank correlation of the losses at two rungs, among trials that reached both: near 1 an early rung can be "
    "trusted. Pruned trials are missing here; with them the correlation would usually be higher.",
    "At least 3 trials must have reached two rungs.",
)
def rung_correlation(study: Study) -> Panels:
    """Describe the rank correlation of the trials' losses between each two rungs."""
    table = progress.rung_correlation(study).dropna()
    if table.empty:
        return {}
    table["text"] = [f"{row.spearman:.2f}<br>{row.trials} trials" for row in table.itertuples()]
    values, texts = (
        table.pivot_table(index=names.EPOCH_B, columns=names.EPOCH_A, values=column, aggfunc="first")
        for column in (names.SPEARMAN, "text")
    )
    how: Part = {"colorscale": [[0, "@failed"], [0.5, "@card"], [1, "@complete"]], "hoverinfo": "skip"}
    x, y = np.arange(values.shape[1] + 1) - 0.5, np.arange(values.shape[0] + 1) - 0.5
    words = texts.fillna("").to_numpy().tolist()
    grid = chart.cells(x, y, values.to_numpy(), words, "Spearman's rank correlation", (-1, 1), **how)
    earlier, later = ([f"epoch {epoch}" for epoch in epochs] for epochs in (values.columns, values.index))
    return {"": Panel(chart.named_axis(earlier), chart.named_axis(later), [grid])}


@figure(
    progress.timeline, "Timeline of the workers", "One row per worker, one bar per trial.", "No trial has started yet."
)
def timeline(study: Study) -> Panels:
    """Describe which worker trained what and when, and when it was idle."""
    table = progress.timeline(study)
    if table.empty:
        return {}
    units, unit = time_unit(table[names.END_HOURS].max())
    start, end = table[names.START_HOURS] * units, table[names.END_HOURS] * units
    workers = list(table[names.WORKER].unique())[::-1]
    place = table[names.WORKER].map(workers.index)
    traces = []
    for state in (*names.STATES, names.IDLE):
        own = (table[STATE] == state) & ((state != names.IDLE) | (end - start > end.max() * _SHORTEST_IDLE))
        if own.any():
            who, word = "idle" if state == names.IDLE else chart.TRIAL_HOVER, STATE_WORDS[state]
            bar = chart.bars(word, word, (end - start)[own], place[own], base=plain(start[own]), orientation="h")
            bar |= {"width": 0.76, "customdata": plain(table[TRIAL][own])}
            traces.append(bar | {"hovertemplate": f"{who}<br>%{{base:.2f}} to %{{x:.2f}} {unit}<extra></extra>"})
    hours = compute_cost.compute_cost(study).hours.drop(names.CONFIRMATION, errors="ignore")  # it idles on its own
    busy = 1 - hours[STATE_WORDS[names.IDLE]] / (hours.sum() or math.nan)
    note = f"Workers trained for {busy:.0%} of the time." if math.isfinite(busy) else ""
    x, layout = axis(f"{unit} of searching", (0, 1.01 * end.max() or 1)), {"height": 100 + 32 * len(workers)}
    return {"": Panel(x, chart.named_axis(workers), traces, note, True, layout)}
