"""What the benchmarks share: runs that alternate, tables, and a JSON file that says on what machine.

``benchmarks/tables/NAME.json`` holds the last run of ``benchmarks/NAME.py``, or of one of its forms; ``python
benchmarks/harness.py`` writes all of them into ``benchmarks/README.md``.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vae_tune.config.files import write_json
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.record.metadata import this_run

FOLDER = Path(__file__).parent
TABLES = FOLDER / "tables"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def alternate(ways: Mapping[str, Callable[[], float]], runs: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Run all ``ways`` one after the other, ``runs`` times over, and return what each gave; a warm-up is not kept."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(warm_up + runs):
        for name, way in ways.items():
            value = way()
            if run >= warm_up:
                found[name].append(value)
                print(f"  {name}: {value:.4g}", flush=True)
    return found


def checkouts(beside: Path | None) -> dict[str, Path]:
    """Return the checkouts to measure, by name with commit: ``beside`` first if it is given, then this one."""
    ways = {"beside": beside, "here": FOLDER.parent}
    return {f"{name}, {commit_of(way)}": way.resolve() for name, way in ways.items() if way}


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, marked where files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def in_checkout(checkout: Path) -> dict[str, Any]:
    """Return the options of ``subprocess`` with which Python imports the code of a checkout."""
    return {"cwd": checkout, "env": {**os.environ, "PYTHONPATH": str(checkout)}}


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return median, minimum and maximum in words."""
    median = statistics.median(values)
    if len(values) == 1:
        return f"{median:.{digits}f}"
    return f"{median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the ratio of two medians."""
    return statistics.median(values) / statistics.median(base)


def publish(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    measured: Mapping[str, Any],
    remarks: Sequence[str] = (),
) -> None:
    """Print a table and remarks; write them with all that was ``measured`` to ``benchmarks/tables/NAME.json``."""
    table = "\n\n".join([markdown(columns, rows), *remarks])
    print(f"\n{title}\n\n{table}")
    TABLES.mkdir(exist_ok=True)
    run = this_run()
    if run["versions"]["git"].endswith("-dirty") and not _changed():
        run["versions"]["git"] = run["versions"]["git"].removesuffix("-dirty")
    content = {"title": title, "machine": machine(), "measured_at": f"{datetime.now(UTC):%Y-%m-%d}", **run}
    content["command"] = " ".join(["python", f"benchmarks/{Path(run['command'][0]).name}", *run["command"][1:]])
    write_json(TABLES / f"{name}.json", {**content, "table": table, "measured": dict(measured)})


def _changed() -> bool:
    """Whether anything differs from the commit but tables that were written before this one, and the page of them."""
    everything_else = [":/", ":(top,exclude)benchmarks/tables", ":(top,exclude)benchmarks/README.md"]
    command = ["git", "-C", str(FOLDER), "diff", "--quiet", "HEAD", "--", *everything_else]
    return subprocess.run(command, check=False).returncode != 0


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, GPU."""
    import torch

    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": usable_cpus(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
    }


def collect() -> None:
    """Write the last tables into ``benchmarks/README.md``."""
    parts = []
    for path in sorted(TABLES.glob("*.json")):
        found = json.loads(path.read_text())
        on, versions = found["machine"], found["versions"]
        where = f"{on['processor']}, {on['cores']} cores, {on['memory_gb']} GB, {on['gpu'] or 'no GPU'}"
        what = f"torch {versions['torch']}, ray {versions['ray']}, optuna {versions['optuna']}"
        note = f"`{found['command']}`, {found['measured_at']}, {where}; {what}; commit {versions['git']}."
        parts.append(f"### {path.stem}\n{found['title']}\n\n{found['table']}\n\n{note}\n")
    readme = FOLDER / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + BEGIN + "\n" + "\n".join(parts) + END + rest.partition(END)[2])


if __name__ == "__main__":
    collect()
