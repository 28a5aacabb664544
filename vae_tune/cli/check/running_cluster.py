"""Checking a running cluster: each node reports its versions, clock and storage, and trains a short trial."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vae_tune.cli.check.document import Level, Problem
from vae_tune.cli.check.node_tests import open_storage, own_versions, try_storage, version_problems
from vae_tune.cluster.ray_runtime import running_ray
from vae_tune.config.compat.ray import is_token_auth_enabled
from vae_tune.config.errors import telling_line
from vae_tune.config.machine_limits import niceness
from vae_tune.config.settings import ResourceConfig
from vae_tune.config.storage import QUICK, delete_folder

_TIMEOUT = 120.0
"""Seconds that a node has to answer; the first import of PyTorch may take half of them."""
_SKEW = 2.0
_LARGEST_SKEW = 60.0
"""Seconds by which a clock may be off before times in the record mislead, and before storage may refuse it."""
_TRIPS = 3


@dataclass(frozen=True)
class Probe:
    """The answer of a node."""

    versions: Mapping[str, str]
    storage: str | None
    """Why it cannot use the storage; None if it can, or if none was named."""
    images_per_second: float
    device: str
    niceness: int = 0


def check_cluster(address: str, results_dir: str | None, say: Callable[[str], None]) -> list[Problem]:
    """Join the cluster, test every node, ``say`` a line about each, and return the problems.

    Raises:
        UsageError: there is no cluster at that address.
    """
    with running_ray(ResourceConfig(address=address)):
        nodes = sorted(ray.nodes(), key=lambda node: str(node["NodeManagerAddress"]))
        alive = [node for node in nodes if node["Alive"]]
        problems = [*lost_nodes(nodes), *no_token(is_token_auth_enabled())]
        folder, refusal = open_storage(results_dir) if results_dir is not None else (None, None)
        if refusal:
            problems.append(Problem("error", "this machine", f"{results_dir}: {refusal}", "No search could start."))
        share = {node["NodeID"]: 0.01 if node["Resources"].get("GPU") else 0 for node in alive}
        questions = [_on(node, num_gpus=share[node["NodeID"]])(probe).remote(folder) for node in alive]  # all at once
        deadline = time.monotonic() + _TIMEOUT
        for node, question in zip(alive, questions, strict=True):
            where = str(node["NodeManagerAddress"])
            try:
                answer: Probe = ray.get(question, timeout=max(1.0, deadline - time.monotonic()))
                skew = _skew(node)
            except Exception as error:  # whatever the node's own code raised comes with its own type
                problems.append(no_answer(where, error))
                continue
            say(f"{where}: {describe(answer, skew)}")
            problems += node_problems(where, answer, skew, own_versions())
        total, free = ray.cluster_resources(), ray.available_resources()
        counts = (f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        say(f"{len(alive)} nodes, free: {', '.join(counts)}")
        problems += capacity(total, free)
        if folder:
            with contextlib.suppress(OSError, ValueError):  # it was writable a moment ago
                delete_folder(folder, QUICK)
    return problems


def _on(node: Mapping[str, Any], **options: Any) -> Any:
    """Return a decorator that makes a function a task on this node that needs no CPU."""
    placed = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(**{"num_cpus": 0, "max_retries": 0, "scheduling_strategy": placed, **options})


def _skew(node: Mapping[str, Any]) -> float:
    """Return the seconds by which the clock of a node is ahead, to within half of the fastest round trip."""
    clock = _on(node)(_clock)
    trips = []
    for _ in range(_TRIPS):
        before = time.time()
        theirs: float = ray.get(clock.remote(), timeout=_TIMEOUT)
        after = time.time()
        trips.append((after - before, theirs - (before + after) / 2))
    return min(trips)[1]


def _clock() -> float:
    return time.time()


def probe(folder: Path | None) -> Probe:
    """Test this node. Runs on each node."""
    from vae_tune.cli.check.node_trial import one_second_trial

    images_per_second, device = one_second_trial(bool(ray.get_gpu_ids()))
    storage = None if folder is None else try_storage(folder)
    return Probe(own_versions(), storage, images_per_second, device, niceness())


def describe(answer: Probe, skew: float) -> str:
    """Return a line about a node that answered."""
    versions = ", ".join(f"{name} {answer.versions[name]}" for name in ("Python", "ray", "torch"))
    speed = f"{answer.images_per_second:,.0f} images a second on {answer.device}"
    return f"{versions}; clock {skew:+.2f} s from the one here; {speed}"


def lost_nodes(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """Find nodes that Ray considers dead."""
    alive = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    for address in sorted({str(node["NodeManagerAddress"]) for node in nodes} - alive):
        what = "Ray has lost this node."
        yield Problem("warning", address, what, "A search continues without it; see `ray status`.")


def no_token(enabled: bool) -> Iterator[Problem]:
    """Find a cluster that admits everybody, as it admitted this machine without a token."""
    if not enabled:
        what = "The cluster requires no token: whoever reaches it can run code on it."
        yield Problem("error", "the cluster", what, "Start it with RAY_AUTH_MODE=token; see docs/security.md.")


def no_answer(where: str, error: Exception) -> Problem:
    """Return the problem for a node that did not answer, with the reason if it is known."""
    if isinstance(error, ray.exceptions.GetTimeoutError):
        what = f"There was no answer within {_TIMEOUT:.0f} seconds."
        advice = "Check whether the node is overloaded, or its GPU in use."
    elif "No module named 'vae_tune" in str(error):
        what, advice = "vae_tune is not installed there.", "See setup_commands in cluster.yaml."
    else:
        reason = error.cause if isinstance(error, ray.exceptions.RayTaskError) and error.cause else error
        what, advice = f"The trial failed: {telling_line(reason)}.", "Repair the node, or terminate it."
    return Problem("error", where, what, advice)


def node_problems(where: str, answer: Probe, skew: float, here: Mapping[str, str]) -> Iterator[Problem]:
    """Find what is wrong with a node that answered."""
    yield from version_problems(where, answer.versions, here)
    if abs(skew) > _SKEW:
        level: Level = "error" if abs(skew) > _LARGEST_SKEW else "warning"
        yield Problem(level, where, f"The clock is off by {skew:+.1f} s.", "Let the node use NTP (chrony).")
    if answer.niceness > 0:
        what = f"Trials have niceness {answer.niceness}: any other program there gets the CPUs first."
        yield Problem("warning", where, what, "Start Ray there with RAY_worker_niceness=0.")
    if answer.storage:
        yield Problem("error", where, f"The results cannot be written: {answer.storage}", "Checkpoints would be lost.")


def capacity(total: Mapping[str, float], free: Mapping[str, float]) -> Iterator[Problem]:
    """Find a cluster on which no trial could start now."""
    if not total.get("CPU"):
        what = "There is no CPU for trials."
        yield Problem("warning", "the cluster", what, "Wait for nodes: an autoscaled cluster starts them.")
    elif not free.get("CPU"):
        what = "All CPUs are in use, so a search would wait."
        yield Problem("warning", "the cluster", what, "Another search is running; see `ray status`.")
