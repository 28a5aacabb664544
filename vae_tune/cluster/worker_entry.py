"""The function that the driver gives to Ray Tune, in a module that does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vae_tune.vae.networks.code import Code
from vae_tune.vae.networks.registry import admit


def ray_trainable(config: dict[str, Any], *, codes: Mapping[str, Code], **settings: Any) -> None:
    """Train one trial: see :func:`vae_tune.cluster.trainable.train_trial`.

    ``codes`` is the code of users' classes, by the names of their models.
    """
    from vae_tune.cluster import trainable

    for model, code in codes.items():
        admit(code, model)
    trainable.train_trial(config, **settings)
