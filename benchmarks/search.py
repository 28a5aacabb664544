"""A whole search, against what people would use instead, on two cores.

    python benchmarks/search.py [--short] [--same-size] [--peers ...] [--runs 1]
                                [--num-samples 50] [--train-size 50000] [--max-epochs 10]

The peers, in ``benchmarks/peers``, search the same space with two trials side by side and ASHA's rungs at 1, 3, 9, as
their documentation shows it: ``optuna`` is two processes that share a journal file, ``ray`` is Ray Tune with its
OptunaSearch, ``syne`` is Syne Tune's ASHA on its local backend. Each trains the usual way (see ``train.py``), or with
our training (``optuna+ours``), which leaves the search alone to compare. The search is the default one, 50 trials on
50,000 images, in which all peers together take more than an hour; ``--short`` is one of 24 trials on 10,000 images,
which they end within a quarter of an hour. There the time that a program takes to start counts for more: that favors
those that start fewest processes.

Searches sample by chance and so train networks of different sizes, and a large one takes several times as long for an
epoch: where the training is the same, the last column compares the wall-clock per second of training, as if the sizes
were equal. With ``--same-size`` they are: all search the learning rate alone, for the reference network, and their
wall-clock per trained epoch can be compared.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from harness import publish, spread

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
SLOTS = 2
WHOLE, SHORT = (50, 50_000), (24, 10_000)
"""Trials and training images."""
SPACE = {
    "latent_size": {"type": "int", "low": 2, "high": 64, "log": True},
    "hidden_width": {"type": "int", "low": 64, "high": 1024, "log": True},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
}
ONE_SIZE = {"latent_size": 20, "hidden_width": 400}


@dataclass(frozen=True)
class Epoch:
    """An epoch of any program."""

    trial: str
    epoch: int
    val_loss: float
    seconds: float
    ended: float
    """Seconds since 1970."""


def search(folder: Path, num_samples: int, train_size: int, max_epochs: int, *more: object) -> list[Epoch]:
    """Run a search of vae_tune with ``more`` options; return its epochs in the order of their ends."""
    options = ["--num-samples", num_samples, "--train-size", train_size, "--max-epochs", max_epochs]
    options += ["--max-concurrent", SLOTS, "--results-dir", folder, "--study-name", "study"]
    options += ["--space", folder / "space.json", *more]
    command = [sys.executable, str(ROOT / "search.py"), *map(str, options)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    with (folder / "study" / "epochs.csv").open() as file:
        return [
            Epoch(
                row["trial"],
                int(row["epoch"]),
                float(row["val_loss"]),
                float(row["seconds"]),
                datetime.fromisoformat(row["time"]).timestamp(),
            )
            for row in csv.DictReader(file)
        ]


def peer(name: str, kernel: str, folder: Path, *sizes: int) -> list[Epoch]:
    """Run a peer; return its epochs in the order of their ends."""
    processes = SLOTS if name == "optuna" else 1
    command = [sys.executable, str(PEERS / f"plain_{name}.py"), kernel, str(folder), *map(str, sizes)]
    variables = {"SYNETUNE_FOLDER": str(folder), "PYTHONPATH": str(PEERS.parent)}  # usual.py is there
    logs = [folder / f"log_{number}.txt" for number in range(processes)]
    running = []
    for path in logs:
        with path.open("w") as log:
            how = {"stdout": log, "stderr": log, "cwd": folder, "env": os.environ | variables}
            running.append(subprocess.Popen(command, **how))  # type: ignore[call-overload]
    for path, code in zip(logs, [process.wait() for process in running], strict=True):
        if code:
            raise RuntimeError(f"exit code {code}: {' '.join(command)}\n{path.read_text()[-2000:]}")
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    return [
        Epoch(line["trial"], line["epoch"], line["val_loss"], line["ended"] - line["began"], line["ended"])
        for line in lines
    ]


def ours(name: str) -> bool:
    """Whether a program trains with vae_tune's step."""
    return name == "vae_tune" or name.endswith("+ours")


def ratio(a: dict[str, float], b: dict[str, float], what: str) -> float:
    """Return the wall-clock of a run per epoch, or per second of training, over that of another."""
    return (a["wall"] / a[what]) / (b["wall"] / b[what])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--same-size", action="store_true")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--max-epochs", type=int, default=10)
    parser.add_argument("--peers", default="optuna+ours,ray+ours,syne+ours,optuna,ray,syne")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    samples, images = SHORT if options.short else WHOLE
    sizes = options.num_samples or samples, options.train_size or images, options.max_epochs
    peers = options.peers.split(",")
    space = SPACE | (ONE_SIZE if options.same_size else {})
    if any(name.startswith("syne") for name in peers) and importlib.util.find_spec("syne_tune") is None:
        parser.error("Syne Tune is not installed: pip install 'vae-tune[bench]', or leave syne out of --peers.")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("vae_tune", *peers)}

    for _ in range(options.runs):
        for name, runs in found.items():
            with tempfile.TemporaryDirectory() as place:
                (Path(place) / "space.json").write_text(json.dumps(space))
                start = time.time()
                if name == "vae_tune":
                    epochs = search(Path(place), *sizes)
                else:
                    program, _, kernel = name.partition("+")
                    epochs = peer(program, kernel or "usual", Path(place), *sizes)
                wall = time.time() - start
            training = sum(epoch.seconds for epoch in epochs)
            best = min(epoch.val_loss for epoch in epochs if math.isfinite(epoch.val_loss))
            runs.append({"wall": wall, "epochs": len(epochs), "training": training, "best": best})
            print(f"  {name}: {runs[-1]}", flush=True)
    rows, mine = [], found["vae_tune"]
    for name, runs in found.items():
        rows.append(
            [
                name,
                spread([run["wall"] for run in runs], 0),
                spread([run["epochs"] for run in runs], 0),
                f"{median(run['training'] / run['wall'] / SLOTS for run in runs):.0%}",
                f"{min(run['best'] for run in runs):.2f}",
                spread([run["wall"] / run["epochs"] for run in runs]),
                spread([ratio(a, b, "epochs") for a, b in zip(mine, runs, strict=True)]),
                spread([ratio(a, b, "training") for a, b in zip(mine, runs, strict=True)]) if ours(name) else "",
            ]
        )
    columns = [
        "",
        "wall-clock, s",
        "epochs",
        "core time in training",
        "best val_loss",
        "s per epoch",
        "vae_tune / this",
        "per second of training",
    ]
    runs_in_words = "one run each" if options.runs == 1 else f"medians of {options.runs} runs in turn (least to most)"
    networks = " of one network" if options.same_size else ""
    trained = f"{sizes[0]} trials{networks} of up to {sizes[2]} epochs on {sizes[1]} images, {SLOTS} side by side"
    publish(
        "search" + ("_short" if options.short else "") + ("_same_size" if options.same_size else ""),
        f"{trained}; {runs_in_words}, from the command to its end",
        columns,
        rows,
        found,
    )


if __name__ == "__main__":
    main()
