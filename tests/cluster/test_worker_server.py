"""The server that forks Ray's workers, and the command that Ray starts for each; scripts stand in for Ray's worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from vae_tune.cluster import worker_server as module
from vae_tune.cluster.worker_server import WorkerServer, started_early, worker_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers start by themselves")

_WORKER = """
import json, os, sys
about = {
    "words": sys.argv, "parent": os.getppid(), "folder": os.getcwd(), "variable": os.environ.get("VARIABLE"),
    "group": os.getpgid(0), "niceness": os.nice(0), "main": __name__, "path": sys.path[0], "pid": os.getpid(),
    "imported": "colorsys" in sys.modules, "frozen": __import__("gc").get_freeze_count(),
    "random": __import__("random").random(), "oom_score": int(open("/proc/self/oom_score_adj").read()),
}
print(json.dumps(about), flush=True)
sys.stdin.readline()
sys.exit(3)
"""
_DRAWING = """
import json, ray, sys
cuda = sys.modules["torch"].cuda.is_initialized()
print(json.dumps({"drawn": ray.NodeID.from_random().hex(), "cuda": cuda}), flush=True)
"""
_SETUP = "import json, sys; print(json.dumps({'words': sys.argv}), flush=True)"
_DRIVER = """
import sys
from vae_tune.cluster.worker_server import WorkerServer
server = WorkerServer(["json"])
print(server._process.pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def server():
    """A server that has imported a module that nothing else imports."""
    found = WorkerServer(["colorsys"])
    yield found
    found.end()


@pytest.fixture
def launch(tmp_path):
    """A function that starts the command of a worker, as a raylet of ``tmp_path`` does."""
    for name, text in (("worker.py", _WORKER), ("setup_worker.py", _SETUP)):
        (tmp_path / name).write_text(text)
    started = []

    def start(launcher, **options):
        words = [f"--temp-dir={tmp_path}", "--worker-id=7", "--language=PYTHON"]
        command = [sys.executable, launcher, str(tmp_path / "worker.py"), *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def answer(process):
    return json.loads(process.stdout.readline())


def wait_until(condition):
    patience = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_a_worker_is_a_fork_in_the_place_of_its_launcher(server, launch, tmp_path):
    environment, folder = os.environ | {"VARIABLE": "1"}, tmp_path / "elsewhere"
    folder.mkdir()
    command = server.listen(tmp_path)
    process = launch(command, env=environment, cwd=folder, process_group=0, preexec_fn=lambda: os.nice(3))
    about = answer(process)
    assert about["words"] == [str(tmp_path / "worker.py"), f"--temp-dir={tmp_path}", "--worker-id=7"]
    assert (about["variable"], about["folder"], about["path"]) == ("1", str(folder), str(tmp_path))
    assert (about["group"], about["niceness"], about["main"]) == (process.pid, os.nice(0) + 3, "__main__")
    assert about["imported"]
    assert about["frozen"] > 0
    assert about["parent"] not in (os.getpid(), process.pid)


def test_workers_draw_different_random_numbers_and_end_with_their_launchers(server, launch, tmp_path):
    command = server.listen(tmp_path)
    first, second = launch(command), launch(command)
    about = [answer(first), answer(second)]
    assert about[0]["parent"] == about[1]["parent"]
    assert about[0]["random"] != about[1]["random"]
    first.stdin.write("\n")
    first.stdin.flush()
    first.wait()
    os.kill(about[1]["pid"], signal.SIGKILL)
    second.wait()
    third = launch(command)  # the server has outlived both
    assert answer(third)["parent"] == about[0]["parent"]


def test_forks_draw_different_ids_for_what_ray_creates(launch, tmp_path):
    """Else two that start at once give their first objects the same ID, and one of them ends."""
    server = WorkerServer()
    (tmp_path / "worker.py").write_text(_DRAWING)
    try:
        command = server.listen(tmp_path)
        about = [answer(launch(command)) for _ in range(3)]
    finally:
        server.end()
    assert len({one["drawn"] for one in about}) == 3
    assert [one["cuda"] for one in about] == [False] * 3  # which no fork could use


@pytest.mark.parametrize("ended", [True, False])
def test_without_a_server_a_worker_starts_as_ray_starts_it(server, launch, tmp_path, ended):
    command = server.listen(tmp_path)
    if ended:
        server.end()
    else:
        (tmp_path / module.SOCKET).unlink()
    process = launch(command)
    words = [str(tmp_path / "worker.py"), f"--temp-dir={tmp_path}", "--worker-id=7", "--language=PYTHON"]
    assert answer(process)["words"] == [str(tmp_path / "setup_worker.py"), *words]


def test_a_server_listens_for_a_ray_that_is_started_again(server, launch, tmp_path):
    server.listen(tmp_path)
    assert answer(launch(server.listen(tmp_path)))["imported"]


def test_a_server_ends_with_the_process_that_started_it():
    command = [sys.executable, "-c", _DRIVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        server = int(driver.stdout.readline())
        driver.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{server}"))


def test_a_signal_to_the_group_of_the_process_that_started_it_leaves_a_server_alive(server, launch, tmp_path):
    assert os.getpgid(server._process.pid) == server._process.pid
    os.kill(server._process.pid, signal.SIGTERM)
    assert answer(launch(server.listen(tmp_path)))["imported"]


def test_a_server_that_was_started_early_is_used_once_and_one_that_was_not_used_ends(monkeypatch):
    started = []
    monkeypatch.setattr(module, "WorkerServer", lambda: started.append(WorkerServer([])) or started[-1])
    with started_early(None):
        (early,) = started
        with worker_server() as taken:
            assert taken is early
        assert early._process.returncode == -signal.SIGKILL
        with worker_server() as other:
            assert other is not early
    with started_early(None), started_early("auto"):
        pass
    assert [server._process.returncode for server in started] == [-signal.SIGKILL] * 3
