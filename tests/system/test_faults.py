"""Real faults: processes of a running search are killed; it goes on, or its resume does, and nothing is lost."""

import os
import signal

import pytest

from tests.safety import keeps_its_token, listening_addresses
from tests.system.conftest import is_whole, table, wait_for
from vae_tune.trials import read_trials

pytestmark = pytest.mark.system

SMALL = ("--train-size", 4000, "--max-epochs", 4, "--hidden-width", 64, "--results-dir", "out", "--num-samples", 4)


def test_a_killed_worker_costs_no_trial_and_a_second_driver_is_refused_meanwhile(search, tmp_path):
    running = search("--study-name", "s", *SMALL, "--num-samples", 16)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 1, running)
    workers = wait_for(lambda: running.children("ray::ImplicitFunc.train"))
    os.kill(workers[0], signal.SIGKILL)
    code, output = search("--resume", folder).wait()
    assert code == 2, output
    assert f"is being written by process {running.process.pid} on host" in output
    code, output = running.wait()
    assert code == 0, output
    is_whole(folder, trials=16)


def test_a_killed_raylet_ends_the_search_and_the_resume_completes_it(search, tmp_path):
    running = search("--study-name", "s", *SMALL)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 1, running)
    before = table(folder / "epochs.csv")
    assert listening_addresses(running.process.pid) == {"127.0.0.1"}
    for pid in running.children("raylet/raylet --raylet"):
        os.kill(pid, signal.SIGKILL)
    code, output = running.wait()
    assert code == 1, output
    assert "Ray has died" in output or "Ray's core ended it" in output  # its core may be quicker and end the process
    assert f"--resume {folder.relative_to(tmp_path)}" in output
    assert "FAIL" not in [trial.state.name for trial in read_trials(folder)]
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    assert table(folder / "epochs.csv")[: len(before)] == before
    is_whole(folder)
    assert keeps_its_token(folder, output)
