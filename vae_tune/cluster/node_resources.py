"""What a Ray that this process starts may use of its machine."""

from __future__ import annotations

from vae_tune.config.compat.ray import NodeResources, object_store_bytes, visible_gpus
from vae_tune.config.machine_limits import available_memory, usable_cpus


def own_resources() -> NodeResources:
    """Return the resources that this process may use."""
    memory = available_memory()
    return NodeResources(usable_cpus(), visible_gpus(), None if memory is None else object_store_bytes(memory))
