"""A search beside other people's work, against two plain Optuna processes with our training step.

    python benchmarks/neighbors.py [--short] [--runs 1] [--num-samples 50] [--train-size 50000] [--max-epochs 10]

Two programs that only compute run on the two cores meanwhile, with the usual niceness, 0. Ray starts its workers with
niceness 15, so that the trials of a search would get what the others leave; vae_tune starts them with the niceness of
its command. Both searches are those of ``search.py --same-size``, and each also runs alone. They stop trials at
different epochs, so the wall-clock per trained epoch is compared, from the command to its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness import alternate, publish, spread

from search import ONE_SIZE, SHORT, SLOTS, SPACE, WHOLE, peer, search

OURS, THEIRS = "vae_tune", "optuna+ours"
LOOP = "while True: pass"


@contextmanager
def neighbors(count: int) -> Iterator[None]:
    """Run so many programs that only compute."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def seconds_per_epoch(name: str, loops: int, sizes: tuple[int, int, int]) -> float:
    """Search beside so many loops, and return the wall-clock per trained epoch."""
    with tempfile.TemporaryDirectory() as place, neighbors(loops):
        folder = Path(place)
        (folder / "space.json").write_text(json.dumps(SPACE | ONE_SIZE))
        start = time.time()
        epochs = search(folder, *sizes) if name == OURS else peer("optuna", "ours", folder, *sizes)
        return (time.time() - start) / len(epochs)


def table(found: Mapping[tuple[str, int], list[float]]) -> list[list[str]]:
    """Return a row for each number of loops: both searches, and the ratios of the runs that followed each other."""
    rows = []
    for loops in sorted({loops for _, loops in found}):
        ours, theirs = found[OURS, loops], found[THEIRS, loops]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        rows.append([f"beside {loops} busy loops" if loops else "alone", *map(spread, (ours, theirs, ratios))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--max-epochs", type=int, default=10)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    samples, images = SHORT if options.short else WHOLE
    sizes = options.num_samples or samples, options.train_size or images, options.max_epochs
    ways = [(name, loops) for loops in (0, SLOTS) for name in (OURS, THEIRS)]

    def measure(name: str, loops: int) -> Callable[[], float]:
        return lambda: seconds_per_epoch(name, loops, sizes)

    found = alternate(
        {f"{name}, {loops} loops": measure(name, loops) for name, loops in ways}, options.runs, warm_up=0
    )
    rows = table(dict(zip(ways, found.values(), strict=True)))
    runs_in_words = "one run each" if options.runs == 1 else f"medians of {options.runs} runs in turn (least to most)"
    trained = f"{sizes[0]} trials of one network of up to {sizes[2]} epochs on {sizes[1]} images, {SLOTS} side by side"
    publish(
        "neighbors" + ("_short" if options.short else ""),
        f"{trained}; {runs_in_words}, seconds per trained epoch, from the command to its end",
        ["", OURS, THEIRS, "vae_tune / optuna"],
        rows,
        found,
    )


if __name__ == "__main__":
    main()
