"""CUDA_VISIBLE_DEVICES: which of the NVIDIA GPUs of this machine a process may use."""

from __future__ import annotations

import re

_INDEX = re.compile(r"\+?\d+")


def visible_devices(variable: str | None, installed: int) -> tuple[str, ...]:
    """Return the devices that CUDA uses of those that CUDA_VISIBLE_DEVICES names; all if it is not set.

    A device is an index, a UUID such as GPU-8932f937, of which the beginning suffices, or an instance of a
    partitioned GPU, MIG-.... CUDA ignores an unknown device and all after it, and all if one is named twice (CUDA C++
    Programming Guide, "CUDA Environment Variables"). Slurm sets "NoDevFiles" for a job without GPUs.

    Args:
        variable: the value of the variable, None if it is not set.
        installed: the GPUs of the machine; indices from there on are unknown.
    """
    if variable is None:
        return tuple(map(str, range(installed)))
    if installed == 0:
        return ()
    kind = next((prefix for prefix in ("GPU-", "MIG-") if variable.strip().startswith(prefix)), "")
    found: list[str] = []
    for word in (word.strip() for word in variable.split(",")):
        if not (word.startswith(kind) if kind else _INDEX.fullmatch(word) and int(word) < installed):
            break
        found.append(word if kind else str(int(word)))
    return tuple(found) if len(set(found)) == len(found) else ()
