"""Seconds from the command to a good model, of real searches: vae_tune beside what people would use instead.

    python benchmarks/real_clock.py [--runs 5] [--searches freeze-thaw,optuna,ray]
                                    [--num-samples 50] [--train-size 50000] [--max-epochs 10]

The searches are those of ``search.py``, on two cores: ``optuna`` is two processes of Optuna alone, ``ray`` is Ray Tune
as its documentation shows it, both with our training; ``asha`` and ``freeze-thaw`` are vae_tune with that scheduler.
They run in turn. A search has come near once a trial of it is complete whose validation loss is at most ``--near``
above the lowest of all searches of all programs; one that never does counts with its wall-clock. A run that ends for
want of time leaves those before it in ``--results``, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from harness import publish, spread

from search import SPACE, Epoch, peer, search

WHOLE = 50, 50_000, 10
"""Trials, training images and epochs of a default search."""
OURS = ("freeze-thaw", "asha")
PEERS = ("optuna", "ray")


@dataclass(frozen=True)
class Run:
    """A search that has ended."""

    name: str
    sizes: Sequence[int]
    """Trials, training images and epochs."""
    wall: float
    """Seconds from the command to its end."""
    epochs: int
    completed: Sequence[tuple[float, float]]
    """Of each complete trial: seconds since the command, and loss."""

    @property
    def best(self) -> float:
        """The lowest loss of a complete trial."""
        return min(loss for _, loss in self.completed)

    def seconds_to(self, near: float) -> float:
        """Return when a complete trial had a loss of at most ``near``; if none had, the wall-clock."""
        return min((seconds for seconds, loss in self.completed if loss <= near), default=self.wall)


def run(name: str, folder: Path, sizes: tuple[int, int, int], seed: int) -> Run:
    """Run a search; our seeds differ from run to run, as the peers' do."""
    (folder / "space.json").write_text(json.dumps(SPACE))
    start = time.time()
    epochs: list[Epoch]
    if name in OURS:
        epochs = search(folder, *sizes, "--scheduler", name, "--seed", seed)
    else:
        epochs = peer(name, "ours", folder, *sizes)
    wall = time.time() - start
    whole = [epoch for epoch in epochs if epoch.epoch == sizes[2] and math.isfinite(epoch.val_loss)]
    return Run(name, sizes, wall, len(epochs), [(epoch.ended - start, epoch.val_loss) for epoch in whole])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--searches", default="freeze-thaw,optuna,ray")
    parser.add_argument("--num-samples", type=int, default=WHOLE[0])
    parser.add_argument("--train-size", type=int, default=WHOLE[1])
    parser.add_argument("--max-epochs", type=int, default=WHOLE[2])
    parser.add_argument("--near", type=float, default=0.5, help="nats above the lowest loss")
    parser.add_argument("--results", type=Path, default=Path("results/real_clock.jsonl"))
    options = parser.parse_args()
    names = options.searches.split(",")
    if unknown := sorted(set(names) - {*OURS, *PEERS}):
        parser.error(f"no search is called {unknown[0]}: {', '.join([*OURS, *PEERS])}")
    sizes = options.num_samples, options.train_size, options.max_epochs
    options.results.parent.mkdir(parents=True, exist_ok=True)

    runs: dict[str, list[Run]] = defaultdict(list)
    for line in options.results.read_text().splitlines() if options.results.exists() else ():
        found = Run(**json.loads(line))
        if tuple(found.sizes) == sizes:
            runs[found.name].append(found)
    for turn in range(options.runs):
        for name in names:
            if len(runs[name]) > turn:
                continue
            with tempfile.TemporaryDirectory() as place:
                found = run(name, Path(place), sizes, turn)
            runs[name].append(found)
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(f"  {name}: {found.wall:.0f} s, {found.epochs} epochs, best {found.best:.2f}", flush=True)

    near = min(found.best for name in names for found in runs[name]) + options.near
    seconds = {name: [found.seconds_to(near) for found in runs[name]] for name in names}
    peers = [median(seconds[name]) for name in names if name in PEERS]
    rows = [
        [
            name,
            spread(seconds[name], 0),
            f"{sum(found.best <= near for found in runs[name])} of {len(runs[name])}",
            spread([found.best for found in runs[name]]),
            spread([found.wall for found in runs[name]], 0),
            spread([found.epochs for found in runs[name]], 0),
            f"{median(seconds[name]) / min(peers):.2f}" if peers else "",
        ]
        for name in names
    ]
    columns = ["", "seconds to near", "came near", "best val_loss", "wall-clock, s", "epochs", "of the better peer"]
    trained = f"{sizes[0]} trials of up to {sizes[2]} epochs on {sizes[1]} images, 2 side by side"
    title = f"Seconds from the command to a complete trial with a validation loss of at most {near:.2f}: {trained}; "
    title += f"medians of {options.runs} runs in turn"
    publish(
        "real_clock",
        f"{title} (least to most)",
        columns,
        rows,
        {name: list(map(asdict, runs[name])) for name in names},
    )


if __name__ == "__main__":
    main()
