"""Seconds that ``load_study`` takes on a study of many trials with five reports each.

    python benchmarks/loading.py [--trials 5000] [--runs 5] [--today CHECKOUT]

Each run is a process of its own that loads the study several times: the first time imports what reads tables too. With
``--today``, runs of the code here and of that in another checkout alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from costless import checkouts, run_worker, write_history
from harness import publish, ratio, spread

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
    parser.add_argument("--today", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker)))
        return
    codes = checkouts(options.today)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        write_history(folder, options.trials)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        run = {code: partial(run_worker, __file__, root, folder) for code, root in codes.items()}
        found: dict[str, list[dict[str, float]]] = {code: [] for code in codes}
        for _ in range(options.runs):
            for code, load in run.items():
                found[code].append(load())
    measured = {code: {key: [one[key] for one in runs] for key in runs[0]} for code, runs in found.items()}
    rows = []
    for what in measured["now"]:
        row = [what, *(spread(measured[code][what], 3) for code in codes)]
        rows.append(
            row + ([f"**{ratio(measured['now'][what], measured['today'][what]):.2f}**"] if options.today else [])
        )
    columns = ["", *(f"{code}, s" for code in codes), *(["of today's"] if options.today else [])]
    title = f"load_study of {options.trials} trials, a record of {size:.0f} MB; medians of {options.runs} runs in turn"
    publish("loading", title, columns, rows, measured)


if __name__ == "__main__":
    main()
