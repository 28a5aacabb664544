"""Real faults: processes killed, disks filled, files cut; each search goes on and nothing is lost."""

import csv
import os
import signal
import subprocess

import pytest

from tests.system.conftest import alive, wait_for
from vae_tune.audit import audit
from vae_tune.trials import read_trials

pytestmark = pytest.mark.system

SMALL = ("--train-size", 4000, "--max-epochs", 4, "--hidden-width", 64, "--results-dir", "out", "--num-samples", 4)


def epochs(folder):
    path = folder / "epochs.csv"
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def is_whole(folder, trials=4):
    assert audit(folder) == []
    states = [trial.state.name for trial in read_trials(folder)]
    assert len(states) == trials
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert not list(folder.rglob("*.tmp"))


def test_a_killed_worker_costs_no_trial_and_a_second_driver_is_refused_meanwhile(search, tmp_path):
    running = search("--study-name", "s", *SMALL, "--num-samples", 16)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(epochs(folder)) >= 1)
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
    wait_for(lambda: len(epochs(folder)) >= 1)
    before = epochs(folder)
    for pid in running.children("raylet/raylet --raylet"):
        os.kill(pid, signal.SIGKILL)
    code, output = running.wait()
    assert code == 1, output  # either we say that Ray has died, or Ray's own core ends the process first
    assert "Ray has died" in output or "Winner" not in output
    assert "FAIL" not in [trial.state.name for trial in read_trials(folder)]
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    assert epochs(folder)[: len(before)] == before
    is_whole(folder)


def test_the_processes_of_a_killed_driver_end_and_a_half_checkpoint_falls_back(search, tmp_path):
    running = search("--study-name", "s", "--max-concurrent", 1, *SMALL)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: len(epochs(folder)) >= 2)
    children = running.children()
    workers = running.children("ray::ImplicitFunc")
    running.kill(signal.SIGKILL)
    running.process.wait()
    wait_for(lambda: not [pid for pid in workers if alive(pid)])
    newest = sorted((folder / "checkpoints" / "trial_00000").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    is_whole(folder)
    assert f"{newest.name} is damaged" in output
    assert f"{newest.name} is damaged" in (folder / "trials.csv").read_text()
    assert len(children) >= 3
    wait_for(lambda: not [pid for pid in children if alive(pid)])  # Ray's agents notice after a minute


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a disk that fills up is a tmpfs, and mounting one needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_search_with_a_whole_record_and_space_lets_it_go_on(search, small_disk):
    options = [*SMALL, "--hidden-width", 256, "--results-dir", small_disk]
    code, output = search("--study-name", "s", *options).wait()
    folder = small_disk / "s"
    assert code == 1, output
    assert "cannot be written: " in output
    assert "No space left on device" in output
    assert f"--resume {folder}" in output
    assert "Traceback" not in output
    assert "FAIL" not in [trial.state.name for trial in read_trials(folder)]
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    is_whole(folder)
