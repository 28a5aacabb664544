"""The figure of an exploration: the test loss of each latent size."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.config import names


def draw(sizes: pd.DataFrame, unit: LossUnit) -> Figure:
    """Draw mean and 95 % interval of the test loss against the latent size."""
    mean, high = (sizes[f"{names.TEST_LOSS}_{part}"] / unit.nats for part in ("mean", "high"))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(sizes[names.LATENT_SIZE], mean, yerr=(high - mean).fillna(0), marker="o", markersize=4, capsize=4)
    axes.set_xscale("log")
    axes.set_xticks(sizes[names.LATENT_SIZE].tolist())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set(xlabel="latent size (log)", ylabel=f"test negative ELBO, {unit.name} ({unit.kind.name})")
    axes.set_title("Mean over seeds, with its 95 % interval")
    return figure
