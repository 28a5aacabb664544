"""The function that the driver gives to Ray Tune, in a module that does not import torch."""

from __future__ import annotations

from typing import Any


def ray_trainable(config: dict[str, Any], **settings: Any) -> None:
    """Train one trial: see :func:`vae_tune.cluster.trainable.train_trial`."""
    from vae_tune.cluster import trainable

    trainable.train_trial(config, **settings)
