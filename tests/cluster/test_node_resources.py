"""What a Ray may use of a node: what this process may, not what the machine has."""

import pytest

from vae_tune.cluster import node_resources
from vae_tune.cluster.node_resources import own_resources
from vae_tune.config.compat.ray import NodeResources

MIB = 1024 * 1024
SMALLEST = 75 * MIB
"""The smallest object store that Ray starts."""


@pytest.mark.parametrize(
    ("memory", "store", "trials"),
    [
        (10_000 * MIB, 3_000 * MIB, 7_000 * MIB),
        (100 * MIB, SMALLEST, 25 * MIB),
        (0, SMALLEST, 1),
        (None, None, None),
    ],
)
def test_three_tenths_of_the_memory_are_for_the_object_store_and_the_rest_for_trials(
    memory, store, trials, monkeypatch
):
    monkeypatch.setattr(node_resources, "available_memory", lambda: memory)
    monkeypatch.setattr(node_resources, "usable_cpus", lambda: 3)
    monkeypatch.setattr(node_resources, "visible_gpus", lambda: 2)
    assert own_resources() == NodeResources(3, 2, store, trials)
