"""The figures of the report, by section: title, how to read it, one sentence about this study, and the drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from vae_tune.analysis import models, progress
from vae_tune.analysis.captions import CAPTIONS
from vae_tune.analysis.compute_cost import IDLE, ComputeCost
from vae_tune.analysis.coordinates import parallel
from vae_tune.analysis.hyperparameters import Axis, axes, pair
from vae_tune.analysis.study import Study
from vae_tune.config.names import (
    ACTIVE_UNITS,
    COMPLETE,
    CONFIRMATION,
    EPOCH,
    FINISHED,
    GAP,
    HOURS,
    HYPERPARAMETER,
    IMPORTANCE,
    ORDER,
    PARAMETERS,
    PRUNED,
    REACHED,
    STATE,
    TRIAL,
    TRIALS,
    VAL_LOSS,
)
from vae_tune.views.figures import interactive
from vae_tune.views.figures.traces import Figure, out_of_view
from vae_tune.views.formatting import format_value

if TYPE_CHECKING:
    import pandas as pd

_MAX_PAIRED = 5
"""Hyperparameters in the pair grid at most."""
_CLOSE = 1.0
"""Nats per image by which a smaller model may be worse and still be worth naming."""


@dataclass(frozen=True)
class Card:
    """One figure, or several of which the reader picks one by its label."""

    key: str
    title: str
    caption: str
    figures: Mapping[str, Figure]
    """By label; empty if there is nothing to draw, which the caption then says."""
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """Cards under one heading."""

    key: str
    title: str
    cards: list[Card]


def make_sections(study: Study, cost: ComputeCost, importance: pd.DataFrame) -> list[Section]:
    """Return all figures of a study; ``importance`` is the table of :func:`vae_tune.plots.importance`."""
    return [
        Section("search", "The search", _search(study, cost)),
        Section("hyperparameters", "Hyperparameters", _hyperparameters(study, importance)),
        Section("models", "Models", _models(study)),
    ]


def _card(name: str, note: str, figures: Mapping[str, Figure | None], *, wide: bool = False) -> Card:
    """Return the card of the figure ``name``, with a ``note`` about this study."""
    drawn = {label: figure for label, figure in figures.items() if figure is not None}
    caption = CAPTIONS[name]
    text = " ".join(filter(None, (caption.reading, note, _hidden(drawn)))) if drawn else caption.nothing
    return Card(name, caption.title, text, drawn, wide)


def cards_for_page(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the figures of each card by its key, as ``figures.js`` reads them."""
    return {
        card.key: [{"label": label, "figure": figure} for label, figure in card.figures.items()]
        for section in sections
        for card in section.cards
    }


def _hidden(figures: Mapping[str, Figure]) -> str:
    """Return a sentence on the trials outside the initial view of the first figure; empty if there are none."""
    count = out_of_view(next(iter(figures.values())))
    return f"{count} {'trial lies' if count == 1 else 'trials lie'} outside this view." if count else ""


def _search(study: Study, cost: ComputeCost) -> list[Card]:
    best = {
        "trials": interactive.best_so_far(study, ORDER, "trials ended"),
        "epochs": interactive.best_so_far(study, FINISHED, "epochs trained by all trials"),
        "time": interactive.best_so_far(study, HOURS, "of searching"),
    }
    cards = [
        _card("best_so_far", _when_found(study), best),
        _card("learning_curves", "", {"": interactive.learning_curves(study)}),
    ]
    if study.rungs:
        reached = progress.rung_survival(study).set_index(EPOCH)[REACHED].get(study.max_epochs, 0)
        note = f"{reached} of {len(study.trials)} reached epoch {study.max_epochs}."
        cards += [
            _card("rung_survival", note, {"": interactive.rung_survival(study)}),
            _card("rung_correlation", "", {"": interactive.rung_correlation(study)}),
        ]
    hours = cost.hours.drop(CONFIRMATION, errors="ignore")  # it has idle time of its own
    known = not hours.isna().any() and hours.sum()
    note = f"Workers trained for {1 - hours[IDLE] / hours.sum():.0%} of the time." if known else ""
    return [*cards, _card("timeline", note, {"": interactive.timeline(study)}, wide=True)]


def _hyperparameters(study: Study, importance: pd.DataFrame) -> list[Card]:
    shares = importance.groupby(HYPERPARAMETER)[IMPORTANCE].mean()
    by_importance = dict(sorted(axes(study).items(), key=lambda item: -shares.get(item[0], 0)))
    basis = ""
    if len(importance):
        basis = f"From {importance[TRIALS].iloc[0]} trials at epoch {importance[EPOCH].iloc[0]}."
    cards = [_card("importance", basis, {"": interactive.importance(importance)})]
    figures, pruned = interactive.slices(study), (study.trials[STATE] == PRUNED).any()
    for number, (name, axis) in enumerate(by_importance.items()):
        figure = figures.get(name)
        pruned_note = "Pruned trials are ticks above." if figure and pruned else ""
        hidden = _hidden({"": figure}) if figure else ""
        caption = " ".join(filter(None, (_range(study, axis), pruned_note, hidden)))
        cards.append(Card(f"slice-{number}", name, caption, {"": figure} if figure else {}))
    names = sorted(by_importance, key=lambda name: name not in (pair(study) or ()))[:_MAX_PAIRED]
    if len(names) > 1:
        views = {f"{x}, {y}": interactive.pair_grid(study, x, y) for x, y in combinations(names, 2)}
        cards.append(_card("pair_grid", "Circles are complete trials.", views, wide=len(cards) % 2 == 0))
    views = {"complete trials": parallel(study, whole=True), "all": parallel(study, whole=False)}
    return [*cards, _card("parallel", "The darker the line, the lower the loss.", views, wide=True)]


def _models(study: Study) -> list[Card]:
    best = study.best_trial
    tables = models.active_units(study), models.train_validation_gap(study), models.pareto(study)
    active, gap, sizes = (table.set_index(TRIAL) for table in tables)
    used = overfit = smaller = ""
    if best is not None and best in active.index:
        used = f"The winner uses {active[ACTIVE_UNITS][best]} of {active['latent_size'][best]} latents."
        overfit = "" if math.isnan(gap[GAP][best]) else f"The winner: {gap[GAP][best]:+.2f} nats."
        close = sizes[(sizes[STATE] == COMPLETE) & (sizes[VAL_LOSS] <= sizes[VAL_LOSS][best] + _CLOSE)]
        if len(close) and close.index[0] != best:
            share = close[PARAMETERS].iloc[0] / sizes[PARAMETERS][best]
            smaller = f"Trial {close.index[0]} is within {_CLOSE:g} nat of the winner at {share:.0%} of its size."
    return [
        _card("loss_parts", "", {"": interactive.loss_parts(study)}),
        _card("active_units", used, {"": interactive.active_units(study)}),
        _card("train_validation_gap", overfit, {"": interactive.train_validation_gap(study)}),
        _card("pareto", smaller, {"": interactive.pareto(study)}),
    ]


def _when_found(study: Study) -> str:
    """Return a sentence on when the winner ended; empty without a winner."""
    order = progress.best_so_far(study).set_index(TRIAL)[ORDER]
    best = study.best_trial
    if best is None or best not in order.index:
        return ""
    return f"The winner, trial {best}, was number {order[best]} of {len(order)} to finish."


def _range(study: Study, axis: Axis) -> str:
    """Return sentences on the searched range, the winner's value and a reference outside of the axis."""
    searched = f"From {format_value(axis.low)} to {format_value(axis.high)}{', log' if axis.scale == 'log' else ''}."
    if axis.scale == "category":
        searched = f"One of {', '.join(map(str, axis.choices))}."
    best = "" if study.best is None else f" The winner: {format_value(study.best[axis.name])}."
    reference = getattr(study.reference, axis.name)
    if axis.scale == "log" and reference <= 0:
        best += f" The reference, {format_value(reference)}, is not on this axis."
    return f"{searched}{best}"
