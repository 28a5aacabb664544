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
    running = search("--study-name", "s", *SMALL, "--num-samples", 10)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 1, running)
    workers = wait_for(lambda: running.children("ray::ImplicitFunc.train"))
    os.kill(workers[0], signal.SIGKILL)
    code, output = search("--resume", folder).wait()
    assert code == 2, output
    assert f"is being written by process {running.process.pid} on host" in output
    code, output = running.wait()
    assert code == 0, output
    is_whole(folder, trials=10)


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


def test_workers_that_ray_ends_for_want_of_memory_fail_with_that_reason(search, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")  # of the machine's memory: more is used at any time
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    code, output = search("--study-name", "s", *SMALL, "--num-samples", 2).wait()
    assert code == 1, output
    assert "Traceback" not in output
    rows = table(tmp_path / "out" / "s" / "trials.csv")
    assert [row["state"] for row in rows] == ["FAIL", "FAIL"]
    for row in rows:
        assert row["reason"].startswith("worker died: ")
        assert "low on memory" in row["reason"]
        assert len(row["reason"]) < 300
