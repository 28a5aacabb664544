"""Real faults: processes of a running search are killed; it goes on, or its resume does, and nothing is lost."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.safety import keeps_its_token, listening_addresses
from tests.system.conftest import descendants, is_whole, table, wait_for
from vae_tune.record.trials import read_trials

pytestmark = pytest.mark.system

SMALL = ("--train-size", 4000, "--max-epochs", 4, "--hidden-width", 64, "--results-dir", "out", "--num-samples", 4)


def test_killed_workers_cost_no_trial_and_a_second_driver_is_refused_meanwhile(search, tmp_path):
    running = search("--study-name", "s", *SMALL, "--num-samples", 10)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 1, running)
    workers = wait_for(lambda: running.children("ray::ImplicitFunc.train"))
    os.kill(workers[0], signal.SIGKILL)
    (server,) = running.children("worker_server")
    os.kill(server, signal.SIGKILL)  # and with it all workers that it has forked
    code, output = search("--resume", folder).wait()
    assert code == 2, output
    assert f"is being written by process {running.process.pid} on host" in output
    code, output = running.wait()
    assert code == 0, output
    is_whole(folder, trials=10)


def test_ray_is_started_again_where_its_raylet_was_killed_and_the_search_goes_on(search, tmp_path):
    deep = tmp_path / ("x" * 60)  # too deep for Ray's sockets
    deep.mkdir()
    running = search("--study-name", "s", *SMALL, environment={"TMPDIR": str(deep)})
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 1, running)
    before = table(folder / "epochs.csv")
    (folder_of_ray,) = deep.glob("ray-*")
    assert (folder_of_ray / "ray" / "session_latest" / "logs").is_dir()
    assert listening_addresses(running.process.pid) == {"127.0.0.1"}
    for pid in running.children("raylet/raylet --raylet"):
        os.kill(pid, signal.SIGKILL)
    code, output = running.wait()
    assert code == 0, output
    again = (
        "Ray has died: its raylet was ended by SIGKILL. It is started again, and the search goes on (attempt 1 of 3)."
    )
    assert output.count(again) == 1
    assert "(raylet)" not in output
    assert list(deep.iterdir()) == []
    assert table(folder / "epochs.csv")[: len(before)] == before
    is_whole(folder)
    assert keeps_its_token(folder, output)


def test_a_ray_that_dies_again_and_again_ends_the_search_and_the_resume_completes_it(search, tmp_path):
    running = search("--study-name", "s", *SMALL)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 1, running)
    killed = set()
    while running.process.poll() is None:  # each raylet as it starts a worker, before any epoch
        for pid in set(running.children("raylet/raylet --raylet")) - killed:
            if any("default_worker" in command for command in descendants(pid).values()):
                with contextlib.suppress(ProcessLookupError):  # it may have died with the one killed before
                    os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.02)
    before = table(folder / "epochs.csv")
    code, output = running.wait()
    assert code == 1, output
    assert [f"(attempt {number} of 3)" in output for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert "It was started again 3 times in a row, and no epoch was finished." in output
    assert f"--resume {folder.relative_to(tmp_path)}" in output
    assert "FAIL" not in [trial.state.name for trial in read_trials(folder)]
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    assert table(folder / "epochs.csv")[: len(before)] == before
    is_whole(folder)


def test_a_process_of_ray_that_dies_as_it_starts_is_named_with_its_log_at_the_first_attempt(search, tmp_path):
    environment = {"RAY_memory_usage_threshold": "95"}  # it should be a share
    code, output = search("--study-name", "s", *SMALL, environment=environment).wait()
    assert code == 1, output
    found = re.search(r"Ray did not start: its (raylet) .*\.\nSee (\S+), which ends with: ", output)
    assert found, output
    assert Path(found[2]).stem == found[1]
    assert "threshold" in Path(found[2]).read_text()
    assert not (tmp_path / "out").exists()


def test_workers_that_ray_ends_for_want_of_memory_fail_with_that_reason(search, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")  # of the machine's memory: more is used at any time
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    long = ("--num-samples", 2, "--max-epochs", 1000, "--scheduler", "none")  # neither ends before Ray has looked
    code, output = search("--study-name", "s", *SMALL, *long).wait()
    assert code == 1, output
    assert "Traceback" not in output
    rows = table(tmp_path / "out" / "s" / "trials.csv")
    assert [row["state"] for row in rows] == ["FAIL", "FAIL"]
    for row in rows:
        assert row["reason"].startswith("worker died: ")
        assert "low on memory" in row["reason"]
        assert len(row["reason"]) < 300
