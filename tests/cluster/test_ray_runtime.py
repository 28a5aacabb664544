"""Ray is started patiently, and with no more than its trials can use."""

from __future__ import annotations

import pytest
import ray

from vae_tune.cluster import ray_runtime as cluster
from vae_tune.cluster.ray_processes import RayDied
from vae_tune.config.settings import ResourceConfig, SearchError


def _slow(monkeypatch: pytest.MonkeyPatch, failures: int, error: Exception) -> list[int]:
    """Let Ray's first starts fail; return what grows by one with each start."""
    starts: list[int] = []

    def init(*_, **__):
        starts.append(1)
        if len(starts) <= failures:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "ensure_private_token", lambda: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return starts


# the words of ray/_private/node.py, which raises a plain Exception
LATE = Exception("The current node timed out during startup. This could happen because some of the raylet failed")


def test_a_busy_machine_gets_more_time_to_start_ray(monkeypatch):
    starts = _slow(monkeypatch, 2, LATE)
    with cluster.running_ray(ResourceConfig()):
        assert len(starts) == 3


def test_a_machine_too_busy_for_ray_is_said_in_two_lines(monkeypatch):
    starts = _slow(monkeypatch, 9, LATE)
    with pytest.raises(SearchError, match="did not start, 3 times") as raised, cluster.running_ray(ResourceConfig()):
        pass
    assert str(raised.value).count("\n") == 1
    assert len(starts) == 3


def test_what_else_keeps_ray_from_starting_is_not_tried_again(monkeypatch):
    starts = _slow(monkeypatch, 9, Exception("no space left"))
    with pytest.raises(Exception, match="no space left"), cluster.running_ray(ResourceConfig()):
        pass
    assert len(starts) == 1


def test_a_ray_that_does_not_start_again_has_died_once_more(monkeypatch):
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    starts = []

    def start():
        if starts:
            raise SearchError("Ray did not start: its raylet ended.\nSee raylet.err, which ends with: no room")
        starts.append(1)

    running = cluster.RunningRay(start)
    with pytest.raises(RayDied, match=r"^Ray did not start: its raylet ended\. See raylet\.err, .*: no room\.$"):
        running.restart()


@pytest.mark.parametrize(
    ("machine", "config", "told", "preloads"),
    [
        ((16, 0), {}, 16, True),
        ((16, 0), {"max_concurrent": 5}, 5, True),
        ((16, 0), {"cpus_per_trial": 3}, 15, False),  # a worker waits for each core, and not each would train
        ((16, 0), {"gpus_per_trial": 1}, 16, False),  # does not fit: that is said later
        ((64, 1), {}, 8, True),
        ((64, 2), {"gpus_per_trial": 0.4}, 4, True),
        ((64, 2), {"gpus_per_trial": 0}, 64, True),
    ],
)
def test_ray_is_told_of_the_cores_that_trials_use(monkeypatch, machine, config, told, preloads):
    found = {}
    monkeypatch.setattr(ray, "init", lambda *_, **options: found.update(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "ensure_private_token", lambda: None)
    monkeypatch.setattr(cluster, "usable_cpus", lambda: machine[0])
    monkeypatch.setattr(cluster, "visible_gpus", lambda: machine[1])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with cluster.running_ray(ResourceConfig(**config)):
        assert found["num_cpus"] == told
        assert bool(found["_system_config"]) == preloads
