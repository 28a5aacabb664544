"""The figure of a model's latent plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure


def draw(
    points: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Draw the latent means (images, 2) of images, one color per class; without classes all have the same.

    ``titles`` are those of the two axes.
    """
    count = len(classes)
    shades = colormaps["tab10"] if count <= 10 else colormaps["nipy_spectral"].resampled(count)
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    style: dict[str, Any] = {"s": 6, "alpha": 0.6, "linewidths": 0}
    # in the images' order, so that no class lies on top of the others
    axes.scatter(points[:, 0], points[:, 1], color=shades(labels), **style)
    axes.set(xlabel=titles[0], ylabel=titles[1], title=f"Latent means of {len(points):,} images")
    axes.set_aspect("equal", adjustable="datalim")
    if count:
        for label in np.unique(labels):
            axes.scatter([], [], color=shades(label), label=classes[label], **style)
        how: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
        legend = axes.legend(markerscale=4, ncols=1 + (count - 1) // 24, **how)
        for handle in filter(None, legend.legend_handles):
            handle.set_alpha(1)
    return figure
