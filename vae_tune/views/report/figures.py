"""The figures of the report, by section: title, how to read it, one sentence about this study, and the drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from vae_tune.analysis import models, progress
from vae_tune.analysis.hyperparameters import Axis, axes, pair
from vae_tune.analysis.study import Study
from vae_tune.config import names
from vae_tune.config.names import ACTIVE_UNITS, COMPLETE, EPOCH, GAP, IMPORTANCE, PARAMETERS, STATE, TRIAL
from vae_tune.views.figures import FIGURES
from vae_tune.views.figures.chart import Panels
from vae_tune.views.formatting import format_value

_SECTIONS = {"progress": "The search", "hyperparameters": "Hyperparameters", "models": "Models"}
"""Titles of the sections, by the module that describes their figures."""
_MAX_PAIRED = 5  # hyperparameters in the pair grid
_CLOSE = 1.0  # nats by which a smaller model may be worse and still be worth naming, see Study.threshold


@dataclass(frozen=True)
class Card:
    """One figure, or several of which the reader picks one by its label."""

    key: str
    title: str
    caption: str
    figures: Mapping[str, Any]  # by label; empty if there is nothing to draw, which the caption then says
    wide: bool = False

    @property
    def views(self) -> list[dict[str, Any]]:
        """The figures as ``figures.js`` reads them."""
        return [{"label": label, "figure": figure} for label, figure in self.figures.items()]


@dataclass(frozen=True)
class Section:
    """Cards under one heading."""

    key: str
    title: str
    cards: list[Card]


def make_sections(study: Study, importance: pd.DataFrame) -> list[Section]:
    """Return all plots of a study; ``importance`` is what :func:`vae_tune.plots.importance` returned."""
    notes = _notes(study)
    cards: dict[str, list[Card]] = {module: [] for module in _SECTIONS}
    for name, figure in FIGURES.items():
        section = cards[figure.panels.__module__.rpartition(".")[2]]
        if name == "slices":
            section += _slices(study, importance)
        elif name == "pair_grid":
            panels = _pairs(study, importance)
            section += [_card(name, panels, wide=len(section) % 2 == 0)] if len(axes(study)) > 1 else []
        elif not name.startswith("rung_") or study.rungs:
            panels = figure.panels(study, importance) if name == "importance" else figure.panels(study)
            section.append(_card(name, panels, notes.get(name, "")))
    return [Section(module, title, cards[module]) for module, title in _SECTIONS.items()]


def _card(name: str, panels: Panels, note: str = "", *, wide: bool = False) -> Card:
    """Return the card of a figure, with a ``note`` about this study."""
    figure, drawn = FIGURES[name], {label: panel.figure() for label, panel in panels.items()}
    words = [figure.missing]
    for first in [*panels.values()][:1]:
        words, wide = [figure.reading, note, first.note, first.hidden()], wide or first.wide
    return Card(name, figure.title, " ".join(filter(None, words)), drawn, wide)


def _by_importance(study: Study, importance: pd.DataFrame) -> list[str]:
    """Return the searched hyperparameters, the one that matters most first."""
    shares = importance.groupby(names.HYPERPARAMETER)[IMPORTANCE].mean().dropna()
    return sorted(axes(study), key=lambda name: -shares.get(name, 0))


def _slices(study: Study, importance: pd.DataFrame) -> list[Card]:
    """Return one card per hyperparameter."""
    panels, pruned = FIGURES["slices"].panels(study), (study.trials[STATE] == names.PRUNED).any()
    cards = []
    for number, name in enumerate(_by_importance(study, importance)):
        words = [_range(study, axes(study)[name])]
        if panel := panels.get(name):
            words += ["Pruned trials are ticks above." if pruned else "", panel.note, panel.hidden()]
        drawn = {"": panel.figure()} if panel else {}
        cards.append(Card(f"slice-{number}", name, " ".join(filter(None, words)), drawn))
    return cards


def _pairs(study: Study, importance: pd.DataFrame) -> Panels:
    """Return a panel for every two of the hyperparameters that matter most."""
    order = _by_importance(study, importance)
    chosen = sorted(order, key=lambda name: name not in (pair(study) or ()))[:_MAX_PAIRED]
    pairs = [FIGURES["pair_grid"].panels(study, x, y) for x, y in combinations(chosen, 2)]
    return {label: panel for panels in pairs for label, panel in panels.items()}


def _notes(study: Study) -> dict[str, str]:
    """Return one sentence about this study for each figure that has one."""
    best, unit, near = study.best_trial, study.loss_unit, study.threshold(_CLOSE)
    reached = progress.rung_survival(study).set_index(EPOCH)[names.REACHED].get(study.max_epochs, 0)
    order = progress.best_so_far(study).set_index(TRIAL)[names.ORDER]
    tables = models.active_units(study), models.train_validation_gap(study), models.pareto(study)
    active, gap, sizes = (table.set_index(TRIAL) for table in tables)
    found = used = overfit = smaller = ""
    if best is not None and best in order.index:
        found = f"The winner, trial {best}, was number {order[best]} of {len(order)} to finish."
    if best is not None and best in active.index:
        used = f"The winner uses {active[ACTIVE_UNITS][best]} of {active['latent_size'][best]} latents."
        elbo = study.elbo_unit
        overfit = "" if math.isnan(gap[GAP][best]) else f"The winner: {elbo.text(gap[GAP][best], '+')} {elbo.short}."
    if best is not None and best in sizes.index:
        losses = study.losses(sizes)
        close = sizes[(sizes[STATE] == COMPLETE) & (losses <= losses[best] + near)]
        if len(close) and close.index[0] != best:
            share = close[PARAMETERS].iloc[0] / sizes[PARAMETERS][best]
            within = f"{near:g} nat" if near == 1 and not study.ranking.is_users else unit.with_name(near)
            smaller = f"Trial {close.index[0]} is within {within} of the winner at {share:.0%} of its size."
    survivors = f"{reached} of {len(study.trials)} reached epoch {study.max_epochs}."
    about_models = {"active_units": used, "train_validation_gap": overfit, "pareto": smaller}
    return {"best_so_far": found, "rung_survival": survivors, **about_models}


def _range(study: Study, axis: Axis) -> str:
    """Return sentences on the searched range and the winner's value."""
    searched = f"From {format_value(axis.low)} to {format_value(axis.high)}{', log' if axis.scale == 'log' else ''}."
    if axis.scale == "category":
        searched = f"One of {', '.join(map(str, axis.choices))}."
    best = None if study.best is None else study.best[axis.name]
    known = best is not None and pd.notna(best)  # the winner's model may not have it
    return f"{searched} The winner: {format_value(best)}." if known else searched
