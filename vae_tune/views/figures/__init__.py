"""The figures of a study: each is described once, drawn by plotly in the report and by matplotlib elsewhere.

A new figure is a function with the decorator :func:`vae_tune.views.figures.chart.figure` in one of the modules below.
"""

from vae_tune.views.figures import hyperparameters, models, progress
from vae_tune.views.figures.chart import FIGURES

__all__ = ["FIGURES", "hyperparameters", "models", "progress"]
