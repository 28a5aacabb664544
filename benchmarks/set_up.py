"""``make setup`` in a new clone, with the packages in the cache of the installer where it keeps them.

    python benchmarks/set_up.py [--runs 1] [--beside CHECKOUT]

Each way runs once before, which fills the cache, unless ``--cached`` says that it is full already. ``--beside``
alternates with another checkout, such as a ``git worktree`` of an older commit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import alternate, checkouts, publish, ratio, spread


def seconds_of_setup(checkout: Path) -> float:
    """Clone a checkout and set it up; return the seconds of the latter."""
    with tempfile.TemporaryDirectory(dir=checkout.parent) as place:  # on the disk on which people work
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "--quiet", checkout, clone], check=True)
        environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        start = time.perf_counter()
        with (Path(place) / "log").open("w+") as log:
            done = subprocess.run(["make", "setup"], cwd=clone, env=environment, stdout=log, stderr=log, check=False)
            if done.returncode:
                log.seek(0)
                raise RuntimeError(f"make setup: exit code {done.returncode}\n{log.read()[-2000:]}")
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--beside", type=Path)
    options = parser.parse_args()

    def set_up(checkout: Path) -> Callable[[], float]:
        return lambda: seconds_of_setup(checkout)

    ways = {name: set_up(checkout) for name, checkout in checkouts(options.beside).items()}
    found = alternate(ways, options.runs, warm_up=0 if options.cached else 1)
    base = next(iter(found.values()))
    rows = [[name, spread(taken, 1), f"{ratio(taken, base):.2f} x"] for name, taken in found.items()]
    runs_in_words = "one run each" if options.runs == 1 else f"medians of {options.runs} runs in turn (least to most)"
    publish("set_up", f"make setup in a new clone; {runs_in_words}", ["", "seconds", "of the first"], rows, found)


if __name__ == "__main__":
    main()
