"""A real Ray head with a token, on loopback: who is let in, and what `vae-tune check` says of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass

import pytest

from tests.system.conftest import ROOT, descendants, is_whole, table, wait_for
from vae_tune.cluster.auth_token import make_token
from vae_tune.config.files import read_json

pytestmark = pytest.mark.system

PROGRAM = "import sys; from vae_tune.cli.main import main; sys.argv[0] = 'vae-tune'; main()"


@dataclass(frozen=True)
class Head:
    """A running head."""

    pid: int
    address: str
    api: str
    """URL of the jobs API."""
    environment: dict[str, str]
    token: str


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Start a head as cluster.yaml does; its token is in a home of its own."""
    assert importlib.util.find_spec("aiohttp_cors"), "ray[default] is missing: run make setup again"
    home = tmp_path_factory.mktemp("home")
    token = make_token(home / ".ray" / "auth_token")
    sockets = tempfile.mkdtemp(prefix="vae", dir="/tmp")  # their paths must be short
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_worker_niceness"] = "0"  # as in the files of cluster/
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # or Ray takes the machine's own address for loopback
    port, dashboard = free_port(), free_port()
    words = ["--port", port, "--dashboard-port", dashboard, "--node-ip-address", "127.0.0.1", "--num-cpus", 1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--temp-dir", sockets]
    words += ["--dashboard-host", "127.0.0.1", "--ray-client-server-port", free_port(), "--disable-usage-stats"]
    words += ["--num-gpus", 0, "--dashboard-agent-listen-port", free_port()]  # or it has another Ray's
    process = subprocess.Popen(
        [*command, *map(str, words)], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    api = f"http://127.0.0.1:{dashboard}/api/jobs/"
    try:
        wait_for(lambda: process.poll() is not None or status(api) is not None, timeout=120)
        yield Head(process.pid, f"127.0.0.1:{port}", api, environment, token.read_text())
    finally:
        left = [process.pid, *descendants(process.pid)]
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


def status(api, token=None, body=None):
    """Return the HTTP status of the jobs API, None where nobody answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(api, body and json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.mark.parametrize("body", [None, {"entrypoint": "true"}], ids=["list", "submit"])
def test_the_jobs_api_refuses_who_has_no_token_or_a_wrong_one(head, body):
    assert status(head.api, None, body) == 401
    assert status(head.api, head.token[::-1], body) == 403


def test_the_jobs_api_lets_in_who_has_the_token(head):
    assert status(head.api, head.token) == 200


def test_check_tries_each_node_of_a_running_cluster(head, tmp_path):
    words = ["check", "--address", head.address, "--results-dir", str(tmp_path)]
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, check=False, env=head.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "127.0.0.1: Python 3." in done.stdout
    assert "images a second on cpu" in done.stdout
    assert done.stdout.endswith("no errors, no warnings.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_search_runs_as_a_job(head, tmp_path):
    small = "--num-samples 2 --train-size 500 --max-epochs 2 --scheduler none --study-name job"
    entry = [sys.executable, ROOT / "search.py", "--address", "auto", *small.split(), "--results-dir", tmp_path]
    address = head.api.removesuffix("/api/jobs/")
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", address, "--"]
    command = [str(word) for word in (*submit, *entry)]
    done = subprocess.run(command, check=False, env=head.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Winner: trial" in done.stdout
    assert head.token not in done.stdout + done.stderr
    is_whole(tmp_path / "job", trials=2)


def test_a_search_whose_cluster_ends_at_the_moment_of_its_sigterm_says_so_and_ends(head, search, tmp_path):
    """Last here: it ends the head."""
    folder = tmp_path / "out" / "together"
    words = ("--address", head.address, "--num-samples", 5, "--max-epochs", 50, "--results-dir", "out")
    running = search(*words, "--study-name", "together", environment=head.environment)
    wait_for(lambda: table(folder / "epochs.csv"), running)
    for pid in (head.pid, *descendants(head.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.kill(signal.SIGTERM)
    code, output = running.wait(timeout=45)  # Ray itself waits for its servers for a minute
    assert code == 130, output
    assert read_json(folder / "study.json")["status"] == "interrupted"
    assert "--resume out/together" in output
