"""On a GPU: one training epoch, and how many trials a minute several of them side by side make.

    python benchmarks/gpu.py [--runs 3] [--side-by-side 1,4,10,20] [--epochs 5]

An epoch is compared with the usual way, the training of ``train.py`` on the same GPU. The searches train all of their
trials to the end, with a share of the GPU each (``--gpus-per-trial``), from the command to its end. Each takes a core
of the processor as well: on a machine with fewer cores than trials fewer of them run at once.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness import alternate, publish, ratio, spread
from train import CONFIGS, ours, usual

from vae_tune.config import DataConfig
from vae_tune.data import load_images

ROOT = Path(__file__).parents[1]


def search(side_by_side: int, epochs: int) -> tuple[float, int, float]:
    """Return the seconds of a search of three trials in each place, the trials, and the median seconds of an epoch."""
    trials = 3 * side_by_side
    options = ["--num-samples", trials, "--max-epochs", epochs, "--scheduler", "none"]
    options += ["--max-concurrent", side_by_side, "--gpus-per-trial", round(1 / side_by_side, 4)]
    with tempfile.TemporaryDirectory() as place:
        options += ["--results-dir", place, "--study-name", "study"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, str(ROOT / "search.py"), *map(str, options)], stdout=subprocess.DEVNULL, check=True
        )
        seconds = time.perf_counter() - start
        with (Path(place) / "study" / "epochs.csv").open() as file:
            each = sorted(float(row["seconds"]) for row in csv.DictReader(file))
    return seconds, trials, each[len(each) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side-by-side", default="1,4,10,20")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here (torch.cuda.is_available() is False); train.py measures a CPU.")
    images, device = load_images(DataConfig()), torch.device("cuda")
    rows, measured = [], {}
    for name, config in CONFIGS.items():
        print(name, flush=True)
        ways = {"vae_tune": ours, "usual way": usual}
        found = alternate({way: lambda f=f, c=config: f(c, images, device) for way, f in ways.items()}, options.runs)  # type: ignore[misc]
        mine, other = found.values()
        rate = len(images.train) / sorted(mine)[len(mine) // 2]
        rows.append([name, spread(mine, 3), f"{rate:,.0f}", spread(other), f"**{ratio(other, mine):.1f} x**"])
        measured[name] = found
    columns = ["", "vae_tune, s", "images per second", "usual way, s", "faster"]
    title = (
        f"One epoch of {len(images.train)} images, 784-400-20; medians of {options.runs} runs in turn (least to most)"
    )
    publish("gpu_train", title, columns, rows, measured)

    rows, measured = [], {}
    for side_by_side in map(int, options.side_by_side.split(",")):
        seconds, trials, each = search(side_by_side, options.epochs)
        print(f"  {side_by_side} side by side: {trials} trials in {seconds:.0f} s", flush=True)
        rows.append([str(side_by_side), f"{seconds:.0f}", f"{60 * trials / seconds:.1f}", f"{each:.2f}"])
        measured[str(side_by_side)] = {"seconds": [seconds], "trials": [float(trials)], "epoch": [each]}
    columns = ["trials on one GPU", "wall-clock, s", "trials per minute", "s per epoch of a trial"]
    publish(
        "gpu_search",
        f"Searches whose trials all take {options.epochs} epochs, side by side on one GPU",
        columns,
        rows,
        measured,
    )


if __name__ == "__main__":
    main()
