"""Memory of a search on MNIST: driver, workers and Ray's shared object store, against the number of workers.

    python benchmarks/memory.py [--workers 1,2]

A process's own memory is what it shares with no other (USS): the images lie in the object store, once for all workers,
and count there. Peaks over the run, sampled twice a second. The base is the USS of a Python that imported torch.
Workers share pages with each other and with the process that forked them: the last column counts all processes of the
search, Ray's too, and every page once (PSS).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import publish

ROOT = Path(__file__).parents[1]
IMPORT = "import torch; print('up', flush=True); input()"


def own_mb(pid: int) -> float:
    """Return the memory that only the process ``pid`` uses, 0 where it is gone."""
    return sum(_field(Path(f"/proc/{pid}/smaps_rollup"), name) for name in ("Private_Clean:", "Private_Dirty:"))


def shared_mb(pid: int) -> float:
    """Return the memory of a process, each page divided by the number of processes that use it."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def store_mb() -> float:
    """Return the memory in files under /dev/shm, where Ray keeps its objects."""
    return _field(Path("/proc/meminfo"), "Shmem:")


def torch_mb() -> float:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", IMPORT], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = own_mb(process.pid)
        process.kill()
    return found


def search(workers: int) -> dict[str, float]:
    """Return the peaks, in MB, of a search with that many workers."""
    peaks = {"driver": 0.0, "largest worker": 0.0, "object store": 0.0, "whole search": 0.0}
    before = store_mb()
    with tempfile.TemporaryDirectory() as place:
        options = [
            "--num-samples",
            3 * workers,
            "--max-epochs",
            2,
            "--max-concurrent",
            workers,
            "--results-dir",
            place,
        ]

        def look(driver: int, workers: list[int]) -> None:
            peaks["driver"] = max(peaks["driver"], own_mb(driver))
            peaks["largest worker"] = max([peaks["largest worker"], *map(own_mb, workers)])
            peaks["object store"] = max(peaks["object store"], store_mb() - before)
            peaks["whole search"] = max(peaks["whole search"], sum(map(shared_mb, [driver, *session(driver)])))

        watch_search(options, look, every=0.5)
    return peaks


def watch_search(options: Sequence[Any], look: Callable[[int, list[int]], None], every: float) -> None:
    """Run a search, and call ``look`` with the ids of its driver and its workers ``every`` so many seconds."""
    command = [sys.executable, str(ROOT / "search.py"), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            while process.poll() is None:
                look(process.pid, [pid for pid in session(process.pid) if command_of(pid).startswith("ray::")])
                time.sleep(every)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")


def _field(path: Path, name: str) -> float:
    """Return the MB behind ``name`` in a file of the kernel's, 0 where there are none."""
    try:
        values = [line.split()[1] for line in path.read_text().splitlines() if line.startswith(name)]
    except OSError:
        return 0.0
    return sum(map(float, values)) / 1024


def session(leader: int) -> list[int]:
    """Return the descendants of ``leader``."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {leader}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {leader})


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2")
    base = torch_mb()
    rows: list[list[str]] = [["import torch alone", "", f"{base:.0f}", "", "", ""]]
    measured: dict[str, object] = {"import torch": base}
    for workers in map(int, parser.parse_args().workers.split(",")):
        found = search(workers)
        measured[f"{workers} workers"] = found
        driver, worker, store, whole = found.values()
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        numbers = f"{driver:.0f}", f"{worker:.0f}", f"{worker / base:.2f}", f"{store:.0f}", f"{whole:.0f}"
        rows.append([name, *numbers])
    columns = ["", "driver, MB", "largest worker, MB", "of import torch", "shared memory, MB", "whole search, MB"]
    publish(
        "memory",
        "Peak memory that no other process shares; all processes of the search together",
        columns,
        rows,
        measured,
    )


if __name__ == "__main__":
    main()
