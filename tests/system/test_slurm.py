"""Searches as jobs of a real Slurm: on two nodes, over pauses and losses, beside a second job, and to a cancel."""

import os
import re
import stat
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.system.conftest import is_whole, table, wait_for
from tests.system.slurm import running_slurm
from vae_tune.config.files import read_json
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import load_images
from vae_tune.record.run_slots import slots_of_run
from vae_tune.vae.checkpoint import checkpoint_folder
from vae_tune.vae.training import fit

pytestmark = pytest.mark.system

SMALL = ("--train-size", 2000, "--max-epochs", 3, "--scheduler", "none", "--results-dir", "out")
LIMITED = ("--num-samples", 2, "--max-concurrent", 1, *SMALL, "--max-epochs", 15)
LONG = ("--train-size", 40_000, "--batch-size", 2, "--space", "space.yaml", "--results-dir", "out")
"""An epoch takes some seconds, so that a signal comes in the middle of one."""
SLOW = """
import time
from pathlib import Path

def slow(model, images):
    time.sleep(0 if Path("{place}/hurry").exists() else 2)
    return 0.0
"""
"""A metric that makes epochs long without using a CPU, until there is a file ``hurry``."""
SPACE = """
hidden_width: 64
latent_size: {type: int, low: 2, high: 64, log: true}
learning_rate: {type: float, low: 1.0e-4, high: 1.0e-3, log: true} # what is higher diverges with batches this small
"""


@pytest.fixture(scope="module")
def slurm():
    with running_slurm(cpus=2) as slurm:
        yield slurm


@pytest.fixture(scope="module", autouse=True)
def limited(slurm, tmp_path_factory):
    """A job with a time limit; it takes minutes but hardly a CPU, so it begins first and runs beside all tests."""
    place = tmp_path_factory.mktemp("limited")
    (place / "slow.py").write_text(SLOW.format(place=place))
    words = (*LIMITED, "--metric", "slow.py:slow", "--study-name", "limit")
    return place, slurm.submit(*words, options=("--time=4", "--nodelist=n1"), cwd=place)


@pytest.fixture
def submit(slurm, tmp_path):
    """Submit searches that write into ``tmp_path``; what is left of them at the end is killed."""
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "slow.py").write_text(SLOW.format(place=tmp_path))
    yield lambda *words, options=(): slurm.submit(*words, options=options, cwd=tmp_path)
    for job in slurm.queue(tmp_path):
        slurm.run("scancel", "--signal=KILL", "--full", job, check=False)
        slurm.run("scancel", job, check=False)
    wait_for(lambda: not slurm.queue(tmp_path))


def status(folder):
    path = folder / "study.json"
    return read_json(path)["status"] if path.exists() else ""


def epochs(folder):
    return [(int(row["trial"]), int(row["epoch"])) for row in table(folder / "epochs.csv")]


def losses(folder):
    return [(row["trial"], row["epoch"], row["train_loss"], row["val_loss"]) for row in table(folder / "epochs.csv")]


def test_a_search_uses_both_nodes_keeps_its_token_and_leaves_nothing_behind(slurm, submit, tmp_path):
    """The task of a job array, in the environment of its folder."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("echo activated $NOT_SET")
    job = submit("--num-samples", 8, "--seed", "%a", *SMALL, options=("--nodes=2", "--array=3"))
    folder = tmp_path / "out" / f"mnist-{job}_3"
    place = slurm.wait_for(lambda: temporary_folder(slurm, job), job, tmp_path)
    token = slurm.wait_for(lambda: token_of(slurm, job), job, tmp_path)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and token in command(pid)]
    state, output = slurm.wait(job, tmp_path)
    assert state == "COMPLETED", output
    assert output.startswith("activated\n")
    assert "2 trials side by side" in output  # from the start, or once the second node has joined
    is_whole(folder, trials=8)
    assert status(folder) == "complete"
    study = read_json(folder / "study.json")
    assert (study["config"]["trial"]["seed"], study["runs"][0]["slurm_job"]) == (3, f"{job}_3")
    assert [each.count for each in slots_of_run(study["runs"][0])] in ([1, 2], [2])
    assert token not in output
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert slurm.processes(SLURM_JOB_ID=job) == []
    assert not place.exists()
    assert slurm.job(job)["ExitCode"] == "0:0"


def test_a_pause_in_the_middle_of_an_epoch_changes_no_number(slurm, submit, tmp_path):
    """In a job that may not be requeued, so that it submits another one, which goes on with its study."""
    job = submit("--num-samples", 1, "--max-epochs", 2, *LONG, options=("--no-requeue",))
    folder = tmp_path / "out" / f"mnist-{job}"
    slurm.wait_for(lambda: epochs(folder), job, tmp_path)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.wait_for(lambda: status(folder) == "paused", job, tmp_path)
    assert (checkpoint_folder(folder, 0) / "midway.safetensors").exists()
    assert epochs(folder) == [(0, 1)]
    state, output = slurm.wait(job, tmp_path)
    assert state == "COMPLETED", output
    successor = re.search(r"So job (\d+) goes on with the search", output)[1]
    assert "\nExplore the study:" in output  # the other way to resume is for a user who cancels the job only
    assert "If you cancel it, resume with: sbatch" in output
    state, output = slurm.wait(successor, tmp_path)
    assert state == "COMPLETED", output
    assert [run["slurm_job"] for run in read_json(folder / "study.json")["runs"]] == [job, successor]
    config = TrialConfig(batch_size=2, hidden_width=64, max_epochs=2)
    unbroken = fit(config, load_images(DataConfig(train_size=40_000)), torch.device("cpu"))
    expected = [("0", str(report.epoch), report.train_loss, report.val_loss) for report in unbroken]
    assert [(trial, epoch, *map(float, found)) for trial, epoch, *found in losses(folder)] == expected


def test_a_killed_step_a_lost_node_and_a_preemption_cost_at_most_the_epochs_in_flight(slurm, submit, tmp_path):
    folder = tmp_path / "out" / "lost"
    words = ("--num-samples", 10, *SMALL, "--metric", "slow.py:slow", "--study-name", "lost")
    job = submit(*words, options=("--nodes=2",))

    def says(text, times=1):
        slurm.wait_for(lambda: slurm.output(job, tmp_path).count(text) >= times, job, tmp_path)

    says("2 trials side by side")  # from the start, or once the second node has joined
    steps = slurm.run("squeue", "--noheader", "--steps", f"--jobs={job}", "--nodelist=n2", "--format=%i").split()
    for step in steps:
        slurm.run("scancel", "--signal=KILL", step)
    says("Node n2 was lost")
    says("2 trials side by side", times=2)
    slurm.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    says("Node n2 was lost", times=2)
    slurm.run("scontrol", "update", "nodename=n2", "state=resume", check=False)  # it may be back already
    before = losses(folder)
    slurm.run("scontrol", "requeue", job)
    (tmp_path / "hurry").touch()
    state, output = slurm.wait(job, tmp_path)
    assert state == "COMPLETED", output
    study = read_json(folder / "study.json")
    assert (slurm.job(job)["Restarts"], len(study["runs"])) == ("1", 2)
    assert sorted(epochs(folder)) == list(product(range(10), (1, 2, 3)))
    assert set(before) <= set(losses(folder))
    is_whole(folder, trials=10)


def test_a_second_job_leaves_a_study_that_is_written_and_a_cancel_ends_the_first_for_good(slurm, submit, tmp_path):
    folder = tmp_path / "out" / "one"
    first = submit("--num-samples", 20, "--max-epochs", 20, "--study-name", "one", *LONG)
    slurm.wait_for(lambda: epochs(folder), first, tmp_path)
    second = submit("--resume", folder)
    state, output = slurm.wait(second, tmp_path)
    assert (state, slurm.job(second)["ExitCode"]) == ("FAILED", "2:0")
    assert f"The study out/one is being written by Slurm job {first}, process" in output.replace(f"{tmp_path}/", "")
    before = losses(folder)
    slurm.run("scancel", first)
    state, output = slurm.wait(first, tmp_path)
    slurm.wait_for(lambda: status(folder) == "interrupted", first, tmp_path)
    assert state == "CANCELLED"
    given = "--partition=main --nodes=1 --cpus-per-task=1 .*--time=01:00:00"  # by the script, but for the CPUs
    assert re.search(f"sbatch {given} cluster/slurm.sh --resume out/one", output), output
    assert slurm.processes(SLURM_JOB_ID=first) == []
    assert losses(folder)[: len(before)] == before


def test_a_job_is_requeued_before_its_time_limit_until_its_search_is_complete(slurm, limited, search, tmp_path):
    """By the lines of the script; beside the same search, which nothing interrupts.

    The signal comes half a minute to a minute after a start. One trial at a time, so that TPE proposes the same ones.
    """
    place, job = limited
    folder = place / "out" / "limit"
    code, said = search(*LIMITED, "--study-name", "unbroken").wait()
    assert code == 0, said
    slurm.wait_for(lambda: int(slurm.job(job)["Restarts"]), job, place)
    (place / "hurry").touch()
    state, output = slurm.wait(job, place)
    assert state == "COMPLETED", output
    assert "SIGUSR1: the search is pausing" in output
    assert f"Job {job} is in the queue again" in output
    assert int(slurm.job(job)["Restarts"]) >= 1
    assert epochs(folder) == list(product(range(2), range(1, 16)))
    assert losses(folder) == losses(tmp_path / "out" / "unbroken")


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def token_of(slurm, job):
    """The token of the job's Ray, which the step on the other node was given."""
    for pid in slurm.processes(SLURM_JOB_ID=job):
        if "slurm_node" in command(pid):
            entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
            return dict(entry.partition("=")[::2] for entry in entries)["RAY_AUTH_TOKEN"]
    return None


def temporary_folder(slurm, job):
    """The folder of the job's Ray."""
    words = [word for pid in slurm.processes(SLURM_JOB_ID=job) for word in command(pid).split()]
    found = [word.partition("=")[2] for word in words if word.startswith("--log_dir=")]
    return Path(found[0]).parents[2] if found else None
