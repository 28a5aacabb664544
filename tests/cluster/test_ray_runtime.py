"""Ray is started patiently, and with no more than its trials can use."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

from vae_tune.cluster import node_resources, worker_server
from vae_tune.cluster import ray_runtime as cluster
from vae_tune.cluster.ray_processes import RayDied
from vae_tune.config.errors import SearchError, UsageError
from vae_tune.config.settings import ResourceConfig


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
    monkeypatch.setattr(node_resources, "usable_cpus", lambda: machine[0])
    monkeypatch.setattr(node_resources, "visible_gpus", lambda: machine[1])
    monkeypatch.setattr(worker_server, "_CAN_FORK", False)  # else workers have imported all before they start
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with cluster.running_ray(ResourceConfig(**config)):
        assert found["num_cpus"] == told
        assert bool(found["_system_config"]) == preloads


def join(address):
    """Join a cluster; return the line about what is tried, and the one about how it failed."""
    said = []
    with pytest.raises(UsageError) as refused, cluster.running_ray(ResourceConfig(address=address), said.append):
        pass
    (tried,), (failed,) = said, str(refused.value).splitlines()
    return tried, failed


def test_an_address_at_which_nothing_listens_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # as a Ray that has died leaves it in /tmp/ray
    tried, failed = join("auto")
    assert tried.startswith("Joining the Ray cluster at ")
    assert failed.startswith("No Ray cluster at address 'auto': ")


@pytest.mark.parametrize(
    ("answer", "reason"), [(None, "timed out"), (b"HTTP/1.1 400", "is not Ray"), (b"", "not Ray")]
)
def test_a_server_that_does_not_answer_as_ray_does_is_refused_in_one_line(monkeypatch, answer, reason):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        done = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        tried, failed = join(f"ray://127.0.0.1:{server.getsockname()[1]}")
        done.set()
        thread.join()
    assert "Joining the Ray cluster at 127.0.0.1:" in tried
    assert reason in failed


def test_a_real_grpc_server_is_let_through():
    grpc = pytest.importorskip("grpc")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    cluster._check_server(f"127.0.0.1:{port}")
    server.stop(None)
