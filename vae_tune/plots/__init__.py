"""Figures of a study, in pairs: a function that computes the tidy table, and one that draws it.

``learning_curves(study)`` returns a data frame, ``draw_learning_curves(study)`` a matplotlib figure. All work on a
study in any condition; where there is nothing to draw, the figure says so.
"""

from __future__ import annotations

from vae_tune.plots.hyperparameters import importance, pair_grid, parallel, slices
from vae_tune.plots.models import active_units, loss_parts, pareto, train_validation_gap
from vae_tune.plots.progress import best_so_far, learning_curves, rung_correlation, rung_survival, timeline

__all__ = [
    "active_units",
    "best_so_far",
    "importance",
    "learning_curves",
    "loss_parts",
    "pair_grid",
    "parallel",
    "pareto",
    "rung_correlation",
    "rung_survival",
    "slices",
    "timeline",
    "train_validation_gap",
]
