"""RayProcesses as Ray starts them: who reaches them, how they end, and what is said of those that do so early."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vae_tune.cluster import ray_processes as module
from vae_tune.cluster.ray_processes import RayProcesses

pytestmark = pytest.mark.skipif(not module.detect_fate_sharing_support(), reason="there Ray needs our process group")


@pytest.fixture
def started(tmp_path):
    """One process that sleeps in place of a raylet, with its folder of logs."""
    (tmp_path / "raylet").symlink_to("/bin/sleep")
    found = RayProcesses()
    process = found.start([str(tmp_path / "raylet"), "600"])
    found.start(["/bin/sh", "-c", "exec sleep 600", f"--log_dir={tmp_path}"])
    yield found, process
    found.kill()


def signals(pid, kind):
    """The signals of a process that are pending or blocked, as its status tells."""
    mask = int(re.search(rf"^{kind}:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1], 16)
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def test_a_signal_to_our_group_or_to_each_process_leaves_those_of_ray_alive(started):
    _, process = started
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    os.kill(process.pid, signal.SIGTERM)
    assert signal.SIGTERM in signals(process.pid, "ShdPnd")
    assert process.poll() is None


def test_what_ends_one_ends_all_of_its_group():
    found = RayProcesses()
    process = found.start(["/bin/sh", "-c", "sleep 600 & echo $!; wait"], stdout=-1)
    assert process.stdout.readline()
    process.terminate()
    assert process.wait() == -signal.SIGKILL
    assert process.stdout.read() == b""  # the child held it open
    process.stdout.close()


def test_a_death_is_told_with_what_caused_it(started):
    found, process = started
    assert found.exited() is None
    process.kill()
    process.wait()
    assert found.exited() == ("raylet", "was ended by SIGKILL")


def test_a_start_that_failed_names_the_process_its_log_and_its_last_line(started, tmp_path):
    found, process = started
    assert found.start_error() == ""
    (tmp_path / "raylet.err").write_text("first\nno port is left\n\n")
    process.kill()
    process.wait()
    log = tmp_path / "raylet.err"
    assert found.start_error() == (
        f"Ray did not start: its raylet was ended by SIGKILL.\nSee {log}, which ends with: no port is left"
    )


_WAIT = """
import sys
from vae_tune.config.errors import SearchError
from vae_tune.cluster.ray_processes import RayProcesses
found = RayProcesses()
found.start(["/bin/false"])
try:
    found.get_node(sys.argv[1], "a node")
except SearchError as error:
    print(error)
"""


def test_who_waits_for_a_node_hears_of_a_death_while_the_server_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = subprocess.run([sys.executable, "-c", _WAIT, address], capture_output=True, text=True, check=False)
    assert "Ray did not start: its false ended with exit code 1." in done.stdout, done.stderr


def test_an_agent_that_a_raylet_waited_for_in_vain_was_too_slow(started, tmp_path):
    found, _ = started
    assert not found.were_too_slow()
    (tmp_path / "raylet.err").write_text("Check failed: Timed out waiting for file /tmp/ray/metrics_agent_port_1\n")
    assert found.were_too_slow()


def test_an_agent_without_which_a_raylet_ends_is_named_before_that_has_ended(started, tmp_path):
    found, _ = started
    (tmp_path / "raylet.err").write_text("The raylet exited because one Ray agent failed, agent_name = some_agent.\n")
    (tmp_path / "some_agent.err").touch()
    (tmp_path / "some_agent.log").write_text("x" * 1000)
    said = f"Ray did not start: its some_agent ended.\nSee {tmp_path}/some_agent.log, which ends with: xxx"
    assert found.start_error().startswith(said)
    assert len(found.start_error()) < len(said) + 200
