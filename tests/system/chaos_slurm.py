"""Run a search as a job of a real Slurm on two nodes, and disturb it at random moments, until it is complete.

    python -m tests.system.chaos_slurm [--rounds 20] [--seed 0]

A disturbance kills the driver or a step, requeues, pauses or cancels the job (and submits another that resumes its
study), or takes one of the nodes away for a while. The same search also runs unbroken; all that tests.system.chaos
says of its end holds here too. The last line counts rounds, trials lost, and epochs that were in flight and lost.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.system.chaos import check, in_flight
from tests.system.conftest import Command, table, wait_for
from tests.system.slurm import ENDED, NODES, Slurm, running_slurm
from vae_tune.config.files import read_json

EVENTS = ("driver", "step", "requeue", "pause", "cancel", "node", "first node")


def run_chaos(slurm: Slurm, place: Path, rounds: int, seed: int, num_samples: int) -> dict[str, int]:
    """Run both searches in ``place`` and return the counts; raises AssertionError where anything was lost."""
    chance = random.Random(seed)
    options = ("--num-samples", num_samples, "--sampler", "random", "--train-size", 4000, "--max-epochs", 9)
    options = (*options, "--results-dir", "out", "--seed", seed)
    code, output = Command(*options, "--study-name", "unbroken", cwd=place).wait(3600)
    assert code == 0, output

    folder, counts = place / "out" / "chaos", {"rounds": 0, "trials lost": 0, "epochs lost in flight": 0}
    new = (*options, "--study-name", "chaos")
    job = _submit(slurm, place, *new)
    events: collections.Counter[str] = collections.Counter()
    while not _is_complete(folder):
        if slurm.job(job)["JobState"] in ENDED:
            words = ("--resume", folder) if (folder / "study.json").exists() else new
            job = _submit(slurm, place, *words)
        before = len(table(folder / "epochs.csv"))
        wait_for(lambda job=job, before=before: _is_due(slurm, job, folder, before), timeout=600)
        if counts["rounds"] >= rounds or slurm.job(job)["JobState"] != "RUNNING":
            continue
        time.sleep(chance.uniform(0, 3))
        event = min(chance.sample(EVENTS, len(EVENTS)), key=lambda name: events[name])
        _disturb(slurm, job, event)
        events[event] += 1
        counts["rounds"] += 1
        counts["epochs lost in flight"] += 0 if event == "pause" else in_flight(folder)
        print(f"{counts['rounds']}: {event}, {len(table(folder / 'epochs.csv'))} epochs recorded", flush=True)
    state, output = slurm.wait(job, place)
    assert state == "COMPLETED", output
    check(place, folder, num_samples, set())
    assert not slurm.processes(SLURM_JOB_ID=job)
    counts["trials lost"] = num_samples - len(table(folder / "trials.csv"))
    return counts


def _submit(slurm: Slurm, place: Path, *words: object) -> str:
    return slurm.submit(*words, options=("--nodes=2",), cwd=place)


def _is_complete(folder: Path) -> bool:
    return (folder / "study.json").exists() and read_json(folder / "study.json")["status"] == "complete"


def _is_due(slurm: Slurm, job: str, folder: Path, before: int) -> bool:
    """Whether the job has recorded an epoch, or ended."""
    return len(table(folder / "epochs.csv")) > before or slurm.job(job)["JobState"] in ENDED or _is_complete(folder)


def _disturb(slurm: Slurm, job: str, event: str) -> None:
    """Let one thing happen to a running job."""
    if event == "driver":
        for pid in slurm.processes(SLURM_JOB_ID=job):
            with contextlib.suppress(OSError):
                if "--address\0slurm\0" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
    elif event == "step":
        steps = slurm.run("squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i").split()
        for step in [step for step in steps if not step.endswith((".batch", ".extern"))][-1:]:
            slurm.run("scancel", "--signal=KILL", step, check=False)
    elif event == "requeue":
        slurm.run("scontrol", "requeue", job)
    elif event == "pause":
        slurm.run("scancel", "--batch", "--signal=USR1", job)
    elif event == "cancel":
        slurm.run("scancel", job)
    else:
        node = NODES[0] if event == "first node" else NODES[1]
        slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=chaos")
        time.sleep(2)
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # it may be back already


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-samples", type=int, default=0, help="default: as many as the rounds need")
    arguments = parser.parse_args()
    num_samples = arguments.num_samples or 6 * arguments.rounds
    with tempfile.TemporaryDirectory(prefix="vae_tune-chaos-") as place, running_slurm() as slurm:
        counts = run_chaos(slurm, Path(place), arguments.rounds, arguments.seed, num_samples)
    if counts["rounds"] < arguments.rounds:
        raise SystemExit(f"The search ended after {counts['rounds']} rounds: take more --num-samples.")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
