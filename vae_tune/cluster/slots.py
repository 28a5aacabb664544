"""How many trials run side by side, and on what: on this machine, or on a cluster that grows and shrinks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import ray
import ray.exceptions
from ray.autoscaler.sdk import request_resources

from vae_tune.config.compat.ray import state
from vae_tune.config.machine_limits import available_memory, cpu_note
from vae_tune.config.settings import ResourceConfig, UsageError

_PATIENCE_SECONDS = 1200.0
"""Time in which an autoscaled cluster has to bring a first node: some clouds take long to find a GPU."""
_POLL_SECONDS = 2.0
_MOST_ON_A_GPU = 8
"""Trials that share a GPU where nothing else is said: they take turns on it, and each holds some of its memory."""
_RELEASE = """
import sys, ray
from ray.autoscaler.sdk import request_resources
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
request_resources(bundles=[])
"""


@dataclass(frozen=True)
class Slots:
    """What a trial gets and how many run side by side."""

    count: int
    cpus: int
    """Of each trial."""
    gpus: float
    """Of each trial that has any: a share, or some."""
    without_gpu: int = 0
    """How many of them are on nodes without a GPU, where others have one."""
    memory: int | None = None
    """Bytes that the trials of a node may take together; of several nodes the one with the least for each trial."""
    on_a_node: int = 0
    """How many trials fit on that node."""

    def __str__(self) -> str:
        """Say it in words."""
        cpus = _some(self.cpus, "CPU")
        if not self.gpus:
            return f"{_many(self.count)}, {cpus} each"
        with_gpu = f"{_many(self.count - self.without_gpu)}, {cpus} and {self.gpus:g} GPU each"
        return f"{with_gpu}; {self.without_gpu} more with {cpus} each" if self.without_gpu else with_gpu

    def gpus_of_next(self, running: Sequence[float]) -> float:
        """Return the GPUs of another trial beside those that run, given by the GPUs of each."""
        with_gpu = sum(gpus > 0 for gpus in running)
        return self.gpus if with_gpu < self.count - self.without_gpu else 0.0

    def memory_left(self, running: Sequence[int]) -> float:
        """Return the bytes that another trial may take beside those that run, given by the bytes of each.

        Of several nodes nobody knows beforehand which one a trial comes to: there each has an equal share.
        """
        if self.memory is None:
            return math.inf
        return self.memory - sum(running) if self.on_a_node >= self.count else self.memory / self.on_a_node


def find_slots(config: ResourceConfig) -> Slots:
    """Return how many trials fit on the running Ray, node by node.

    Where some nodes have GPUs and none were asked for, trials take a fair share of them there, and the CPUs elsewhere.

    Raises:
        UsageError: not one fits.
    """
    leaving = state.get_draining_nodes()  # Ray starts nothing there any more
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    if config.address is None and (there := available_memory()) is not None:
        nodes = [{**node, "memory": there} for node in nodes]
    slots = count_slots(nodes, config)
    if slots.count == 0:
        where = "this machine has" if config.address is None else "no node of the cluster has more than"
        cpus, gpus = (_some(max((node.get(kind, 0) for node in nodes), default=0), kind) for kind in ("CPU", "GPU"))
        raise UsageError(
            f"cpus_per_trial={config.cpus_per_trial} and gpus_per_trial={slots.gpus:g} do not fit: "
            f"{where} {cpus} and {gpus}{cpu_note() if config.address is None else ''}."
        )
    return slots


def count_slots(nodes: Sequence[Mapping[str, float]], config: ResourceConfig) -> Slots:
    """Return how many trials fit on nodes with these resources; perhaps none."""
    with_gpu = [node for node in nodes if node.get("GPU", 0) > 0]
    if config.gpus_per_trial is None:
        share = _fair_share(with_gpu, config)
        plain = [node for node in nodes if share and not node.get("GPU", 0)]
    else:
        share, plain = config.gpus_per_trial, []
    count = sum(_fitting(node, config.cpus_per_trial, share) for node in (with_gpu if share else nodes))
    without_gpu = sum(_fitting(node, config.cpus_per_trial, 0) for node in plain)
    most = config.max_concurrent or count + without_gpu
    count = min(count, most)
    without_gpu = min(without_gpu, most - count)
    return Slots(count + without_gpu, config.cpus_per_trial, share, without_gpu, *_memory(nodes, config, share, most))


def _memory(
    nodes: Sequence[Mapping[str, float]], config: ResourceConfig, gpus: float, most: int
) -> tuple[int | None, int]:
    """Return the bytes for the trials of the node that has the least for each of them, and how many these are.

    This process, which evaluates the best, gets as much as one trial.
    """
    fitting = []
    for node in nodes:
        count = min(_fitting(node, config.cpus_per_trial, gpus if node.get("GPU", 0) else 0), most)
        if count and "memory" in node:
            fitting.append((node["memory"] / (count + 1), count))
    if not fitting:
        return None, 0
    each, count = min(fitting)
    return int(each * count), count


def _fair_share(nodes: Sequence[Mapping[str, float]], config: ResourceConfig) -> float:
    """Divide the GPUs of ``nodes`` among the trials that fit on the CPUs beside them, where one does."""
    nodes = [node for node in nodes if node.get("CPU", 0) >= config.cpus_per_trial] or nodes
    gpus = int(sum(node["GPU"] for node in nodes))
    by_cpu = max(1, sum(int(node.get("CPU", 0) // config.cpus_per_trial) for node in nodes))
    trials = min(by_cpu, config.max_concurrent or by_cpu)
    if trials <= gpus or not gpus:
        return float(gpus // trials)
    return int(10_000 / min(math.ceil(trials / gpus), _MOST_ON_A_GPU)) / 10_000


def _fitting(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Return how many trials fit on a node; a share is one of a single GPU."""
    by_cpu, there = int(node.get("CPU", 0) // cpus), int(node.get("GPU", 0))
    if gpus == 0:
        return by_cpu
    return min(by_cpu, there * int(1 / gpus + 1e-9) if gpus < 1 else int(there // gpus))


@contextmanager
def requested_slots(
    config: ResourceConfig, trials: int, say: Callable[[str], None], stopped: Callable[[], bool] = lambda: False
) -> Iterator[Slots]:
    """Yield the slots of this machine or, while the block lasts, of a cluster that is asked for as many as it can use.

    Args:
        config: what each trial gets.
        trials: how many are to run at most.
        say: hears what is waited for.
        stopped: whether to wait no longer.

    Raises:
        UsageError: no trial fits on this machine, or no node came on which one does.
        KeyboardInterrupt: ``stopped`` said so.
    """
    if config.address is None:
        yield find_slots(config)
        return
    _request(config, trials)
    try:
        yield _first_slots(config, say, stopped)
    finally:
        with suppress(ray.exceptions.RayError, RuntimeError, OSError):  # a Ray that has died asks for nothing
            request_resources(bundles=[])


def _request(config: ResourceConfig, trials: int) -> None:
    """Ask the autoscaler for room for as many of ``trials`` as may run side by side."""
    bundle = {"CPU": config.cpus_per_trial} | ({"GPU": config.gpus_per_trial} if config.gpus_per_trial else {})
    request_resources(bundles=[bundle] * min(trials, config.max_concurrent or trials))


def _first_slots(config: ResourceConfig, say: Callable[[str], None], stopped: Callable[[], bool]) -> Slots:
    end = time.monotonic() + _PATIENCE_SECONDS
    said = False
    while True:
        try:
            return find_slots(config)
        except UsageError as error:
            if time.monotonic() > end:
                raise UsageError(_none_came(error)) from error
            if not said:
                say(_waiting(error))
                said = True
        if stopped():
            raise KeyboardInterrupt("nothing was begun.")
        time.sleep(_POLL_SECONDS)


def _waiting(error: UsageError) -> str:
    return f"{error} Waiting for a node (`ray status` tells; Ctrl-C ends this) ..."


def _none_came(error: UsageError) -> str:
    return f"{error}\nNo other node came within {_PATIENCE_SECONDS / 60:.0f} minutes: see `ray status`."


def release_command(address: str | None) -> list[str]:
    """Return a command that lets the nodes of a cluster go, for a search that was killed; none for this machine."""
    return [] if address is None else [sys.executable, "-c", _RELEASE, address]


class SlotsNow:
    """The slots at any moment: those of a cluster change with its nodes. It is asked for no more than is needed."""

    def __init__(
        self,
        slots: Slots,
        config: ResourceConfig,
        say: Callable[[str], None],
        fail: Callable[[str], None],
        unfinished: Callable[[], int],
    ):
        """Take up a cluster.

        Args:
            slots: those to begin with.
            config: what each trial gets.
            say: hears of each change.
            fail: ends the search, since no node is left and none came for long.
            unfinished: how many trials have not ended.
        """
        self._slots = slots
        self._config = config
        self._say = say
        self._fail = fail
        self._unfinished = unfinished
        self._asked = 0
        self._next = time.monotonic() + _POLL_SECONDS
        self._without_since: float | None = None

    def __call__(self) -> Slots:
        """Return them; a cluster is asked every two seconds. While it has no node they stay as they were."""
        now = time.monotonic()
        if self._config.address is None or now < self._next:
            return self._slots
        self._next = now + _POLL_SECONDS
        with suppress(ray.exceptions.RayError, RuntimeError, OSError):
            if (unfinished := self._unfinished()) != self._asked:
                _request(self._config, unfinished)
                self._asked = unfinished
            self._look(now)
        return self._slots

    def _look(self, now: float) -> None:
        try:
            found = find_slots(self._config)
        except UsageError as error:
            if self._without_since is None:
                self._without_since = now
                self._say(_waiting(error))
            elif now - self._without_since > _PATIENCE_SECONDS:
                self._fail(_none_came(error))
            return
        if found != self._slots or self._without_since is not None:
            self._say(f"The cluster now has room for {found}.")
        self._slots, self._without_since = found, None


def _some(count: float, what: str) -> str:
    return f"{count:g} {what}{'s' if count != 1 else ''}"


def _many(count: int) -> str:
    return f"{count} trial{'s side by side' if count != 1 else ' at a time'}"
