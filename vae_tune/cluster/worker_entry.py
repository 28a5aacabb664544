"""The trainable that Ray Tune starts in its workers, and its resources; imports neither torch nor Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ray import tune

from vae_tune.config.names import GPUS
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


def trial_resources(cpus: int, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """Return what Ray reserves for a trial: ``cpus`` cores, and its share of a GPU."""
    return _resources(cpus, config[GPUS])


@cache
def _resources(cpus: int, gpus: float) -> tune.PlacementGroupFactory:
    """Return one object for all trials with these resources: Ray Tune keeps it for each."""
    return tune.PlacementGroupFactory([{"CPU": float(cpus), **({"GPU": gpus} if gpus else {})}])
