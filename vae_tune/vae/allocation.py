"""Let the C library keep the memory of freed tensors for the next ones.

By default glibc gives the memory of a large tensor back to the kernel, which fills it with zeros when the next step
asks for it: a quarter to a third of a convolutional network's step in float32. A process stays at its peak instead.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_LARGEST = 2**31 - 1
_GLIBCS_LIMIT = 32 * 2**20


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the rest of the process; do nothing where the C library is not glibc.

    Tensors then come from the heap (no mapping of their own), which is not cut when its end is free: see mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in ((_MMAP_THRESHOLD, _GLIBCS_LIMIT), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST)):
            mallopt(parameter, value)
