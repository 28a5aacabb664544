"""How many trials of a search share a GPU: as many as fit if each has the largest configuration of the space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vae_tune.cluster.gpus import Gpu, most_per_gpu
from vae_tune.cluster.slots import MOST_PER_GPU
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import MODEL, with_values
from vae_tune.images.datasets import Images
from vae_tune.tasks.model_code import models_of
from vae_tune.vae.memory_estimate import gpu_bytes

_CUDA = 700_000_000
"""Bytes that a process takes for CUDA itself and the work space of its libraries: an assumption, not measured."""
_FLOAT = 4


def trials_per_gpu(
    gpus: Sequence[Gpu], base: TrialConfig, space: Space, images: Images, say: Callable[[str], None]
) -> int:
    """Return how many trials may share each of ``gpus``; 8 if nothing is known of them.

    ``say`` gets a line if not even one may fit.
    """
    if not gpus:
        return MOST_PER_GPU
    return most_per_gpu(gpus, largest_trial(base, space, images), say)


def largest_trial(base: TrialConfig, space: Space, images: Images) -> int:
    """Return the bytes of GPU memory that a trial takes at most, with its copy of the images.

    Of each range only the ends are tried, of one hyperparameter after another: a network grows or shrinks with each.
    """

    def needed(values: Mapping[str, Any]) -> int:
        try:
            return gpu_bytes(with_values(base, values), images.shape, len(images.validation))
        except (
            Exception
        ):  # of a user's class, for example, whose options do not go together: no trial has these values
            return 0

    most = needed({})
    for model in models_of(base, space):
        largest: dict[str, Any] = {MODEL: model}
        for name, searched in space.active(model).items():
            if name != MODEL:
                candidates = [{**largest, name: value} for value in _ends(searched)]
                largest = max(candidates, key=needed)
        most = max(most, needed(largest))
    return _CUDA + _images(images) + most


def _ends(searched: Any) -> Sequence[Any]:
    """Return the ends of a range, or all choices."""
    return searched.choices if hasattr(searched, "choices") else (searched.low, searched.high)


def _images(images: Images) -> int:
    """Return the bytes of the images on a GPU: those to train on as they are and scaled, and those to validate on."""
    return images.pixels * ((1 + _FLOAT) * len(images.train) + (1 + _FLOAT) * len(images.validation))
