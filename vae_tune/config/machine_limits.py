"""The CPUs and the memory that this process may use: affinity, control groups and Slurm limit them; its niceness."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vae_tune.config.slurm_job import job_cpus, job_memory_left


def cpu_count() -> int:
    """Return how many CPUs this machine has."""
    return os.cpu_count() or 1


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use, at least 1, rounded down."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpu_count()
    limits = [job_cpus(os.environ), *(_cpu_quota(group) for group in control_groups("cpu", root))]
    return max(1, int(min([affinity, *(limit for limit in limits if limit is not None)])))


def cpu_note() -> str:
    """Return for instance " (1 of 2 CPUs may be used)", or "" if there is no limit."""
    usable, there = usable_cpus(), cpu_count()
    return f" ({usable} of {there} CPUs may be used)" if usable < there else ""


def niceness() -> int:
    """Return the niceness of this process: 0 by default, up to 19 for one that leaves busy CPUs to others."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process can still allocate, None if the system does not report them.

    This is the minimum over the machine, each control group and the Slurm job. Cached files count as available, in a
    group as in the machine: Linux drops them when memory is needed.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    amounts = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    left = [job_memory_left(os.environ, root), *(_memory_left(group) for group in control_groups("memory", root))]
    return max(0, min([*amounts, *(amount for amount in left if amount is not None)], default=0)) if amounts else None


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process: its own first, then its parents.

    Both versions of Linux's control groups are supported; other systems have none. ``controller`` is "cpu" or
    "memory"; ``root`` is that of the file system with /proc and the control groups.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            kind, _, options = after.split(" ", 2)
            if kind == ("cgroup" if controllers else "cgroup2") and (
                not controllers or controller in options.split(",")
            ):
                mounted, place = before.split(" ")[3:5]
                yield from _upwards(root / place.lstrip("/"), PurePosixPath(path), PurePosixPath(mounted))


def _upwards(mount: Path, path: PurePosixPath, mounted: PurePosixPath) -> Iterator[Path]:
    """Yield the folder of group ``path`` and those of its parents, where ``mounted`` is the group at ``mount``.

    In a container, the path can be that on the host, of which the mount shows only the end: then yield the mount.
    """
    inside = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
    folder = mount / inside
    if not folder.is_dir():
        folder = mount
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _cpu_quota(group: Path) -> float | None:
    """Return the CPUs that a control group allows, None if it sets no limit."""
    try:
        if (both := group / "cpu.max").exists():
            quota, period = both.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file at the top; "max" for no limit
        return None


def _memory_left(group: Path) -> int | None:
    """Return the bytes that a control group still allows, None if it sets no limit."""
    limit, used, files = "memory.max", "memory.current", "inactive_file"
    if not (group / limit).exists():
        limit, used, files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    try:
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int((group / limit).read_text()) - int((group / used).read_text()) + int(counts.get(files, 0))
    except (OSError, ValueError):  # no such file at the top; "max" for no limit
        return None
