"""Slots: how many trials run side by side, and with which CPUs and GPUs, on this machine or a changing cluster."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import ray
import ray.exceptions
from ray.autoscaler.sdk import request_resources

from vae_tune.config.compat.ray import draining_nodes
from vae_tune.config.errors import UsageError
from vae_tune.config.machine_limits import available_memory, cpu_note
from vae_tune.config.message_hints import quantity
from vae_tune.config.settings import SLURM, ResourceConfig

_PATIENCE_SECONDS = 1200.0
"""How long to wait for a node of an autoscaled cluster: some clouds take long to find a GPU."""
_POLL_SECONDS = 2.0
MOST_PER_GPU = 8
"""Trials per GPU by default: they take turns on it, and each holds some of its memory."""
_RELEASE = """
import sys, ray
from ray.autoscaler.sdk import request_resources
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
request_resources(bundles=[])
"""


@dataclass(frozen=True)
class Slots:
    """How many trials run side by side, and what each gets."""

    count: int
    cpus: int
    """Of each trial."""
    gpus: float
    """Of each trial that has any: a share of one, or several."""
    without_gpu: int = 0
    """How many of them are on nodes without a GPU, if other nodes have one."""
    memory: int | None = None
    """Bytes for all trials of a node together, on the node with the least memory per trial."""
    on_a_node: int = 0
    """How many trials fit on that node."""

    def __str__(self) -> str:
        """Return for instance "3 trials side by side, 2 CPUs each"."""
        cpus = quantity(self.cpus, "CPU")
        if not self.gpus:
            return f"{_trials(self.count)}, {cpus} each"
        with_gpu = f"{_trials(self.count - self.without_gpu)}, {cpus} and {self.gpus:g} GPU each"
        return f"{with_gpu}; {self.without_gpu} more with {cpus} each" if self.without_gpu else with_gpu

    def are_taken(self, running: Sequence[float]) -> bool:
        """Return whether there is no slot for another trial, given the GPUs of each that runs."""
        return self._taken_on_gpus(running) + running.count(0.0) >= self.count

    def gpus_of_next(self, running: Sequence[float]) -> float:
        """Return the GPUs of another trial, given the GPUs of each that runs."""
        return self.gpus if self._taken_on_gpus(running) < self.count - self.without_gpu else 0.0

    def _taken_on_gpus(self, running: Sequence[float]) -> int:
        """Return the slots of the trials with GPUs; one that has a GPU for itself takes those of all who share one."""
        return sum(round(gpus / self.gpus) if self.gpus else 1 for gpus in running if gpus)

    def memory_left(self, running: Sequence[int]) -> float:
        """Return the bytes that another trial may take, given the bytes of each that runs.

        Among several nodes, each trial has an equal share, since Ray chooses the node later.
        """
        if self.memory is None:
            return math.inf
        return self.memory - sum(running) if self.on_a_node >= self.count else self.memory / self.on_a_node


def find_slots(config: ResourceConfig, per_gpu: int = MOST_PER_GPU) -> Slots:
    """Return how many trials fit on the running Ray, node by node; raise UsageError if not even one fits.

    If some nodes have GPUs and ``gpus_per_trial`` is not set, trials share the GPUs there, at most ``per_gpu`` of them
    each, and use the CPUs elsewhere.
    """
    leaving = draining_nodes()  # Ray starts nothing there any more
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    if config.address is None and (there := available_memory()) is not None:
        nodes = [{**node, "memory": there} for node in nodes]
    slots = count_slots(nodes, config, per_gpu)
    if slots.count == 0:
        where = "this machine has" if config.address is None else "no node of the cluster has more than"
        cpus, gpus = (quantity(max([node.get(kind, 0) for node in nodes] or [0]), kind) for kind in ("CPU", "GPU"))
        raise UsageError(
            f"cpus_per_trial={config.cpus_per_trial} and gpus_per_trial={slots.gpus:g} do not fit: "
            f"{where} {cpus} and {gpus}{cpu_note() if config.address is None else ''}."
        )
    return slots


def count_slots(nodes: Sequence[Mapping[str, float]], config: ResourceConfig, per_gpu: int = MOST_PER_GPU) -> Slots:
    """Return how many trials fit on nodes with these resources; their number may be 0."""
    with_gpu = [node for node in nodes if node.get("GPU", 0) > 0]
    if config.gpus_per_trial is None:
        share = _fair_share(with_gpu, config, per_gpu)
        plain = [node for node in nodes if share and not node.get("GPU", 0)]
    else:
        share, plain = config.gpus_per_trial, []
    count = sum(_fitting(node, config.cpus_per_trial, share) for node in (with_gpu if share else nodes))
    without_gpu = sum(_fitting(node, config.cpus_per_trial, 0) for node in plain)
    most = config.max_concurrent or count + without_gpu
    count = min(count, most)
    without_gpu = min(without_gpu, most - count)
    memory = _memory(nodes, config, share, most)
    return Slots(count + without_gpu, config.cpus_per_trial, share, without_gpu, **memory)


def _memory(nodes: Sequence[Mapping[str, float]], config: ResourceConfig, gpus: float, most: int) -> dict[str, int]:
    """Return ``memory`` and ``on_a_node`` of :class:`Slots`; this process evaluates: it gets as much as a trial."""
    per_trial = []
    for node in nodes:
        count = min(_fitting(node, config.cpus_per_trial, gpus if node.get("GPU", 0) else 0), most)
        if count and "memory" in node:
            per_trial.append((node["memory"] / (count + 1), count))
    if not per_trial:
        return {}
    each, count = min(per_trial)
    return {"memory": int(each * count), "on_a_node": count}


def _fair_share(nodes: Sequence[Mapping[str, float]], config: ResourceConfig, per_gpu: int) -> float:
    """Return the GPUs of each trial if those of ``nodes`` are divided among the trials that their CPUs allow."""
    nodes = [node for node in nodes if node.get("CPU", 0) >= config.cpus_per_trial] or nodes
    gpus = int(sum(node["GPU"] for node in nodes))
    by_cpu = max(1, sum(int(node.get("CPU", 0) // config.cpus_per_trial) for node in nodes))
    trials = min(by_cpu, config.max_concurrent or by_cpu)
    if trials <= gpus or not gpus:
        return float(gpus // trials)
    return int(10_000 / min(math.ceil(trials / gpus), per_gpu)) / 10_000


def _fitting(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Return how many trials fit on a node; a share of a GPU must come from a single one."""
    by_cpu, installed = int(node.get("CPU", 0) // cpus), int(node.get("GPU", 0))
    if gpus == 0:
        return by_cpu
    return min(by_cpu, installed * int(1 / gpus + 1e-9) if gpus < 1 else int(installed // gpus))


@contextmanager
def requested_slots(
    config: ResourceConfig,
    trials: int,
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    per_gpu: int = MOST_PER_GPU,
) -> Iterator[Slots]:
    """Yield the slots of this machine, or of a cluster that is asked, while the block lasts, for room for ``trials``.

    ``say`` gets a line if there is something to wait for. At most ``per_gpu`` trials share a GPU of this machine.
    Raises UsageError if no trial fits on this machine, or no node of the cluster can run one, KeyboardInterrupt once
    ``stopped`` returns true.
    """
    if config.address is None:
        yield find_slots(config, per_gpu)
        return
    _request(config, trials)
    nodes = _Nodes(config, say)
    try:
        while (slots := nodes.slots()) is None:
            if stopped():
                raise KeyboardInterrupt("nothing was started.")
            time.sleep(_POLL_SECONDS)
        yield slots
    finally:
        with suppress(ray.exceptions.RayError, RuntimeError, OSError):  # raised for a Ray that has died
            request_resources(bundles=[])


def _request(config: ResourceConfig, trials: int) -> None:
    """Ask the autoscaler for room for as many of ``trials`` as may run side by side."""
    bundle = {"CPU": config.cpus_per_trial} | ({"GPU": config.gpus_per_trial} if config.gpus_per_trial else {})
    request_resources(bundles=[bundle] * min(trials, config.max_concurrent or trials))


@dataclass
class _Nodes:
    """The nodes of a cluster, which may have to come first."""

    config: ResourceConfig
    say: Callable[[str], None]
    missing_since: float | None = None

    def slots(self) -> Slots | None:
        """Return the slots; while there are none, None, and say once that the search waits.

        Raises UsageError if there have been none for too long.
        """
        try:
            found = find_slots(self.config)
        except UsageError as error:
            now = time.monotonic()
            if self.missing_since is None:
                self.missing_since = now
                self.say(f"{error} Waiting for a node (see `ray status`; Ctrl-C ends this) ...")
            elif now - self.missing_since > _PATIENCE_SECONDS:
                given_up = f"No other node came within {_PATIENCE_SECONDS / 60:.0f} minutes: see `ray status`."
                raise UsageError(f"{error}\n{given_up}") from error
            return None
        self.missing_since = None
        return found


def release_command(address: str | None) -> list[str]:
    """Return a command that releases the nodes of a cluster if the search is killed; [] without an autoscaler."""
    return [] if address in (None, SLURM) else [sys.executable, "-c", _RELEASE, address]


@dataclass
class CurrentSlots:
    """The slots at any moment: those of a cluster change with its nodes. No more are requested than are needed.

    ``say`` gets a line about each change; ``fail`` ends the search after a long time without a node. ``record`` gets
    the slots after each change: none of them while the cluster has no node.
    """

    slots: Slots
    config: ResourceConfig
    say: Callable[[str], None]
    fail: Callable[[str], None]
    unfinished: Callable[[], int]
    """Returns how many trials have not ended."""
    record: Callable[[Slots], None]

    def __post_init__(self) -> None:
        self._recorded = self.slots
        self._nodes = _Nodes(self.config, self.say)
        self._requested = 0
        self._next = time.monotonic() + _POLL_SECONDS

    def __call__(self) -> Slots:
        """Return the slots, updated every two seconds; while a cluster has no node they stay as they were."""
        now = time.monotonic()
        if self.config.address is not None and now >= self._next:
            self._next = now + _POLL_SECONDS
            with suppress(ray.exceptions.RayError, RuntimeError, OSError):
                self._update()
            found = self.slots if self._nodes.missing_since is None else replace(self.slots, count=0)
            if found != self._recorded:
                self._recorded = found
                self.record(found)
        return self.slots

    def _update(self) -> None:
        if (unfinished := self.unfinished()) != self._requested:
            _request(self.config, unfinished)
            self._requested = unfinished
        were_missing = self._nodes.missing_since is not None
        try:
            found = self._nodes.slots()
        except UsageError as error:
            self.fail(str(error))
            return
        if found and (were_missing or found != self.slots):
            self.say(f"The cluster now has room for {found}.")
            self.slots = found


def _trials(count: int) -> str:
    return f"{count} trial{'s side by side' if count != 1 else ' at a time'}"
