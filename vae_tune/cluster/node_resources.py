"""What a Ray that this process starts may use of its machine."""

from __future__ import annotations

from vae_tune.config.compat.ray import NodeResources, object_store_bytes, visible_gpus
from vae_tune.config.machine_limits import available_memory, usable_cpus


def own_resources() -> NodeResources:
    """Return the resources that this process may use."""
    cpus, gpus, memory = usable_cpus(), visible_gpus(), available_memory()
    if memory is None:
        return NodeResources(cpus, gpus, None, None)
    store = object_store_bytes(memory)
    return NodeResources(cpus, gpus, store, max(1, memory - store))  # 0 would mean: unknown
