"""A process keeps the memory of freed tensors, in a process of its own as nothing undoes it."""

from __future__ import annotations

import subprocess
import sys

FAULTS = """
import resource, sys, torch
from vae_tune.vae.allocation import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
x = torch.ones(10_000_000)  # 40 MB, past the limit up to which glibc would learn to keep it
for step in range(12):
    tensors = [x + 1 for _ in range(2)]
    if step == 7:  # by then what small objects lie between them is settled
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return how often the kernel had to provide a page in the last steps."""
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_later_steps_take_the_memory_of_earlier_ones():
    assert faults("keep") < faults("leave") / 10
