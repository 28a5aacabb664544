"""What the driver hands to Ray Tune: apart from the training, so that it need not import torch before the workers."""

from __future__ import annotations

from typing import Any


def train_trial(config: dict[str, Any], **settings: Any) -> None:
    """Train one trial: see :func:`vae_tune.cluster.trainable.train_trial`."""
    from vae_tune.cluster import trainable

    trainable.train_trial(config, **settings)
