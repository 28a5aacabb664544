"""Seconds that ``load_study`` takes on a study of many trials with five reports each.

    python benchmarks/loading.py [--trials 5000] [--runs 5] [--beside CHECKOUT]

Each run is a process of its own that loads the study several times: the first time imports what reads tables too.
``--beside`` alternates with the code of another checkout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from costless import run_worker, write_history
from harness import checkouts, publish, ratio, spread

_TIMES = 9


def worker(folder: str) -> dict[str, float]:
    """Load a study in this process."""
    from vae_tune.analysis.study import load_study

    def load() -> tuple[float, float]:
        start = time.perf_counter(), time.process_time()
        load_study(folder)
        return time.perf_counter() - start[0], time.process_time() - start[1]

    first, *later = (load() for _ in range(1 + _TIMES))
    seconds, cpu = (statistics.median(times) for times in zip(*later, strict=True))
    return {"first": first[0], "first, CPU": first[1], "again": seconds, "again, CPU": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker)))
        return
    ways = checkouts(options.beside)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        write_history(folder, options.trials)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        run = {name: partial(run_worker, __file__, checkout, folder) for name, checkout in ways.items()}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(options.runs):
            for name, load in run.items():
                found[name].append(load())
    measured = {name: {key: [one[key] for one in runs] for key in runs[0]} for name, runs in found.items()}
    each, rows = list(measured.values()), []
    for what, taken in each[-1].items():
        row = [what, *(spread(measured[name][what], 3) for name in ways)]
        rows.append(row + ([f"**{ratio(taken, each[0][what]):.2f} x**"] if options.beside else []))
    columns = ["", *(f"{name}, s" for name in ways), *(["of the first"] if options.beside else [])]
    title = f"load_study of {options.trials} trials, a record of {size:.0f} MB; medians of {options.runs} runs in turn"
    publish("loading", title, columns, rows, measured)


if __name__ == "__main__":
    main()
