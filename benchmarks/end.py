"""From the end of a search's last trial to the prompt: the evaluation, the replay, the report, and the end of Ray.

    python benchmarks/end.py [--runs 5] [--beside CHECKOUT]

A search of 50 trials is interrupted when a few are left. Each run resumes a copy of it, so that all runs end with
about the same record. The clock starts when the last trial ended, as ``trials.csv`` has it. ``--beside`` alternates
with the code of another checkout, such as a ``git worktree`` of an older commit.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from harness import checkouts, in_checkout, publish, spread

TRIALS, LEFT = 50, 6
"""Trials of the search, and those that each run has left to train: enough to import meanwhile what the end needs."""
PARTS = ("winner evaluated", "report written", "prompt")
"""What happens after the last trial, in order."""


def search(checkout: Path, *options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "search.py", *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, **in_checkout(checkout))


def ended(folder: Path) -> list[float]:
    """Return when each trial that has ended did so, in seconds since 1970."""
    try:
        rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    except OSError:
        return []
    return [datetime.fromisoformat(row["ended"]).timestamp() for row in rows if row["ended"]]


def interrupted_search(checkout: Path, folder: Path, train_size: int) -> None:
    """Run a search until a few trials are left, and interrupt it."""
    place = ["--results-dir", folder.parent, "--study-name", folder.name]
    process = search(checkout, "--num-samples", TRIALS, "--train-size", train_size, *place)
    while len(ended(folder)) < TRIALS - LEFT:
        if process.poll() is not None:
            raise RuntimeError(f"the search ended with exit code {process.returncode}")
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait()


def seconds_to_the_end(checkout: Path, interrupted: Path) -> dict[str, float]:
    """Resume a copy of a search, and return the seconds from the end of its last trial to each of ``PARTS``."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / interrupted.name
        shutil.copytree(interrupted, folder)
        process = search(checkout, "--resume", folder)
        if process.wait():
            raise RuntimeError(f"the resumed search ended with exit code {process.returncode}")
        moments = [os.stat(folder / name).st_mtime for name in ("best/metrics.json", "report.html")]
        moments.append(time.time())
        last = max(ended(folder))
        return {part: moment - last for part, moment in zip(PARTS, moments, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--train-size", type=int, default=20_000)
    options = parser.parse_args()
    ways = checkouts(options.beside)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        interrupted_search(next(iter(ways.values())), folder, options.train_size)
        for _ in range(options.runs):
            for name, checkout in ways.items():
                found[name].append(seconds_to_the_end(checkout, folder))
                print(f"  {name}: {found[name][-1]}", flush=True)
    base = median(run[PARTS[-1]] for run in next(iter(found.values())))
    rows = []
    for name, runs in found.items():
        parts = [spread([run[part] for run in runs]) for part in PARTS]
        rows.append([name, *parts, f"{median(run[PARTS[-1]] for run in runs) / base:.2f} x"])
    title = (
        f"{TRIALS} trials; seconds from the end of the last; medians of {options.runs} runs in turn (least to most)"
    )
    publish("end", title, ["", *PARTS, "of the first"], rows, found)


if __name__ == "__main__":
    main()
