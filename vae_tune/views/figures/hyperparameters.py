"""Figures of what the hyperparameters did; their tables are in :mod:`vae_tune.analysis.hyperparameters`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from vae_tune.analysis import hyperparameters
from vae_tune.analysis.axis_ranges import loss_range, round_ticks
from vae_tune.analysis.hyperparameters import FANOVA, MIN_TRIALS, PED_ANOVA, Axis
from vae_tune.analysis.study import Study
from vae_tune.config import names
from vae_tune.config.names import COMPLETE, EPOCHS, HYPERPARAMETER, IMPORTANCE, STATE, STATE_WORDS, TRIAL
from vae_tune.config.trial_values import MODEL, value_of
from vae_tune.views.figures import chart
from vae_tune.views.figures.chart import TRIAL_HOVER, Panel, Panels, Part, axis, figure
from vae_tune.views.figures.conventions import loss_title

_METHODS = {
    PED_ANOVA: ("PED-ANOVA: what sets the best apart", "scale-2", 0.2),
    FANOVA: ("fANOVA: what explains the loss", "scale-0", -0.2),
}
_BINS = 4  # colors of the lines of parallel coordinates
_ROOM = 0.06  # of an axis' height, between two ticks
_LOSS = f"{TRIAL_HOVER}<br>%{{yaxis.title.text}} %{{y:.5~g}}"


@figure(
    hyperparameters.importance,
    "Which hyperparameters matter",
    "PED-ANOVA ranks hyperparameters by how they separate the best trials from the others, fANOVA by how they explain "
    "the loss over the whole space. If they disagree, a hyperparameter separates only bad trials from good ones, or "
    "only good ones from the best.",
    "At least 10 trials that differ, with a loss at the same epoch, are needed.",
)
def importance(study: Study, table: pd.DataFrame | None = None) -> Panels:
    """Describe how much each hyperparameter mattered; ``table`` is that of the study if it is known already."""
    table = hyperparameters.importance(study) if table is None else table
    if table.empty:
        return {}
    if table[IMPORTANCE].isna().all():
        return {}
    note = _compared(table)
    if MODEL in table:
        where = table[MODEL].map(lambda model: f" ({model})" if model else "")
        table = table.assign(**{HYPERPARAMETER: table[HYPERPARAMETER] + where})
    means = table.groupby(HYPERPARAMETER)[IMPORTANCE].mean()
    order = list(means.fillna(0).sort_values(kind="stable").index)
    traces = []
    for method, (words, color, shift) in _METHODS.items():
        shares = table[table[names.METHOD] == method].set_index(HYPERPARAMETER)[IMPORTANCE].reindex(order)
        bar = chart.bars(words, color, shares, np.arange(len(order)) + shift, orientation="h", width=0.36)
        texts = ["unknown" if np.isnan(share) else f"{share:.0%}" for share in shares]
        bar |= {"text": texts, "textposition": "outside"}
        traces.append(bar | {"hovertemplate": "%{x:.1%}<extra></extra>"})
    end = min(1.05, 1.15 * table[IMPORTANCE].max())
    x = axis("share of the importance", (0, end), {share: f"{share:.0%}" for share in round_ticks(0, end)})
    y, layout = chart.named_axis(order), {"height": max(340, 100 + 32 * len(order))}
    return {"": Panel(x, y, traces, note, layout=layout)}


def _compared(table: pd.DataFrame) -> str:
    """Return sentences that say from which trials the importance is, and which models have too few."""
    if MODEL not in table:
        return f"From {table[names.TRIALS].iloc[0]} trials at epoch {table[names.EPOCH].iloc[0]}."
    known, unknown = [], []
    for row in table.drop_duplicates(MODEL).to_dict("records"):
        if math.isnan(row[IMPORTANCE]):
            unknown.append(f"{row[MODEL] or 'all models'} ({row[names.TRIALS]} trials)")
        else:
            of = f"of {row[MODEL]}" if row[MODEL] else "of all models"
            known.append(f"{row[names.TRIALS]} trials {of} at epoch {row[names.EPOCH]}")
    words = f"What only some models have is judged by their own trials: from {', '.join(known)}."
    needed = f"needs {MIN_TRIALS} trials that differ, with a loss at the same epoch"
    return words + (f" Unknown for {', '.join(unknown)}: {needed}." if unknown else "")


@figure(
    hyperparameters.slices,
    "Loss by hyperparameter",
    "Each trial's last loss. Where it still falls at an end of the range, the range may be too narrow there.",
)
def slices(study: Study) -> Panels:
    """Describe the loss against each hyperparameter; pruned trials, with losses of early epochs, are ticks above."""
    ranked_by = study.ranking.name
    table = hyperparameters.slices(study).dropna(subset=[ranked_by])
    panels = {}
    for name, searched in hyperparameters.axes(study).items() if len(table) else ():
        own = table[table[HYPERPARAMETER] == name]
        known = searched.including(own[names.VALUE])
        own = own.assign(place=known.coordinates(own[names.VALUE], spread=0.18), above=0)
        pruned, y = own[own[STATE] == names.PRUNED], chart.ranked_axis(study, own)
        traces = chart.trial_points(study, own[own[STATE] != names.PRUNED], "place", ranked_by, _LOSS)
        layout = {}
        if len(pruned):
            word = STATE_WORDS[names.PRUNED]
            ticks = chart.points(word, pruned, "place", "above", word, "line-ns-open", 9, TRIAL_HOVER)
            unseen = chart.points("", pruned, "place", ranked_by, word, "circle-open") | {"visible": False}
            traces = [ticks | {"yaxis": "y2"}, unseen, *traces]
            layout["yaxis2"] = {"domain": [0.95, 1], "visible": False, "fixedrange": True}
            y["domain"] = [0, 0.93]
        beyond = own["place"].isna().any()  # only the reference may lie outside the space
        note = f"The reference, {value_of(study.reference, name)}, is not on this axis." if beyond else ""
        panels[name] = Panel(chart.hyperparameter_axis(known), y, traces, note, layout=layout)
    return panels


@figure(
    hyperparameters.pair_grid,
    "Where good trials are",
    "The color is the best of the trials in the cell that trained longest, darker is better; the number is their "
    "epochs. Circles are complete trials.",
    "At least two searched hyperparameters and a trial with a loss are needed.",
)
def pair_grid(study: Study, x: str | None = None, y: str | None = None) -> Panels:
    """Describe how good the trials in each cell of a plane of two hyperparameters were."""
    table, ranked_by = hyperparameters.pair_grid(study, x, y), study.ranking.name
    if table[ranked_by].isna().all():
        return {}
    pair = [hyperparameters.axes(study)[str(name)] for name in table.columns[:2]]
    shape = [table[known.name].nunique() for known in pair]
    columns = ranked_by, EPOCHS, names.TRIALS
    losses, epochs, counts = (table[column].to_numpy().reshape(shape).T for column in columns)
    unit = study.loss_unit
    maximize = study.ranking.maximize
    limits = loss_range(study.trials[ranked_by], study.trials[STATE], maximize=maximize) or (0, 1)
    how: Part = {"colorscale": "@scale", "customdata": np.dstack([epochs, counts]).tolist()}
    how |= {"reversescale": True} if maximize else {}
    form = ".4g" if study.ranking.is_users else f".{unit.digits}f"
    loss = f"%{{z:{form}}} {unit.short}"
    how["hovertemplate"] = f"best of %{{customdata[1]}} trials: {loss}, epoch %{{customdata[0]}}<extra></extra>"
    texts = [[str(count or "") for count in row] for row in epochs]
    grid = chart.cells(pair[0].edges(10), pair[1].edges(10), losses, texts, loss_title(study), limits, **how)
    trials = study.trials.reset_index()
    pair = [known.including(trials[known.name]) for known in pair]
    trials["x"], trials["y"] = (known.coordinates(trials[known.name], spread=0.18) for known in pair)
    special, complete = trials[TRIAL].isin(list(chart.special_lines(study))), trials[STATE] == COMPLETE
    unseen = chart.points("", trials[~complete & ~special], "x", "y", "ink", "circle-open") | {"visible": False}
    dots = trials[complete & ~special]
    traces = [
        grid,
        chart.points(STATE_WORDS[COMPLETE], dots, "x", "y", "ink", "circle-open", hover=TRIAL_HOVER),
        *chart.trial_points(study, trials[special], "x", "y", TRIAL_HOVER),
        unseen,
    ]
    across, up = map(chart.hyperparameter_axis, pair)
    return {", ".join(known.name for known in pair): Panel(across, up, traces)}


@figure(
    hyperparameters.parallel,
    "Whole configurations",
    "One line per trial; the darker the line, the better the trial. Where the best lines spread out on an axis, "
    "several values work; where they meet, one value works best.",
)
def parallel(study: Study) -> Panels:
    """Describe each configuration as a line across all hyperparameters to its loss."""
    table = hyperparameters.parallel(study)
    known = table[study.ranking.name].notna()
    complete, usual = known & (table[STATE] == COMPLETE), known & (table[STATE] != names.FAIL)
    axes = list(hyperparameters.axes(study).values())
    views = {"complete trials": (complete, axes), "all": (usual, [*axes, Axis(EPOCHS, "linear", 0, study.max_epochs)])}
    return {label: _parallel(study, table, drawn, axes) for label, (drawn, axes) in views.items() if drawn.any()}


def _parallel(study: Study, table: pd.DataFrame, drawn: pd.Series[bool], axes: list[Axis]) -> Panel:
    """Return a panel with upright ``axes`` and one for the loss, and lines for the ``drawn`` trials."""
    known = [own.including(table[own.name]) for own in axes]
    heights = [np.nan_to_num(own.place(own.coordinates(table[own.name])), neginf=0) for own in known]
    for searched, height in zip(known, heights, strict=True):  # a line has a gap at what its model does not have
        if searched.name in study.space.conditions:
            height[table[searched.name].isna().to_numpy()] = np.nan
    values, maximize = table[study.ranking.name], study.ranking.maximize
    low, high = loss_range(values[drawn], table[STATE][drawn], maximize=maximize) or (0, 1)
    known.append(Axis(study.ranking.name, "linear", low, high))
    heights.append(known[-1].place(values.clip(low, high)))
    places, width = np.column_stack(heights), len(known)
    labels = [
        chart.label(text, x + 0.02, float(own.place(tick)))
        for x, own in enumerate(known)
        for tick, text in own.ticks.items()
    ]
    if maximize and (values[drawn] < low).any():
        labels = [words for words in labels if words["x"] < width - 1 or words["y"] > _ROOM]
        labels.append(chart.label(f"{low:.4g}, less", width - 0.98, 0))
    if not maximize and (values[drawn] > high).any():
        labels = [words for words in labels if words["x"] < width - 1 or words["y"] < 1 - _ROOM]
        labels.append(chart.label(f"{high:.4g}, more", width - 0.98, 1))
    special = chart.special_lines(study)
    usual = drawn & ~table[TRIAL].isin(list(special))
    ranks = study.losses(table).where(drawn).rank(method="first")
    bins = np.ceil(ranks / drawn.sum() * _BINS)  # 1 holds the best trials
    groups: list[tuple[pd.Series[bool], Part]] = [(~drawn, {"name": "", "color": "soft"})]
    for part in range(_BINS, 0, -1):
        groups.append((usual & (bins == part), {"name": "", "color": f"scale-{part - 1}", "opacity": 0.8}))
    groups += [(drawn & (table[TRIAL] == trial), style) for trial, style in special.items()]
    traces = []
    for own, style in groups:
        x, trials = np.tile(np.arange(width), own.sum()), np.repeat(table[TRIAL][own], width)
        line = chart.curves(x=x, y=places[own].ravel(), trials=trials, hover=TRIAL_HOVER, **style)
        traces += [line | {"visible": own is not groups[0][0]}] if own.any() else []
    rulers = [chart.rule(x=x, dash="solid") for x in range(width)]
    across = chart.named_axis(own.title for own in known) | {"range": [-0.2, width - 0.65], "fixedrange": True}
    up = axis("", (-0.04, 1.04)) | {"visible": False, "fixedrange": True}
    return Panel(across, up, traces, wide=True, layout={"shapes": rulers, "annotations": labels})
