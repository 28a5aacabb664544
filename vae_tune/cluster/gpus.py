"""The GPUs of this machine as NVIDIA's driver reports them: which ones others use, and how much memory is free."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

from vae_tune.cluster.slots import MOST_PER_GPU
from vae_tune.config.cuda_devices import visible_devices
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import ResourceConfig
from vae_tune.vae.memory_estimate import in_words

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_TAKEN = 0.2
"""Share of a GPU's memory that the driver and a desktop may take; more is taken by a program that is not listed, which
happens in containers."""
_ENDING_SECONDS = 10.0
"""The time that the workers of a search which was killed a moment ago may take to leave a GPU."""
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one, as it is now."""

    id: str
    """Its entry in CUDA_VISIBLE_DEVICES; without that variable its UUID."""
    name: str
    free: int
    """Bytes."""
    total: int
    """Bytes."""
    programs: int
    """Other programs that compute there."""

    @property
    def is_in_use(self) -> bool:
        """Whether others compute there, or probably do."""
        return self.programs > 0 or self.free < (1 - _TAKEN) * self.total

    def __str__(self) -> str:
        """Return for instance "GPU 1 (12.3 of 80.0 GB free, 2 programs)"."""
        programs = f", {self.programs} program{'s' if self.programs > 1 else ''}" if self.programs else ""
        return f"{self.name} ({self.free / 1e9:.1f} of {self.total / 1e9:.1f} GB free{programs})"


def choose_gpus(config: ResourceConfig, say: Callable[[str], None]) -> list[Gpu]:
    """Return the GPUs of this machine on which trials run: those that nobody else uses, or all with ``share_gpus``.

    The list is empty where Ray decides: in a cluster, with ``gpus_per_trial``, and where the driver tells nothing.
    ``say`` gets a line about the GPUs that are left out.

    Raises:
        UsageError: others use all of them.
    """
    if config.address is not None or config.gpus_per_trial is not None:
        return []
    end = time.monotonic() + _ENDING_SECONDS
    while (found := visible_gpus(say)) and not config.share_gpus:
        free = [gpu for gpu in found if not gpu.is_in_use]
        if free:
            if used := [str(gpu) for gpu in found if gpu.is_in_use]:
                say(f"Others use {', '.join(used)}: trials run elsewhere. --share-gpus uses what is free there too.")
            return free
        if time.monotonic() > end:
            raise UsageError(
                f"Others use every GPU: {', '.join(map(str, found))}.\n"
                "--share-gpus uses what is free there; --gpus-per-trial 0 uses the CPUs alone."
            )
        time.sleep(_POLL_SECONDS)
    return found


@contextmanager
def only(gpus: Sequence[Gpu]) -> Iterator[None]:
    """Let the processes that are started in the block see no other GPUs than these; all, if there are none."""
    before = os.environ.get(_VARIABLE)
    if gpus:
        os.environ[_VARIABLE] = ",".join(gpu.id for gpu in gpus)
    try:
        yield
    finally:
        if before is not None:
            os.environ[_VARIABLE] = before
        elif gpus:
            del os.environ[_VARIABLE]


def most_per_gpu(gpus: Sequence[Gpu], needed: int, say: Callable[[str], None]) -> int:
    """Return how many trials fit side by side on each of ``gpus``, where a trial takes up to ``needed`` bytes.

    It is at least 1: a trial that runs out of memory is tried again, alone. ``say`` gets a line if one may not fit.
    """
    least = min(gpus, key=lambda gpu: gpu.free)
    if needed > least.free:
        say(
            f"The largest configuration needs about {in_words(needed)} of GPU memory, but of {least.name} "
            f"{in_words(least.free)} are free: a trial that runs out of memory is tried once more, alone."
        )
    return max(1, min(least.free // needed, MOST_PER_GPU))


def visible_gpus(say: Callable[[str], None] = lambda _: None) -> list[Gpu]:
    """Return the GPUs that this process may use; none without NVIDIA's driver, or where it does not tell.

    ``say`` gets a line if there is a driver that does not work.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return []
    except pynvml.NVMLError as error:
        say(f"NVIDIA's driver does not work: {error}.")
        return []
    try:
        return [_look(*device) for device in _devices()]
    except pynvml.NVMLError_NotSupported:  # of a GPU that shares the memory of the machine
        return []
    except pynvml.NVMLError as error:
        say(f"NVIDIA's driver does not tell what is free on the GPUs: {error}.")
        return []
    finally:
        pynvml.nvmlShutdown()


def _devices() -> Iterator[tuple[Any, str, str]]:
    """Yield handle, id and name of each visible GPU.

    An index counts in the order of the PCI bus, which is CUDA's own where all GPUs of a machine are alike.
    """
    installed = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in installed]
    given = os.environ.get(_VARIABLE)
    for entry in visible_devices(given, len(installed)):
        if entry.startswith("MIG-"):
            yield pynvml.nvmlDeviceGetHandleByUUID(entry), entry, entry
            continue
        matching = [index for index, uuid in enumerate(uuids) if uuid.startswith(entry)]
        index = int(entry) if entry.isdecimal() else next(iter(matching), len(installed))
        if index == len(installed):  # CUDA ignores all after a GPU that is not there
            return
        yield installed[index], uuids[index] if given is None else entry, f"GPU {index}"


def _look(handle: Any, entry: str, name: str) -> Gpu:
    """Return the GPU of a handle; what this process itself holds there, as a notebook may, counts as free."""
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    own = sum(process.usedGpuMemory or 0 for process in processes if process.pid == os.getpid())
    others = sum(process.pid != os.getpid() for process in processes)
    return Gpu(entry, name, memory.free + own, memory.total, others)
