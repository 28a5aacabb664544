"""What a trial costs beyond its training, early and late: searches of trials that cost nothing, five reports each.

    python benchmarks/scale.py [--known 0,1000,10000] [--samplers tpe,random] [--runs 1] [--beside CHECKOUT]

Each search continues a study of so many known trials by ``--trials`` more, two side by side, in a process of its own,
with the keeper of the best trials and the view of a real search. A trial's cost is the wall-clock between two ends of
trials. With ``--whole``, a search begins with no known trial and runs as many as are named, which tells the driver's
memory too. ``--beside`` alternates with the code of another checkout.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costless import EPOCHS, listen, metadata_of, report, run_worker, search_config, write_history
from harness import checkouts, publish, spread


def worker(sampler: str, known: int, trials: int, folder: Path) -> dict[str, float]:
    """Run one search in this process."""
    from itertools import pairwise

    from ray import tune

    from vae_tune.cluster.ray_runtime import running_ray
    from vae_tune.cluster.slots import Slots
    from vae_tune.config.space import DEFAULT_SPACE
    from vae_tune.record.metadata import read_metadata
    from vae_tune.record.study_record import StudyRecord
    from vae_tune.record.trials import TrialRow
    from vae_tune.search.stopping import Stopping
    from vae_tune.search.tuner import run_trials

    def train(config: dict[str, Any]) -> None:
        for epoch in range(1, EPOCHS + 1):
            tune.report(report(config["values"], epoch))

    config = search_config(sampler, known + trials)
    ended: dict[int, float] = {}  # when each trial ended first
    memory: dict[int, float] = {}

    def note_end(row: TrialRow) -> None:
        if row.ended:
            ended.setdefault(row.trial, time.perf_counter())
            if len(ended) % 1000 == 0:
                memory.setdefault(len(ended), _own_mb())

    with running_ray(config.resources):
        if known:
            record = StudyRecord.resume(folder, read_metadata(folder))
        else:
            record = StudyRecord.create(folder, metadata_of(folder, config))
        stopping = Stopping()
        listen(record, stopping, note_end)
        before = resource.getrusage(resource.RUSAGE_SELF)
        run_trials(train, config, DEFAULT_SPACE, record, lambda: Slots(count=2, cpus=1, gpus=0), stopping)
        after = resource.getrusage(resource.RUSAGE_SELF)
        record.close()
    ends = list(ended.values())[5:]  # the first wait for Ray's workers
    return {
        "ms_per_trial": 1e3 * statistics.mean(later - earlier for earlier, later in pairwise(ends)),
        "driver_cpu_ms": 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(ended),
        "driver_mb": after.ru_maxrss / 1e3,
        "mb_per_1000_trials": _growth(memory),
    }


def _growth(memory: Mapping[int, float]) -> float:
    """Return by how much memory grows with 1000 trials, given it by number of trials; NaN if they are too few."""
    first, last = min(memory, default=0), max(memory, default=0)
    return (memory[last] - memory[first]) / (last - first) * 1000 if last > first else math.nan


def _own_mb() -> float:
    """Return the memory of this process that is no file's and that it shares with no other."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", default="0,1000,10000")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--whole")
    parser.add_argument("--samplers", default="tpe,random")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sampler, known, trials, place = options.worker
        print(json.dumps(worker(sampler, int(known), int(trials), Path(place))))
        return
    ways = checkouts(options.beside)
    sizes = [(0, int(count)) for count in (options.whole or "").split(",") if count]
    sizes = sizes or [(int(known), options.trials) for known in options.known.split(",")]
    measured: dict[str, dict[str, dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for known, trials in sizes:
            history = Path(place) / f"history_{known}"
            if known:
                write_history(history, known)
            for sampler in options.samplers.split(","):
                name = f"{sampler}, {trials} trials after {known}"
                measured[name] = _measure(ways, options.runs, sampler, known, trials, history)
    rows = [[name, *_cells(found)] for name, found in measured.items()]
    titles = ("ms a trial", "driver's CPU, ms", "driver, MB", "MB more per 1,000")
    columns = ["", *(f"{title}, {name}" for title in titles for name in ways)]
    publish("scale", "Trials that cost nothing, 5 reports each, two side by side", columns, rows, measured)


def _measure(
    ways: Mapping[str, Path], runs: int, sampler: str, known: int, trials: int, history: Path
) -> dict[str, dict[str, list[float]]]:
    """Return what each run gave, by checkout."""
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for _ in range(runs):
        for name, checkout in ways.items():
            with tempfile.TemporaryDirectory(dir=history.parent) as place:
                folder = Path(place) / "study"
                if known:
                    shutil.copytree(history, folder)
                found = run_worker(__file__, checkout, sampler, known, trials, folder)
            for key, value in found.items():
                measured[name].setdefault(key, []).append(value)
            print(f"  {sampler}, {trials} after {known}, {name}: {found['ms_per_trial']:.1f} ms each", flush=True)
    return measured


def _cells(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    keys = (("ms_per_trial", 1), ("driver_cpu_ms", 1), ("driver_mb", 0), ("mb_per_1000_trials", 1))
    return [
        "" if any(map(math.isnan, one[key])) else spread(one[key], digits)
        for key, digits in keys
        for one in found.values()
    ]


if __name__ == "__main__":
    main()
