"""Figures of a study, in pairs: a function that computes the tidy table, and one that draws it.

``learning_curves(study)`` returns a data frame, ``draw_learning_curves(study)`` a matplotlib figure, which
``.savefig(path, dpi=200)`` writes to a file. All work on a study in any condition; where there is nothing to draw, the
figure says so. Matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_tune.analysis.hyperparameters import importance, pair_grid, parallel, slices
from vae_tune.analysis.models import active_units, loss_parts, pareto, train_validation_gap
from vae_tune.analysis.progress import best_so_far, learning_curves, rung_correlation, rung_survival, timeline

if TYPE_CHECKING:
    from vae_tune.views.figures.draw_hyperparameters import draw_importance, draw_pair_grid, draw_parallel, draw_slices
    from vae_tune.views.figures.draw_models import (
        draw_active_units,
        draw_loss_parts,
        draw_pareto,
        draw_train_validation_gap,
    )
    from vae_tune.views.figures.draw_progress import (
        draw_best_so_far,
        draw_learning_curves,
        draw_rung_correlation,
        draw_rung_survival,
        draw_timeline,
    )

__all__ = [
    "active_units",
    "best_so_far",
    "draw_active_units",
    "draw_best_so_far",
    "draw_importance",
    "draw_learning_curves",
    "draw_loss_parts",
    "draw_pair_grid",
    "draw_parallel",
    "draw_pareto",
    "draw_rung_correlation",
    "draw_rung_survival",
    "draw_slices",
    "draw_timeline",
    "draw_train_validation_gap",
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


def __getattr__(name: str) -> Any:
    """Import a drawing function, and matplotlib with it, only when it is asked for."""
    table = globals().get(name.removeprefix("draw_"))
    if not name.startswith("draw_") or not hasattr(table, "__module__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = table.__module__.rpartition(".")[2]
    return getattr(import_module(f"vae_tune.views.figures.draw_{module}"), name)


def __dir__() -> list[str]:
    """Return the public names, imported yet or not, and Python's own."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
