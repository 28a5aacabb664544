"""The figure of several studies side by side."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product

from matplotlib.figure import Figure

from vae_tune.analysis.progress import best_so_far_by_study
from vae_tune.analysis.study import Studies
from vae_tune.config import names
from vae_tune.views.figures import chart, matplotlib_renderer
from vae_tune.views.figures.conventions import loss_title, time_unit

_COLORS = ("complete", "winner", "unfinished", "reference", "failed", "best")
"""Colors of the studies, by their names in :mod:`vae_tune.views.figures.conventions`."""


def draw(studies: Studies) -> Figure:
    """Draw the incumbent of each study against time and against epochs, and the learning curve of its winner."""
    studies = replace(studies, studies=tuple(study.shown for study in studies.studies))
    loss = loss_title(studies.studies[0])
    table = best_so_far_by_study(studies)
    units, unit = time_unit(table[names.HOURS].max())
    table = table[table[names.BEST].notna()].copy()
    table[names.HOURS], table[names.STATE] = table[names.HOURS] * units, names.COMPLETE
    table[names.TRIAL] = table[names.STUDY] + table[names.TRIAL].astype(str)  # each study counts its trials from 0
    ranking = studies.studies[0].ranking
    losses = chart.loss_axis(table, loss, names.BEST, maximize=ranking.maximize)
    panels = {
        names.HOURS: chart.Panel(chart.axis(f"{unit} of searching"), losses, []),
        names.FINISHED: chart.Panel(chart.axis("epochs trained by all trials"), losses, []),
        names.EPOCH: chart.Panel(chart.axis("epoch of the winner"), chart.axis(loss), []),
    }
    styles = cycle(product(("solid", "dash", "dot"), _COLORS))
    for study, name, (dash, color) in zip(studies.studies, studies.names, styles, strict=False):
        own = table[table[names.STUDY] == name]
        gains = own[own[names.BEST].diff() != 0]
        for column in (names.HOURS, names.FINISHED):
            step = chart.line(name, own[column], own[names.BEST], color, width=2, dash=dash, shape="hv")
            panels[column].data.extend([step, chart.points(name, gains, column, names.BEST, color, "circle")])
        curve = study.epochs[study.epochs[names.TRIAL] == study.best_trial]
        learning = chart.line(name, curve[names.EPOCH], curve[ranking.name], color, width=2, dash=dash)
        panels[names.EPOCH].data.append(learning)
    drawn = panels if any(trace["x"] for panel in panels.values() for trace in panel.data) else {}
    return matplotlib_renderer.draw("Studies side by side", drawn, "No trial has reported an epoch yet.")
