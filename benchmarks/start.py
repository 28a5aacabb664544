"""From the command to the first training batch, against the bare floor: a Python that imports torch and starts Ray.

    python benchmarks/start.py [--runs 5]

A search's first batch is when its first epoch began: the moment at which the first row of ``epochs.csv`` was written,
less the seconds that the epoch took by its own clock. ``resume`` goes on with a search that was killed -9 after its
first epoch, until the next epoch begins. ``--help`` is timed to its end.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import alternate, publish, ratio, spread

ROOT = Path(__file__).parents[1]
FLOOR = "import torch, ray; ray.init({}); print('up', flush=True)"
PLAIN = "'local'"  # not to join a Ray that runs here already
LEAN = "'local', include_dashboard=False, log_to_driver=False"
PATIENCE = 120.0


def floor(options: str) -> float:
    start = time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", FLOOR.format(options)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    taken = time.time() - start
    process.wait()
    return taken


def usage() -> float:
    start = time.time()
    subprocess.run([sys.executable, ROOT / "search.py", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.time() - start


def search(folder: Path, *images: object) -> float:
    """Start a search, and return the seconds to its first batch; it is killed after its first epoch.

    Args:
        folder: of the study.
        images: options that name the images; default: 2,000 of MNIST.
    """
    options = ["--num-samples", 1, "--max-epochs", 50, "--results-dir", folder.parent, "--study-name", folder.name]
    return _until_epoch(1, folder, *options, *(images or ("--train-size", 2000)))


def resume(folder: Path) -> float:
    """Kill a search after its first epoch, resume it, and return the seconds to its next batch."""
    search(folder)
    return _until_epoch(len(_epochs(folder)) + 1, folder, "--resume", folder)


def _until_epoch(number: int, folder: Path, *options: object) -> float:
    start = time.time()
    command = [sys.executable, str(ROOT / "search.py"), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while len(_epochs(folder)) < number:
            if process.poll() is not None or time.time() - start > PATIENCE:
                raise RuntimeError(f"no epoch {number} from {' '.join(command)}")
            time.sleep(0.002)
        written = (folder / "epochs.csv").stat().st_mtime
        os.killpg(process.pid, signal.SIGKILL)
    return written - float(_epochs(folder)[number - 1]["seconds"]) - start


def _epochs(folder: Path) -> list[dict[str, str]]:
    """Return the whole rows of ``epochs.csv``."""
    try:
        text = (folder / "epochs.csv").read_text()
    except OSError:
        return []
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as place:
        numbers = iter(range(10**6))

        def fresh() -> Path:
            return Path(place) / f"study-{next(numbers)}"

        found = alternate(
            {
                "floor: import torch, ray; ray.init()": lambda: floor(PLAIN),
                "the same without Ray's dashboard": lambda: floor(LEAN),
                "search.py to the first batch": lambda: search(fresh()),
                "search.py --resume to the next batch": lambda: resume(fresh()),
                "search.py --help": usage,
            },
            runs,
        )
    base = next(iter(found.values()))
    rows = [[name, spread(taken), f"{ratio(taken, base):.2f} x"] for name, taken in found.items()]
    publish("start", f"Medians of {runs} runs in turn (least to most)", ["", "seconds", "of the floor"], rows, found)


if __name__ == "__main__":
    main()
