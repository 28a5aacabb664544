"""How many trials run side by side, and on what, told from the nodes that there are."""

from __future__ import annotations

import math
import time

import pytest

from vae_tune.cluster import slots as module
from vae_tune.cluster.slots import CurrentSlots, Slots, count_slots, find_slots, requested_slots
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import ResourceConfig

CPU, GPU = {"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "config", "expected"),
    [
        ([CPU], {}, Slots(16, 1, 0)),
        ([CPU, CPU], {"cpus_per_trial": 3}, Slots(10, 3, 0)),
        ([CPU], {"max_concurrent": 5}, Slots(5, 1, 0)),
        ([{"CPU": 0.0}], {}, Slots(0, 1, 0)),
        ([GPU], {}, Slots(4, 1, 0.25)),
        ([{"CPU": 2.0, "GPU": 4.0}], {}, Slots(2, 1, 2.0)),
        ([GPU, CPU], {}, Slots(20, 1, 0.25, without_gpu=16)),  # of both kinds, where nothing else is said
        ([GPU, CPU], {"max_concurrent": 3}, Slots(3, 1, 0.3333)),  # GPUs first
        ([GPU, CPU], {"max_concurrent": 6}, Slots(6, 1, 0.25, without_gpu=2)),
        ([GPU, CPU], {"gpus_per_trial": 0.5}, Slots(2, 1, 0.5)),
        ([GPU, CPU], {"gpus_per_trial": 0}, Slots(20, 1, 0)),
        ([CPU], {"gpus_per_trial": 0.5}, Slots(0, 1, 0.5)),
        # a share is one of a single GPU: what is left of several does not make another
        ([{"CPU": 6.0, "GPU": 4.0}], {}, Slots(6, 1, 0.5)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"max_concurrent": 3}, Slots(3, 1, 0.5)),
        ([{"CPU": 12.0, "GPU": 8.0}], {}, Slots(12, 1, 0.5)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpus_per_trial": 0.4}, Slots(4, 1, 0.4)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpus_per_trial": 2}, Slots(1, 1, 2)),
        ([{"CPU": 64.0, "GPU": 1.0}], {}, Slots(8, 1, 0.125)),
        ([{"CPU": 64.0, "GPU": 1.0}], {"gpus_per_trial": 0.05}, Slots(20, 1, 0.05)),
    ],
)
def test_slots_are_counted_node_by_node(nodes, config, expected):
    assert count_slots(nodes, ResourceConfig(**config)) == expected


@pytest.mark.parametrize(("per_gpu", "expected"), [(1, Slots(2, 1, 1.0)), (3, Slots(6, 1, 0.3333))])
def test_no_more_trials_share_a_gpu_than_fit_into_its_memory(per_gpu, expected):
    assert count_slots([{"CPU": 16.0, "GPU": 2.0}], ResourceConfig(), per_gpu) == expected


def test_the_next_trial_goes_where_there_is_room():
    slots = Slots(3, 1, 0.5, without_gpu=1)
    assert slots.gpus_of_next([]) == 0.5
    assert slots.gpus_of_next([0.5, 0.0]) == 0.5
    assert slots.gpus_of_next([0.5, 0.5]) == 0.0
    assert slots.gpus_of_next([1.0]) == 0.0
    assert not slots.are_taken([0.5, 0.5])
    assert slots.are_taken([0.5, 0.5, 0.0])
    assert slots.are_taken([1.0, 0.0])


GB = 10**9
NODE = {"CPU": 4.0, "memory": 20.0 * GB}


@pytest.mark.parametrize(
    ("nodes", "config", "alone", "beside_two"),
    [
        ([NODE], {}, 16, 10),  # four trials, and this process
        ([NODE], {"max_concurrent": 1}, 10, 4),
        ([NODE, NODE], {}, 4, 4),  # on one of two nodes, nobody knows on which
        ([NODE, {"CPU": 2.0, "memory": 6.0 * GB}], {}, 2, 2),
        ([NODE, {"CPU": 0.0, "memory": 1.0 * GB}], {}, 16, 10),
        ([{"CPU": 4.0}], {}, math.inf, math.inf),
    ],
)
def test_trials_share_the_memory_of_a_node(nodes, config, alone, beside_two):
    slots = count_slots(nodes, ResourceConfig(**config))
    assert slots.memory_left([]) == alone * GB
    assert slots.memory_left([2 * GB, 4 * GB]) == beside_two * GB


def test_on_this_machine_the_memory_is_what_may_be_taken_now(monkeypatch):
    nodes = [{"Alive": True, "NodeID": "a", "Resources": {"CPU": 2.0, "memory": 99.0 * GB}}]
    monkeypatch.setattr(module.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(module, "draining_nodes", dict)
    monkeypatch.setattr(module, "available_memory", lambda: 6 * GB)
    assert find_slots(ResourceConfig()).memory_left([]) == 4 * GB
    assert find_slots(ResourceConfig(address="auto")).memory_left([]) == 66 * GB


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        (Slots(1, 1, 0), "1 trial at a time, 1 CPU each"),
        (Slots(4, 2, 0.25), "4 trials side by side, 2 CPUs and 0.25 GPU each"),
        (Slots(20, 1, 0.25, 16), "4 trials side by side, 1 CPU and 0.25 GPU each; 16 more with 1 CPU each"),
    ],
)
def test_slots_are_said_in_words(slots, words):
    assert str(slots) == words


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that is asked for nodes: what it has, and what was asked for."""

    class Cluster:
        nodes: list = []
        requests: list = []
        comes_after = 0

    found = Cluster()
    found.requests, found.leaving = [], {}

    def nodes():
        found.comes_after -= 1
        have = found.nodes if found.comes_after < 0 else []
        return [
            {"Alive": True, "NodeID": str(number), "Resources": node}
            for number, node in enumerate([{"CPU": 0.0}, *have])
        ]

    monkeypatch.setattr(module.ray, "nodes", nodes)
    monkeypatch.setattr(module, "draining_nodes", lambda: found.leaving)
    monkeypatch.setattr(module, "request_resources", lambda bundles: found.requests.append(bundles))
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    return found


def test_a_cluster_is_asked_for_what_the_search_can_use_and_let_go_at_its_end(cluster):
    cluster.nodes, cluster.comes_after, said = [CPU], 3, []
    config = ResourceConfig(address="auto", cpus_per_trial=2, gpus_per_trial=None)
    with requested_slots(config, 3, said.append) as slots:
        assert cluster.requests == [[{"CPU": 2}] * 3]
        assert slots == Slots(8, 2, 0)
    assert cluster.requests[1:] == [[]]
    assert len(said) == 1
    assert "Waiting for a node" in said[0]


def test_a_cluster_is_let_go_also_when_the_search_breaks(cluster):
    cluster.nodes = [CPU]

    def search():
        with requested_slots(ResourceConfig(address="auto", max_concurrent=2), 50, pytest.fail):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search()
    assert cluster.requests == [[{"CPU": 1}] * 2, []]


def test_a_cluster_to_which_no_node_comes_is_given_up(cluster, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.05)
    config = ResourceConfig(address="auto", gpus_per_trial=0.5)
    with pytest.raises(UsageError, match="No other node came within") as raised, requested_slots(config, 5, print):
        pass
    assert str(raised.value).count("\n") == 1
    assert cluster.requests == [[{"CPU": 1, "GPU": 0.5}] * 5, []]


def test_a_wait_for_a_node_can_be_interrupted(cluster):
    cluster.comes_after = 100
    config = ResourceConfig(address="auto")
    with pytest.raises(KeyboardInterrupt), requested_slots(config, 5, lambda _: None, lambda: True):
        pass
    assert cluster.requests == [[{"CPU": 1}] * 5, []]


def slots_now(said, unfinished=lambda: 0, address="auto", record=lambda _: None):
    slots, config = Slots(16, 1, 0), ResourceConfig(address=address)
    return CurrentSlots(slots, config, said.append, said.append, unfinished, record)


def test_slots_follow_the_nodes_and_stay_while_there_are_none(cluster):
    said, recorded = [], []
    now = slots_now(said, record=recorded.append)
    cluster.nodes = [CPU, CPU]
    assert now().count == 32
    assert said == ["The cluster now has room for 32 trials side by side, 1 CPU each."]
    cluster.nodes = []
    assert now().count == 32
    assert now().count == 32
    assert len(said) == 2
    assert "Waiting for a node" in said[1]
    cluster.nodes = [CPU, CPU]
    assert now().count == 32
    assert now().count == 32
    assert said[2:] == said[:1]
    assert recorded == [Slots(32, 1, 0), Slots(0, 1, 0), Slots(32, 1, 0)]


def test_nodes_that_are_about_to_go_have_no_slots(cluster):
    cluster.nodes, cluster.leaving = [CPU, CPU], {"2": 0}
    assert slots_now([])().count == 16


def test_a_search_without_any_node_for_long_is_ended(cluster, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.05)
    said = []
    now = slots_now(said)
    now()
    time.sleep(0.1)
    now()
    assert "No other node came within" in said[-1]


def test_a_cluster_is_asked_for_less_when_less_is_left(cluster):
    left = [5, 5, 2, 0]
    now = slots_now([], lambda: left.pop(0))
    cluster.nodes = [CPU]
    for _ in range(4):
        now()
    assert [len(bundles) for bundles in cluster.requests] == [5, 2, 0]


def test_a_node_that_no_trial_fits_on_adds_nothing_to_the_share_of_the_gpus():
    nodes = [{"CPU": 0.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
    assert count_slots(nodes, ResourceConfig()) == Slots(4, 1, 0.25)


def test_on_this_machine_slots_never_change(cluster):
    now = slots_now([], address=None, record=pytest.fail)
    assert now() is now()
    assert cluster.requests == []
