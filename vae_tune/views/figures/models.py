"""Figures of the trained models; their tables are in :mod:`vae_tune.analysis.models`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from vae_tune.analysis import models
from vae_tune.analysis.axis_ranges import log_ticks, round_ticks
from vae_tune.analysis.hyperparameters import Axis, axes
from vae_tune.analysis.study import Study, trial_configs
from vae_tune.config import message_hints, names
from vae_tune.config.names import ACTIVE_UNITS, GAP, LATENT_SIZE, PARAMETERS, TRIAL, VAL_KL, VAL_LOSS
from vae_tune.views.figures import chart
from vae_tune.views.figures.chart import Panel, Panels, axis, figure
from vae_tune.views.figures.conventions import elbo_title

_APART = (0.12, 0.06)  # of the panel, between two labels


@figure(
    models.loss_parts,
    "Reconstruction against KL",
    "All points on a diagonal have the same loss: models to the right store more in the latents, models further up "
    "lose more of the image.",
)
def loss_parts(study: Study) -> Panels:
    """Describe reconstruction against KL, with lines of equal loss."""
    table = models.loss_parts(study)
    if table.empty:
        return {}
    x, y = (
        chart.loss_axis(table, f"{word} ({study.elbo_unit.name})", column)
        for word, column in (("KL", VAL_KL), ("reconstruction", names.VAL_RECONSTRUCTION))
    )
    (left, right), (bottom, top) = chart.view_of(x), chart.view_of(y)
    ends = np.array([left, right])
    traces, labels = [], []
    for loss, text in round_ticks(left + bottom, right + top, count=7).items():
        traces.append(chart.line("", ends, loss - ends, "line"))
        end = min(right, loss - bottom)  # where the line leaves the panel
        if left < end and loss - end < top:
            labels.append(chart.label(text, end, loss - end, xanchor="right", yanchor="bottom"))
    if study.best is not None:
        best = float(study.best[VAL_LOSS])
        traces.append(chart.line("as good as the winner", ends, best - ends, width=2, dash="dash"))
    traces += chart.trial_points(study, table, VAL_KL, names.VAL_RECONSTRUCTION)
    return {"": Panel(x, y, traces, layout={"annotations": labels})}


@figure(
    models.active_units,
    "Latents that are used",
    "On the line all latents are active. A model below it has more latents than it uses.",
)
def active_units(study: Study) -> Panels:
    """Describe active units against latent size."""
    table = models.active_units(study)
    if table.empty:
        return {}
    sizes = table[LATENT_SIZE]
    known = axes(study).get(LATENT_SIZE)
    if known is None or known.scale == "category":
        known = Axis(LATENT_SIZE, "linear", int(sizes.min()) - 1, int(sizes.max()) + 1)
    x = chart.hyperparameter_axis(known.including(sizes))
    ends = np.geomspace(1, chart.view_of(x)[1], 50)
    traces = [chart.line("all latents", ends, ends, width=2, dash="dash")]
    traces += chart.trial_points(study, table, LATENT_SIZE, ACTIVE_UNITS)
    return {"": Panel(x, axis("active latents", (-0.5, 1.15 * table[ACTIVE_UNITS].max() + 0.5), whole=True), traces)}


@figure(
    models.train_validation_gap,
    "Overfitting",
    "How much worse each model is on images that it was not trained on. The training loss is the mean over the last "
    "epoch, during which the weights still changed. Models trained on an importance-weighted bound are left out: "
    "their training loss is that bound.",
    "No trial that trains on the negative ELBO has reported an epoch yet.",
)
def train_validation_gap(study: Study) -> Panels:
    """Describe how much the validation loss is above the training loss."""
    table = models.train_validation_gap(study).dropna(subset=[GAP])
    if table.empty:
        return {}
    title = f"validation - training loss ({study.elbo_unit.name})"
    low, high = chart.view_of(chart.loss_axis(table, title, GAP))
    y = axis(title, (min(-0.05 * high, low), max(0, high)))
    traces, zero = chart.trial_points(study, table, VAL_LOSS, GAP), chart.rule(y=0, dash="dash")
    x = chart.loss_axis(table, elbo_title(study))
    return {"": Panel(x, y, traces, layout={"shapes": [zero]})}


@figure(
    models.pareto,
    "Quality against size",
    "The line joins the models that no other model beats in both size and loss.",
    "No trial has reported an epoch yet; or the models are classes of yours, whose size needs their code: name them "
    "with --model of vae-tune report.",
)
def pareto(study: Study) -> Panels:
    """Describe the loss against the number of parameters, with the front."""
    table = models.pareto(study)
    if table.empty:
        return {}
    low, high = table[PARAMETERS].min() / 1.15, table[PARAMETERS].max() * 1.25
    x = axis("parameters (log)", (low, high), log_ticks(low, high), log=True)
    y, ranked_by = chart.ranked_axis(study, table), study.ranking.name
    front = table[table[names.ON_FRONT]]
    joined = chart.line("front", front[PARAMETERS], front[ranked_by], "best", width=2, shape="hv")
    traces = [joined] if len(front) else []
    traces += chart.trial_points(study, table, PARAMETERS, ranked_by)
    bottom, top = chart.view_of(y)
    labels: list[chart.Part] = []
    for trial, size, loss in front[[TRIAL, PARAMETERS, ranked_by]][::-1].itertuples(index=False):  # the best first
        here = chart.label(f"trial {trial}", math.log10(size), loss, yanchor="bottom")
        last = labels[-1] if labels else {"x": math.inf, "y": -math.inf}
        apart = abs(loss - last["y"]) > _APART[1] * (top - bottom)
        if last["x"] - here["x"] > _APART[0] * math.log10(high / low) or apart:
            labels.append(here)
    return {"": Panel(x, y, traces, _left_out(study, table), layout={"annotations": labels})}


def _left_out(study: Study, table: pd.DataFrame) -> str:
    """Return a sentence on the trials that are missing in ``table``, as their class was not named; else ""."""
    reported = study.epochs[TRIAL].drop_duplicates()
    missing = trial_configs(study, reported[~reported.isin(table[TRIAL])])
    if not missing:
        return ""
    models = list(dict.fromkeys(config.model for config in missing))
    command = message_hints.command("report", study.place, *(word for model in models for word in ("--model", model)))
    trials = "trial" if len(missing) == 1 else "trials"
    return f"Left out: {len(missing)} {trials} of {', '.join(models)}, whose size needs your code: {command}"
