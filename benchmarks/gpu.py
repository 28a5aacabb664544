"""On a GPU: one training epoch, and how many trials a minute several of them side by side make.

    python benchmarks/gpu.py [--runs 3] [--side-by-side 1,4,10,20] [--trials 20] [--epochs 5]

An epoch is compared with the usual way, the training of ``train.py`` on the same GPU. Each search trains as many
trials of one network to the end, with a share of the GPU each (``--gpus-per-trial``), and is timed from the command to
its end. A trial takes a core of the processor as well: the table says how many did run at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness import alternate, publish, ratio, spread
from train import CONFIGS, ours, usual

from search import ONE_SIZE, SPACE
from vae_tune import load_study
from vae_tune.config.names import COMPLETE
from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import load_images

ROOT = Path(__file__).parents[1]


def search(trials: int, side_by_side: int, epochs: int) -> tuple[int, float, float]:
    """Return how many trials ran side by side, the seconds of the search, and the median seconds of an epoch."""
    options = ["--num-samples", trials, "--max-epochs", epochs, "--scheduler", "none"]
    options += ["--max-concurrent", side_by_side, "--gpus-per-trial", int(10_000 / side_by_side) / 10_000]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "space.json").write_text(json.dumps(SPACE | ONE_SIZE))
        options += ["--space", f"{place}/space.json", "--results-dir", place, "--study-name", "study"]
        one = os.environ | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}
        command = [sys.executable, str(ROOT / "search.py"), *map(str, options)]
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=one)
        seconds = time.perf_counter() - start
        study = load_study(Path(place) / "study")
    if not (study.trials["state"] == COMPLETE).all():
        raise RuntimeError(f"Not every trial was trained to its end:\n{study.trials[['state', 'reason']]}")
    return study.metadata["runs"][-1]["slots"]["count"], seconds, float(study.epochs["seconds"].median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side-by-side", default="1,4,10,20")
    parser.add_argument("--trials", type=int, default=20)
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
    for wanted in map(int, options.side_by_side.split(",")):
        count, seconds, each = search(options.trials, wanted, options.epochs)
        print(f"  {count} side by side: {seconds:.0f} s", flush=True)
        rows.append([str(count), f"{seconds:.0f}", f"{60 * options.trials / seconds:.1f}", f"{each:.2f}"])
        measured[str(wanted)] = {"seconds": [seconds], "epoch": [each]}
    columns = ["trials on one GPU", "wall-clock, s", "trials per minute", "s per epoch of a trial"]
    title = f"{options.trials} trials of {options.epochs} epochs, 784-400-20, side by side on one GPU"
    publish("gpu_search", title, columns, rows, measured)


if __name__ == "__main__":
    main()
