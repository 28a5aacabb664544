"""How many reports a second one driver takes: a search with many slots, whose workers are simulated.

    python benchmarks/slots.py [--slots 2,8,32,128,500] [--beside CHECKOUT]

The driver is the real one: Ray Tune's controller, the searcher, the record on disk, the keeper of the best trials and
the view. All workers are one process, which answers each call as a worker of Ray Tune does, with an epoch that cost
nothing. Each search runs for some seconds after each slot has reported once. ``--beside`` alternates with the code of
another checkout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from costless import listen, metadata_of, report, run_worker, search_config
from harness import checkouts, publish, ratio, spread


class Simulation:
    """The workers: each trains the trial that it was given last."""

    def __init__(self) -> None:
        self._configs: dict[int, dict[str, Any]] = {}
        self._epochs: dict[int, int] = {}

    async def call(self, worker: int, method: str, config: Any = None, **_: Any) -> Any:
        """Answer a call of Ray Tune."""
        if method in ("start", "reset"):
            self._configs[worker] = {"trial": config["trial"], "values": config["values"]}
            self._epochs[worker] = 0
            return True
        if method == "train":
            self._epochs[worker] += 1
            return self._result(worker) | report(self._configs[worker]["values"], self._epochs[worker])
        return self._result(worker) if method == "get_auto_filled_metrics" else None

    def _result(self, worker: int) -> dict[str, Any]:
        """Return what Ray Tune's workers add to each report."""
        epoch, now = self._epochs[worker], time.time()
        times = dict.fromkeys(("time_this_iter_s", "time_total_s", "time_since_restore"), 0.001 * epoch)
        counts = {"training_iteration": epoch, "iterations_since_restore": epoch, "timestamp": int(now)}
        where = {"pid": 1000 + worker, "hostname": "host", "node_ip": "127.0.0.1", "date": "2026-01-01_00-00-00"}
        rest = {"done": False, "should_checkpoint": False, "checkpoint_dir_name": None, "trial_id": "0" * 8}
        return {**times, **counts, **where, **rest, "config": self._configs[worker]}


class Handle:
    """In place of the handle of a worker."""

    def __init__(self, simulation: Any, worker: int, config: dict[str, Any]):
        self._call = simulation.call
        self._worker = worker
        self._call.remote(worker, "start", config)

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args, **kwargs: self._call.remote(self._worker, method, *args, **kwargs))


class Resources:
    """In place of Ray Tune's manager of resources: there is room for all workers, which are simulated."""

    def __init__(self, simulation: Any):
        self._simulation = simulation
        self._started = 0

    def has_resources_ready(self, _: Any) -> bool:
        """Return True."""
        return True

    def acquire_resources(self, request: Any) -> Any:
        """Return what starts a worker."""
        return SimpleNamespace(annotate_remote_entities=lambda _: [self], resource_request=request)

    def remote(self, config: dict[str, Any], storage: Any) -> Handle:  # noqa: ARG002
        """Start a worker."""
        self._started += 1
        return Handle(self._simulation, self._started, config)

    def get_resource_futures(self) -> list[Any]:
        """Return nothing to wait for."""
        return []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Window:
    """Counts the reports of some seconds, which begin once there were ``warm_up``, and ends the search."""

    def __init__(self, stopping: Any, warm_up: int, seconds: float):
        self._stopping = stopping
        self._warm_up = warm_up
        self._seconds = seconds
        self._epochs: dict[int, int] = {}
        self._count = 0
        self._start = (0.0, 0.0, 0)
        self.found: dict[str, float] = {}

    def __call__(self, row: Any) -> None:
        """Count a report."""
        if row.epochs == self._epochs.get(row.trial, 0):
            return
        self._epochs[row.trial] = row.epochs
        self._count += 1
        if self._count == self._warm_up:
            self._start = time.perf_counter(), time.process_time(), self._count
        elapsed = time.perf_counter() - self._start[0]
        if self._count > self._warm_up and elapsed > self._seconds and not self.found:
            reports = self._count - self._start[2]
            spent = time.process_time() - self._start[1]
            self.found = {"reports_per_second": reports / elapsed, "driver_cpu_ms": 1e3 * spent / reports}
            self._stopping.interrupt()


def worker(slots: int, seconds: float, folder: Path) -> dict[str, float]:
    """Run one search in this process."""
    import ray
    from ray.tune.execution import tune_controller

    from vae_tune.cluster.ray_runtime import running_ray
    from vae_tune.cluster.slots import Slots
    from vae_tune.config.space import DEFAULT_SPACE
    from vae_tune.record.study_record import StudyRecord
    from vae_tune.search.stopping import Stopping
    from vae_tune.search.tuner import run_trials

    def train(config: dict[str, Any]) -> None:
        """Stand for what the simulated workers do."""

    config = search_config("tpe", 1_000_000)
    stopping = Stopping()
    window = Window(stopping, max(20, slots), seconds)
    with running_ray(config.resources):
        actor: Any = ray.remote(Simulation)
        simulation = actor.options(num_cpus=0, max_concurrency=1000).remote()
        record = StudyRecord.create(folder, metadata_of(folder, config))
        listen(record, stopping, window)
        resources = mock.patch.object(tune_controller, "PlacementGroupResourceManager", partial(Resources, simulation))
        with resources, mock.patch.object(ray, "kill"):
            run_trials(train, config, DEFAULT_SPACE, record, lambda: Slots(count=slots, cpus=1, gpus=0), stopping)
        record.close()
    return window.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="2,8,32,128,500")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        slots, seconds, place = options.worker
        print(json.dumps(worker(int(slots), float(seconds), Path(place))))
        return
    ways = checkouts(options.beside)
    measured: dict[str, dict[str, Any]] = {}
    for slots in options.slots.split(","):
        for _ in range(options.runs):
            for name, checkout in ways.items():
                with tempfile.TemporaryDirectory() as place:
                    found = run_worker(__file__, checkout, slots, options.seconds, f"{place}/study")
                kept = measured.setdefault(slots, {}).setdefault(name, {key: [] for key in found})
                for key, value in found.items():
                    kept[key].append(value)
                print(f"  {slots} slots, {name}: {found['reports_per_second']:.0f} reports a second", flush=True)
    columns = ["slots", *(f"{name}, reports/s" for name in ways), *(f"{name}, driver's CPU, ms" for name in ways)]
    rows = []
    for slots, found in measured.items():
        rates = [found[name]["reports_per_second"] for name in ways]
        cells = [*(spread(rate, 0) for rate in rates), *(spread(found[name]["driver_cpu_ms"]) for name in ways)]
        if options.beside:
            cells.append(f"**{ratio(rates[-1], rates[0]):.2f} x**")
        rows.append([slots, *cells])
    columns += ["of the first"] if options.beside else []
    publish("slots", "Reports that one driver takes, of simulated workers", columns, rows, measured)


if __name__ == "__main__":
    main()
