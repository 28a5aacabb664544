"""The Slurm job of this process: its id, and the CPUs and the memory of this node that Slurm gave to it.

Control groups and CPU affinity tell the same, but only at sites that enforce limits by them. The variables (sbatch(1)
and srun(1), "OUTPUT ENVIRONMENT VARIABLES") are set on the nodes of a job, in its batch script and in its steps, where
SLURMD_NODENAME is set too. A shell of ``salloc`` on a login node has others, which describe other machines.

- SLURM_CPUS_ON_NODE is always set: the CPUs of the job on this node, in a step those of the step.
- SLURM_CPUS_PER_TASK is set if ``--cpus-per-task`` was given. A step inherits the variable from the batch script, but
  since Slurm 22.05 not the CPUs, so the smaller number holds.
- SLURM_MEM_PER_NODE, SLURM_MEM_PER_CPU or SLURM_MEM_PER_GPU, in MiB, is set if memory was requested or has a default.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

_JOB = "SLURM_JOB_ID"
_ARRAY, _TASK = "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"
_MIB = 1024 * 1024
OPTIONS = "VAE_TUNE_SBATCH"
"""The variable in which a search in a job notes for its record what :func:`job_options` returns."""


def job_id(environment: Mapping[str, str]) -> str | None:
    """Return the id of the job as Slurm's commands show it, of a job array ARRAY_TASK; None outside a job."""
    if not _is_inside(environment):
        return None
    if _ARRAY in environment:
        return f"{environment[_ARRAY]}_{environment.get(_TASK, '')}"
    return environment[_JOB]


def job_options(environment: Mapping[str, str]) -> list[str]:
    """Return the options of ``sbatch`` with which another job is given what this one was; empty if unknown."""
    return shlex.split(environment.get(OPTIONS, "")) if _is_inside(environment) else []


def job_cpus(environment: Mapping[str, str]) -> int | None:
    """Return how many CPUs of this node the job, or its step, has; None outside a job."""
    if not _is_inside(environment):
        return None
    on_node, per_task = (_count(environment, f"SLURM_CPUS_{name}") for name in ("ON_NODE", "PER_TASK"))
    if per_task and on_node and _in_step(environment):  # the batch script may use the CPUs of all tasks
        return min(on_node, per_task)
    return on_node or per_task


def job_memory(environment: Mapping[str, str]) -> int | None:
    """Return the bytes of memory of this node that the job has; None outside a job, and if it has no limit."""
    if not _is_inside(environment):
        return None
    if per_node := _count(environment, "SLURM_MEM_PER_NODE"):
        return per_node * _MIB
    for unit, count in (("CPU", "SLURM_CPUS_ON_NODE"), ("GPU", "SLURM_GPUS_ON_NODE")):
        if (each := _count(environment, f"SLURM_MEM_PER_{unit}")) and (number := _count(environment, count)):
            return each * number * _MIB
    return None


def job_memory_left(environment: Mapping[str, str], root: Path = Path("/")) -> int | None:
    """Return the bytes of the job's memory that its processes on this node do not use yet; None as in job_memory.

    Files that are mapped into memory do not count, and shared memory counts once. ``root`` is that of the file system
    with /proc.
    """
    limit = job_memory(environment)
    if limit is None:
        return None
    processes = list(_processes(root, environment[_JOB]))
    return limit - sum(private for private, _ in processes) - max((shared for _, shared in processes), default=0)


def _is_inside(environment: Mapping[str, str]) -> bool:
    return _JOB in environment and "SLURMD_NODENAME" in environment


def _in_step(environment: Mapping[str, str]) -> bool:
    return "SLURM_STEP_ID" in environment


def _count(environment: Mapping[str, str], name: str) -> int | None:
    """Return the positive number that a variable holds; 0 stands for all of a node's memory."""
    value = environment.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and int(value) > 0 else None


def _processes(root: Path, job: str) -> Iterator[tuple[int, int]]:
    """Yield the bytes of private and of shared memory of each process of the job on this node."""
    mark = f"{_JOB}={job}".encode()
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                lines = (folder / "status").read_text().splitlines()
                sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
                yield _bytes(sizes, "RssAnon"), _bytes(sizes, "RssShmem")
        except OSError:  # it has ended, or is another user's
            continue


def _bytes(sizes: Mapping[str, str], name: str) -> int:
    return int(sizes[name].split()[0]) * 1024 if name in sizes else 0
