"""All figures of a study. A new module of descriptions must be imported here."""

from __future__ import annotations

from vae_tune.views.figures import hyperparameters, models, progress
from vae_tune.views.figures.chart import FIGURES

__all__ = ["FIGURES", "hyperparameters", "models", "progress"]
