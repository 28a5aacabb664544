"""Ray is started patiently."""

from __future__ import annotations

import pytest
import ray

from vae_tune import cluster
from vae_tune.config import ResourceConfig, SearchError


def _slow(monkeypatch: pytest.MonkeyPatch, failures: int, error: Exception) -> list[int]:
    """Let Ray's first starts fail; return what grows by one with each start."""
    starts: list[int] = []

    def init(*_, **__):
        starts.append(1)
        if len(starts) <= failures:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "protect", lambda: None)
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
