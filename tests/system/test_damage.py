"""Files cut in half and full disks: the search says so, and nothing is lost."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest

from tests.record.test_study_record import report
from tests.system.conftest import Command, alive, is_whole, table, wait_for
from vae_tune.analysis.audit import audit
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import SearchConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.metadata import new_metadata, read_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import read_trials

pytestmark = pytest.mark.system

SMALL = ("--train-size", 4000, "--max-epochs", 4, "--hidden-width", 64, "--results-dir", "out", "--num-samples", 4)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The study of a driver that was killed, and the processes that it left behind."""
    place = tmp_path_factory.mktemp("killed")
    running = Command("--study-name", "s", "--max-concurrent", 1, *SMALL, cwd=place)
    folder = place / "out" / "s"
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 2, running)
    children, workers = running.children(), running.children("ray::ImplicitFunc")
    running.kill(signal.SIGKILL)
    running.process.wait()
    wait_for(lambda: not [pid for pid in workers if alive(pid)])
    return folder, children


def test_a_search_goes_on_from_the_checkpoint_before_a_half_one(search, killed):
    folder, _ = killed
    newest = sorted((folder / "checkpoints" / "trial_00000").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    is_whole(folder)
    assert f"{newest.name} is damaged" in output
    assert f"{newest.name} is damaged" in (folder / "trials.csv").read_text()


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a disk that fills up is a tmpfs, and mounting one needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_what_was_recorded_before_the_disk_was_full_is_there_when_it_is_not(small_disk, tiny):
    config = SearchConfig(num_samples=9)
    folder, ballast = small_disk / "s", small_disk / "ballast"
    record = StudyRecord.create(folder, new_metadata("s", config, config.trial, DEFAULT_SPACE, tiny))
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**15))
    recorded = []

    def train():
        for number in range(1000):
            trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
            record.start(trial, trial.params)
            record.report(trial.number, report(1, 100.0 + number))
            recorded.append(trial.number)

    with pytest.raises(OSError, match="No space left on device"):
        train()
    with contextlib.suppress(OSError):
        record.close()
    assert recorded
    assert {trial.number for trial in read_trials(folder) if trial.intermediate_values} >= {*recorded}
    with pytest.raises(UsageError, match="written: No space left on device"):
        StudyRecord.resume(folder, read_metadata(folder))
    for way, reason in (("ro", "Read-only file system"), ("rw", "No space left on device")):
        subprocess.run(["mount", "-o", f"remount,{way}", str(small_disk)], check=True)
        with pytest.raises(UsageError, match=f"cannot be read or written: {reason}"):
            StudyRecord.resume(folder, read_metadata(folder))
    ballast.unlink()
    again = StudyRecord.resume(folder, read_metadata(folder))
    assert {row.trial for row in again.rows if row.epochs} >= {*recorded}
    again.close()
    assert [row for row in audit(folder) if "epochs.csv" in row or "trials.csv" in row or "Optuna" in row] == []


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


def test_the_processes_of_a_killed_driver_end(killed):
    """Last here: Ray's agents notice after a minute."""
    _, children = killed
    assert len(children) >= 3
    wait_for(lambda: not [pid for pid in children if alive(pid)])
