"""The figures as plotly JSON, drawn from the same tables as the files: for ``report.html``.

A figure is a plain dict (``data``, ``layout``), which costs no import of plotly. Colours are names with an ``@``, such
as ``@complete``, which the page replaces by those of its light or dark theme. ``customdata`` holds the numbers of the
trials, from which the page tells their configurations. Each function returns None where there is nothing to draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vae_tune.analysis import hyperparameters, models, progress
from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.study import Study
from vae_tune.analysis.view import curve_range, loss_range
from vae_tune.config.names import (
    ACTIVE_UNITS,
    BEST,
    COMPLETE,
    END_HOURS,
    EPOCH,
    EPOCH_A,
    EPOCH_B,
    EPOCHS,
    FAIL,
    GAP,
    HOURS,
    HYPERPARAMETER,
    IDLE,
    IMPORTANCE,
    METHOD,
    ON_FRONT,
    PARAMETERS,
    PRUNED,
    REACHED,
    REFERENCE_TRIAL,
    RUNNING,
    SPEARMAN,
    START_HOURS,
    STATE,
    STATE_WORDS,
    STOPPED,
    TRIAL,
    TRIALS,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
    VALUE,
    WORKER,
)
from vae_tune.views.figures import conventions
from vae_tune.views.figures.conventions import (
    BEST_SO_FAR,
    METHODS,
    REFERENCE,
    STOPPED_HERE,
    WENT_ON,
    WINNER,
    time_unit,
)
from vae_tune.views.figures.traces import (
    COLOURS,
    STATES,
    Figure,
    axis,
    category,
    curves,
    elsewhere,
    figure,
    line,
    loss_axis,
    number,
    parameter_axis,
    plain,
    points,
    trials,
    viewed,
)

_FRAME, _ROW = 100, 32
"""Pixels of a timeline's frame, and of a worker's row."""
_USUAL = 340
"""Pixels of a plot, as ``page.css`` has it."""
_PIXELS = 2000
"""An idle time shorter than this part of the search is not drawn."""
_WIDE = 5
"""Times by which sizes differ where 1, 2 and 5 of each decade are enough ticks."""


def best_so_far(study: Study, x: str, title: str) -> Figure | None:
    """Draw the incumbent against a column of :func:`vae_tune.plots.best_so_far`: order, finished or hours.

    Hours are shown in the unit that suits them, whose name is put before the ``title``.
    """
    table = progress.best_so_far(study)
    if table[VAL_LOSS].isna().all():
        return None
    if x == HOURS:
        units, unit = time_unit(table[HOURS].max())
        table, title = table.assign(**{HOURS: table[HOURS] * units}), f"{unit} {title}"
    step = line(table[x], table[BEST], BEST_SO_FAR, color="@best", shape="hv")
    told = table[table[VAL_LOSS].notna()]  # a state without any point needs no place in the legend
    return figure([step, *trials(study, told, x, VAL_LOSS)], axis(title), loss_axis(table))


def learning_curves(study: Study) -> Figure | None:
    """Draw every trial's validation loss: a trace a state, in which gaps part the trials; rungs as dotted lines."""
    table = progress.learning_curves(study)
    if table.empty:
        return None
    best = study.best_trial
    usual = table[~table[TRIAL].isin([best, REFERENCE_TRIAL])]
    traces = [
        curves(usual[usual[STATE] == state], STATE_WORDS[state], COLOURS[state], 1) | {"opacity": 0.7}
        for state in STATES
        if (usual[STATE] == state).any()
    ]
    ends = usual[usual[STATE] == PRUNED].drop_duplicates(TRIAL, keep="last")
    if len(ends):
        marks = points(ends, EPOCH, VAL_LOSS, STATE_WORDS[PRUNED], COLOURS[PRUNED], size=5)
        traces.append(marks | {"showlegend": False})
    special = {REFERENCE_TRIAL: (REFERENCE, 2, "dash")} | ({} if best is None else {best: (WINNER, 3, "solid")})
    for trial, (name, width, dash) in special.items():
        mine = table[table[TRIAL] == trial]
        if len(mine):
            traces.append(curves(mine, name, f"@{name}", width, dash))
    rungs = [
        {"type": "line", "x0": rung, "x1": rung, "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
        | {"line": {"color": "@soft", "width": 1, "dash": "dot"}}
        for rung in study.rungs
    ]
    epochs = axis("epoch", range=[0.5, int(table[EPOCH].max()) + 0.5])
    return figure(traces, epochs, viewed(curve_range(table, best)), shapes=rungs)


def rung_survival(study: Study) -> Figure | None:
    """Draw how many trials went on at each rung, and how many stopped there."""
    table = progress.rung_survival(study)
    if table.empty:
        return None
    stopped = table[STOPPED]
    parts = ((table[REACHED] - stopped, WENT_ON, COLOURS[COMPLETE]), (stopped, STOPPED_HERE, COLOURS[PRUNED]))
    bars = [
        {"type": "bar", "x": [f"epoch {epoch}" for epoch in table[EPOCH]], "y": plain(counts), "name": name}
        | {
            "marker": {"color": colour},
            "texttemplate": "%{y}",
            "hovertemplate": "%{x}: %{y} %{fullData.name}<extra></extra>",
        }
        for counts, name, colour in parts
    ]
    legible = {"mode": "hide", "minsize": 9}  # a low bar has its number under the pointer alone
    return figure(bars, {"type": "category"}, axis("trials"), barmode="stack", bargap=0.35, uniformtext=legible)


def rung_correlation(study: Study) -> Figure | None:
    """Draw the rank correlation of the trials' losses between each two rungs."""
    table = progress.rung_correlation(study)
    if table[SPEARMAN].isna().all():
        return None
    earlier, later = (sorted(set(table[column])) for column in (EPOCH_A, EPOCH_B))
    cells = {(row[EPOCH_A], row[EPOCH_B]): row for row in table.dropna().to_dict("records")}
    grid = [[cells.get((a, b)) for a in earlier] for b in later]
    heat = {
        "type": "heatmap",
        "x": [f"epoch {epoch}" for epoch in earlier],
        "y": [f"epoch {epoch}" for epoch in later],
        "z": [[cell and number(cell[SPEARMAN]) for cell in row] for row in grid],
        "text": [[f"{cell[SPEARMAN]:.2f}<br>{cell[TRIALS]} trials" if cell else "" for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "hoverinfo": "skip",
        "colorscale": [[0, "@failed"], [0.5, "@card"], [1, "@complete"]],
        "zmin": -1,
        "zmax": 1,
        "showscale": False,
    }
    return figure([heat], {"type": "category"}, {"type": "category"})


def timeline(study: Study) -> Figure | None:
    """Draw which worker trained what and when, and when it idled."""
    table = progress.timeline(study)
    if table.empty:
        return None
    whole = table[END_HOURS].max() - table[START_HOURS].min()
    factor, unit = time_unit(table[END_HOURS].max())
    start, length = table[START_HOURS] * factor, (table[END_HOURS] - table[START_HOURS]) * factor
    visible = (table[STATE] != IDLE) | (length > whole * factor / _PIXELS)
    bars = []
    for state in (COMPLETE, PRUNED, FAIL, RUNNING, IDLE):
        mine = visible & (table[STATE] == state)
        if mine.any():
            who = "idle" if state == IDLE else "trial %{customdata}"
            bar: Figure = {
                "type": "bar",
                "orientation": "h",
                "name": STATE_WORDS[state],
                "y": [category(worker) for worker in table[WORKER][mine]],
                "base": plain(start[mine]),
                "x": plain(length[mine]),
                "customdata": plain(table[TRIAL][mine]),
                "textposition": "none",
                "marker": {"color": COLOURS[state], "line": {"width": 0.5, "color": "@card"}},
                "hovertemplate": f"{who}<br>%{{base:.2f}} to %{{x:.2f}} {unit}<extra></extra>",
            }
            bars.append(bar)
    workers = {"type": "category", "categoryorder": "category descending"}
    height = _FRAME + _ROW * table[WORKER].nunique()
    return figure(bars, axis(f"{unit} of searching"), workers, barmode="overlay", bargap=0.25, height=height)


def importance(table: pd.DataFrame) -> Figure | None:
    """Draw how much each hyperparameter mattered: what :func:`vae_tune.plots.importance` returned."""
    if table.empty:
        return None
    order = list(table.groupby(HYPERPARAMETER)[IMPORTANCE].mean().sort_values().index)
    bars = []
    methods = ((hyperparameters.PED_ANOVA, "@scale-2"), (hyperparameters.FANOVA, "@scale-0"))
    for method, colour in methods:
        shares = table[table[METHOD] == method].set_index(HYPERPARAMETER)[IMPORTANCE].reindex(order)
        bar: Figure = {"type": "bar", "orientation": "h", "y": order, "x": plain(shares), "name": METHODS[method]}
        bar |= {"marker": {"color": colour}, "texttemplate": "%{x:.0%}"}
        bar["hovertemplate"] = "%{y}: %{x:.1%}<extra></extra>"
        bars.append(bar)
    across = axis(conventions.SHARE, tickformat=".0%")
    height = max(_USUAL, _FRAME + _ROW * len(order))
    return figure(bars, across, {"type": "category"}, barmode="group", height=height)


def slices(study: Study) -> dict[str, Figure]:
    """Draw the loss against each hyperparameter on its own, by name.

    Pruned trials are ticks above, since their losses are those of early epochs.
    """
    table = hyperparameters.slices(study).dropna(subset=[VAL_LOSS])
    figures = {}
    for name, known in hyperparameters.axes(study).items():
        part = table[table[HYPERPARAMETER] == name].rename(columns={VALUE: name})
        if known.scale == "category":
            part = part.assign(**{name: part[name].map(category)})
        if len(part):
            above = {"domain": [0.95, 1], "visible": False, "fixedrange": True}
            pruned = part[part[STATE] == PRUNED]
            rug = points(pruned, name, VAL_LOSS, STATE_WORDS[PRUNED], COLOURS[PRUNED], symbol="line-ns-open", size=9)
            rug |= {"yaxis": "y2", "y": [0] * len(pruned), "text": plain(pruned[VAL_LOSS])}
            rug["hovertemplate"] = "trial %{customdata}<extra></extra>"
            traces = [rug, elsewhere(pruned, name, VAL_LOSS)] if len(pruned) else []
            traces += trials(study, part[part[STATE] != PRUNED], name, VAL_LOSS)
            loss = loss_axis(part) | {"domain": [0, 0.93]}
            figures[name] = figure(traces, parameter_axis(known), loss, yaxis2=above)
    return figures


def pair_grid(study: Study, x: str, y: str) -> Figure | None:
    """Draw how good the trials in each cell of a plane of two hyperparameters were, and where the trials lie."""
    table = hyperparameters.pair_grid(study, x, y)
    if table.empty or table[VAL_LOSS].isna().all():
        return None
    known = hyperparameters.axes(study)
    columns, rows = (list(dict.fromkeys(table[name])) for name in (x, y))
    grids = {
        column: table.pivot(index=y, columns=x, values=column).reindex(index=rows, columns=columns)
        for column in (VAL_LOSS, EPOCHS, TRIALS)
    }
    heat = {
        "type": "heatmap",
        "x": _edges(known[x], len(columns)),
        "y": _edges(known[y], len(rows)),
        "z": [plain(row) for row in grids[VAL_LOSS].to_numpy()],
        "customdata": np.dstack([grids[EPOCHS], grids[TRIALS]]).tolist(),
        "hovertemplate": "best of %{customdata[1]} trials: %{z:.2f} nats, epoch %{customdata[0]}<extra></extra>",
        "hoverongaps": False,
        "colorscale": "@scale",
        "colorbar": {"title": {"text": conventions.LOSS, "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "text": [[epochs or "" for epochs in row] for row in grids[EPOCHS].to_numpy().tolist()],
        "texttemplate": "%{text}",
        "textfont": {"size": 10},
        **_loss_limits(study, "z"),
    }
    places = study.trials.reset_index()
    for name in (x, y):
        if known[name].scale == "category":
            places[name] = places[name].map(category)
    others = elsewhere(places[places[STATE] != COMPLETE], x, y)
    places = places[places[STATE] == COMPLETE]
    dots = points(places, x, y, "trials", "rgba(0,0,0,0)", size=5)
    dots["marker"]["line"] = {"width": 1, "color": "@ink"}
    best = places[places[TRIAL] == study.best_trial]
    stars = [points(best, x, y, WINNER, "@winner", symbol="star", size=14)] if len(best) else []
    return figure([heat, dots, *stars, others], parameter_axis(known[x]), parameter_axis(known[y]), showlegend=False)


def loss_parts(study: Study) -> Figure | None:
    """Draw what each trial's loss is made of; on the dashed line the sum is the winner's."""
    table = models.loss_parts(study)
    if table.empty:
        return None
    traces = trials(study, table, VAL_KL, VAL_RECONSTRUCTION)
    if study.best is not None:
        ends = np.array([table[VAL_KL].min(), table[VAL_KL].max()])
        traces.insert(0, line(ends, float(study.best[VAL_LOSS]) - ends, "as good as the winner", dash="dash"))
    y = loss_axis(table, VAL_RECONSTRUCTION, conventions.RECONSTRUCTION)
    return figure(traces, loss_axis(table, VAL_KL, conventions.KL), y)


def active_units(study: Study) -> Figure | None:
    """Draw how many latents the models use; on the dashed line they use all."""
    table = models.active_units(study)
    if table.empty:
        return None
    size = "latent_size"
    ends = np.array([1, table[size].max()])
    traces = [line(ends, ends, "all latents", dash="dash"), *trials(study, table, size, ACTIVE_UNITS)]
    return figure(traces, axis("latent_size"), axis(conventions.ACTIVE, rangemode="tozero"))


def train_validation_gap(study: Study) -> Figure | None:
    """Draw how much worse the models are on validation than on training images."""
    table = models.train_validation_gap(study).dropna(subset=[GAP])
    if table.empty:
        return None
    y = loss_axis(table, GAP, conventions.GAP)
    return figure(trials(study, table, VAL_LOSS, GAP), loss_axis(table), y)


def pareto(study: Study) -> Figure | None:
    """Draw the models' quality against their size; no model below and left of the line was found."""
    table = models.pareto(study)
    if table.empty:
        return None
    front = table[table[ON_FRONT]]
    steps = line(front[PARAMETERS], front[VAL_LOSS], "front", color="@best", shape="hv")
    traces = [*([steps] if len(front) else []), *trials(study, table, PARAMETERS, VAL_LOSS)]
    ticks = {"type": "log", "tickformat": "~s"}
    if table[PARAMETERS].max() > _WIDE * table[PARAMETERS].min():
        ticks |= {"dtick": "D2"}
    return figure(traces, axis("parameters (log)", **ticks), loss_axis(table))


def _edges(known: Axis, cells: int) -> list[Any]:
    """Return where the cells of a heat map begin and end, or its categories."""
    return [category(choice) for choice in known.choices] if known.scale == "category" else plain(known.edges(cells))


def _loss_limits(study: Study, prefix: str) -> dict[str, Any]:
    """Return the ends of a scale of colours, which are those of the axes of losses."""
    low, high = loss_range(study.trials[VAL_LOSS], study.trials[STATE]) or (0, 1)
    return {f"{prefix}min": number(low), f"{prefix}max": number(high)}
