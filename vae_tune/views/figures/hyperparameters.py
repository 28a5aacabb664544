"""Figures of what the hyperparameters did; their tables are in :mod:`vae_tune.analysis.hyperparameters`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vae_tune.analysis import hyperparameters
from vae_tune.analysis.hyperparameters import FANOVA, PED_ANOVA, Axis
from vae_tune.analysis.study import Study
from vae_tune.analysis.view import log_ticks, loss_range, round_ticks
from vae_tune.config import names
from vae_tune.config.names import (
    COMPLETE,
    EPOCHS,
    HYPERPARAMETER,
    IMPORTANCE,
    PRUNED,
    STATE,
    STATE_WORDS,
    TRIAL,
    VAL_LOSS,
)
from vae_tune.views.figures import chart
from vae_tune.views.figures.chart import Panel, Panels, Part, axis, figure
from vae_tune.views.figures.conventions import LOSS

_METHODS = {
    PED_ANOVA: ("PED-ANOVA: what sets the best apart", "scale-2", 0.2),
    FANOVA: ("fANOVA: what explains the loss", "scale-0", -0.2),
}
_USUAL = 340
"""Pixels of a plot, as ``page.css`` has it."""
_BINS = 4
"""Colours of the lines of :func:`parallel`."""
_ROOM = 0.06  # of an axis' height, between two ticks
_TRIAL = "trial %{customdata}"
_LOSS = f"{_TRIAL}<br>%{{yaxis.title.text}} %{{y:.5~g}}"


@figure(
    hyperparameters.importance,
    "Which hyperparameters matter",
    "PED-ANOVA tells what sets the best trials apart, fANOVA what explains the loss over the whole space. Where they "
    "disagree, a hyperparameter only tells bad trials from good ones, or only good ones from the best.",
    "At least 10 trials that differ, with a loss at the same epoch, are needed.",
)
def importance(study: Study, table: pd.DataFrame | None = None) -> Panels:
    """Describe how much each hyperparameter mattered; ``table`` is that of the study if it is known already."""
    table = hyperparameters.importance(study) if table is None else table
    if table.empty:
        return {}
    order = list(table.groupby(HYPERPARAMETER)[IMPORTANCE].mean().sort_values().index)
    traces = []
    for method, (words, colour, shift) in _METHODS.items():
        shares = table[table[names.METHOD] == method].set_index(HYPERPARAMETER)[IMPORTANCE].reindex(order)
        bar = chart.bars(words, colour, shares, np.arange(len(order)) + shift, orientation="h", width=0.36)
        bar |= {"text": [f"{share:.0%}" for share in shares], "textposition": "outside"}
        traces.append(bar | {"hovertemplate": "%{x:.1%}<extra></extra>"})
    end = min(1.05, 1.15 * table[IMPORTANCE].max())
    x = axis("share of the importance", (0, end), {share: f"{share:.0%}" for share in round_ticks(0, end)})
    y, layout = chart.rows(order, least=_USUAL)
    note = f"From {table[names.TRIALS].iloc[0]} trials at epoch {table[names.EPOCH].iloc[0]}."
    return {"": Panel(x, y, traces, note, layout=layout)}


@figure(
    hyperparameters.slices,
    "Loss by hyperparameter",
    "Each trial's last loss. Where it still falls at an end of the range, the range may be too narrow there.",
)
def slices(study: Study) -> Panels:
    """Describe the loss against each hyperparameter; pruned trials, with losses of early epochs, are ticks above."""
    table = hyperparameters.slices(study).dropna(subset=[VAL_LOSS])
    panels = {}
    for name, known in hyperparameters.axes(study).items() if len(table) else ():
        own = table[table[HYPERPARAMETER] == name]
        values = own[names.VALUE]
        own = own.assign(place=known.coordinates(values), above=0)
        pruned, y = own[own[STATE] == PRUNED], chart.loss_axis(own)
        traces = chart.trial_points(study, own[own[STATE] != PRUNED], "place", VAL_LOSS, _LOSS)
        layout = {}
        if len(pruned):
            word = STATE_WORDS[PRUNED]
            ticks = chart.points(word, pruned, "place", "above", word, "line-ns-open", 9, _TRIAL) | {"yaxis": "y2"}
            traces = [ticks, chart.unseen(pruned, "place", VAL_LOSS), *traces]
            layout["yaxis2"] = {"domain": [0.95, 1], "visible": False, "fixedrange": True}
            y["domain"] = [0, 0.93]
        beyond = own["place"].isna().any()  # only the reference may lie outside the space
        note = f"The reference, {getattr(study.reference, name)}, is not on this axis." if beyond else ""
        panels[name] = Panel(chart.hyperparameter_axis(known, list(values)), y, traces, note, layout=layout)
    return panels


@figure(
    hyperparameters.pair_grid,
    "Where good trials are",
    "The colour is the lowest loss among the trials in the cell that trained longest, the number is their epochs. "
    "Circles are complete trials.",
    "At least two searched hyperparameters and a trial with a loss are needed.",
)
def pair_grid(study: Study, x: str | None = None, y: str | None = None) -> Panels:
    """Describe how good the trials in each cell of a plane of two hyperparameters were."""
    table = hyperparameters.pair_grid(study, x, y)
    if table[VAL_LOSS].isna().all():
        return {}
    pair = [hyperparameters.axes(study)[str(name)] for name in table.columns[:2]]
    shape = [table[known.name].nunique() for known in pair]
    losses, epochs, counts = (table[column].to_numpy().reshape(shape).T for column in (VAL_LOSS, EPOCHS, names.TRIALS))
    low, high = loss_range(study.trials[VAL_LOSS], study.trials[STATE]) or (0, 1)
    hover = "best of %{customdata[1]} trials: %{z:.2f} nats, epoch %{customdata[0]}<extra></extra>"
    scale = {"colorscale": "@scale", "zmin": chart.number(low), "zmax": chart.number(high), "hovertemplate": hover}
    texts = [[str(count or "") for count in row] for row in epochs]
    grid = chart.cells(
        *map(_edges, pair), losses, texts, LOSS, customdata=np.dstack([epochs, counts]).tolist(), **scale
    )
    trials = study.trials.reset_index()
    columns = [trials[known.name] for known in pair]
    trials["x"], trials["y"] = (known.coordinates(values) for known, values in zip(pair, columns, strict=True))
    special = trials[TRIAL].isin(list(chart.special_lines(study)))
    complete = trials[STATE] == COMPLETE
    traces = [
        grid,
        chart.points(STATE_WORDS[COMPLETE], trials[complete & ~special], "x", "y", "ink", "circle-open", 5, _TRIAL),
        *chart.trial_points(study, trials[special], "x", "y", _TRIAL),
        chart.unseen(trials[~complete & ~special], "x", "y"),
    ]
    across, up = (chart.hyperparameter_axis(known, list(values)) for known, values in zip(pair, columns, strict=True))
    return {", ".join(known.name for known in pair): Panel(across, up, traces)}


def _edges(known: Axis, cells: int = 10) -> npt.NDArray[np.float64]:
    return np.arange(len(known.choices) + 1) - 0.5 if known.scale == "category" else known.edges(cells)


@figure(
    hyperparameters.parallel,
    "Whole configurations",
    "One line per trial; the darker the line, the lower the loss. Where the best lines spread out on an axis, several "
    "values work; where they meet, one value works best.",
)
def parallel(study: Study) -> Panels:
    """Describe each configuration as a line across all hyperparameters to its loss."""
    table = hyperparameters.parallel(study)
    known = table[VAL_LOSS].notna()
    views = {"complete trials": known & (table[STATE] == COMPLETE), "all": known & (table[STATE] != names.FAIL)}
    return {label: _parallel(study, table, drawn) for label, drawn in views.items() if drawn.any()}


def _parallel(study: Study, table: pd.DataFrame, drawn: pd.Series[bool]) -> Panel:
    """Return a panel with one upright axis per hyperparameter, and lines for the ``drawn`` trials."""
    known = list(hyperparameters.axes(study).values())
    if (table[STATE][drawn] != COMPLETE).any():
        known.append(Axis(EPOCHS, "linear", 0, study.max_epochs))
    low, high = loss_range(table[VAL_LOSS][drawn], table[STATE][drawn]) or (0, 1)
    scales = [_scale(own, table[own.name]) for own in known]
    scales.append(_scale(Axis(VAL_LOSS, "linear", low, high), table[VAL_LOSS].clip(low, high)))
    if (table[VAL_LOSS][drawn] > high).any():
        ticks = {place: text for place, text in scales[-1][1].items() if place < 1 - _ROOM}
        scales[-1] = scales[-1][0], ticks | {1.0: f"{high:.4g}, more"}
    heights, width = np.column_stack([heights for heights, _ in scales]), len(scales)
    ranks = table[VAL_LOSS].where(drawn).rank(method="first")
    bins = np.ceil(ranks / drawn.sum() * _BINS)  # 1 holds the best trials
    special = chart.special_lines(study)
    usual = drawn & ~table[TRIAL].isin(list(special))
    groups: list[tuple[pd.Series[bool], Part]] = [(~drawn, {"name": "", "colour": "soft"})]
    for part in range(_BINS, 0, -1):
        groups.append((usual & (bins == part), {"name": "", "colour": f"scale-{part - 1}", "opacity": 0.8}))
    groups += [(drawn & (table[TRIAL] == trial), style) for trial, style in special.items()]
    traces = []
    for own, style in groups:
        if own.any():
            x, trials = np.tile(np.arange(width), own.sum()), np.repeat(table[TRIAL][own], width)
            y = heights[own.to_numpy()].ravel()
            traces.append(
                chart.curves(x=x, y=y, trials=trials, hover=_TRIAL, **style) | {"visible": style is not groups[0][1]}
            )
    shapes = [chart.rule(x=place, dash="solid")[0] for place in range(width)]
    labels = [
        chart.label(text, place + 0.02, height) for place in range(width) for height, text in scales[place][1].items()
    ]
    titles = dict(enumerate([*(own.title for own in known), VAL_LOSS]))
    across = axis("", (-0.2, width - 0.65), titles) | {"side": "top", "fixedrange": True}
    up = axis("", (-0.04, 1.04)) | {"visible": False, "fixedrange": True}
    return Panel(across, up, traces, wide=True, layout={"shapes": shapes, "annotations": labels})


def _scale(known: Axis, values: pd.Series[Any]) -> tuple[npt.NDArray[np.float64], dict[float, str]]:
    """Return the heights of ``values`` on an upright axis, from 0 to 1, and its ticks; a zero on a log axis is at 0."""
    if known.scale == "category":
        options = known.options(values)
        step = 1 / max(1, len(options) - 1)
        return known.coordinates(values, spread=0) * step, {
            place * step: str(name) for place, name in enumerate(options)
        }
    numbers = [value for value in values if value > 0 or known.scale == "linear"]
    known = replace(known, low=min([known.low, *numbers]), high=max([known.high, *numbers]))
    ticks = (log_ticks if known.scale == "log" else round_ticks)(known.low, known.high)
    places = (float(place) for place in known.place(list(ticks)))
    return np.clip(known.place(values), 0, 1), dict(zip(places, ticks.values(), strict=True))
