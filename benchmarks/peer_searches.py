"""Searches of vae_tune and of other libraries on recorded curves, each with its own code, on one simulated clock.

    python benchmarks/peer_environments.py                       # once: makes /tmp/peers from PyPI
    python benchmarks/peer_searches.py benchmarks/curves/mnist [--searches 5] [--workers 2,8] [--methods ...]

All methods get the same space, start with the same reference configuration, and train with the same curves, workers
and simulated durations. A search ends after ``--epochs``, by default 40 times those of a whole trial, or with
``--num-samples`` also after so many configurations. Each finished search is a line of a file in ``--results``: a later
call only runs what is missing, and its table covers all searches there.

``ours`` is the default search. ``ours:asha/2``, ``ours:asha-promotion`` and ``ours:none`` have another scheduler or
reduction factor. The modules ``peers/ask_*.py`` say what each peer runs, and what of its documentation was chosen.
``peer_measures.py`` explains the columns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from ask_tell import Task
from harness import markdown, publish
from peer_clock import OwnSearch, PeerFailed, PeerProcess, described, run_search
from peer_environments import DEFAULT, python_of
from peer_measures import Scale, Search
from peer_results import COLUMNS, OURS, Case, Comparison, Limits, Outcome, Results

from vae_tune.config.optuna_logging import silence_optuna
from vae_tune.config.settings import AshaConfig, SchedulerName
from vae_tune.replay.curves import Curve, Source, Tabular, load_curves
from vae_tune.replay.setting import Setting
from vae_tune.replay.surrogate import Surrogate
from vae_tune.search.initial_trials import reference_values

PEERS = [
    *["optuna-sha-3", "optuna-sha-4", "optuna-hyperband", "ray-asha-2", "ray-asha-3"],
    *["syne-asha", "syne-bohb", "syne-cqr", "syne-bore", "smac", "neps-priorband", "neps-priorband-async"],
]
DEFAULT_SAMPLES = 50  # configurations of a default search
WHOLE_TRIALS = 40  # epochs of a search, in those of a trial that is trained to the end


class OneSecond:
    """A source whose epochs all take a second."""

    def __init__(self, source: Source):
        self._source = source
        self.curves = source.curves

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve of a configuration."""
        curve = self._source.curve(values)
        return replace(curve, seconds=np.ones_like(curve.seconds))


def own_setting(method: str, workers: int) -> Setting:
    """Return the setting of a method such as ``ours:asha/2``."""
    default = AshaConfig()
    name, _, factor = method.partition(":")[2].partition("/")
    scheduler = name or default.scheduler
    if scheduler not in get_args(SchedulerName):
        raise ValueError(f"{method}: no scheduler is called {scheduler}")
    factor = factor or str(default.reduction_factor)
    return Setting("tpe", AshaConfig(scheduler=cast(SchedulerName, scheduler), reduction_factor=int(factor)), workers)


def new_task(case: Case, source: Source) -> Task:
    """Return a case as its peer is told of it."""
    curves = source.curves
    values = reference_values(curves.space, curves.reference) if curves.space.contains(curves.reference) else None
    space = described(curves.space.distributions)
    limits = curves.max_epochs, case.limits.epochs
    return Task(case.method, space, values, *limits, case.workers, case.seed)


def run_cases(cases: Sequence[Case], source: Source, environments: Path, results: Results) -> None:
    """Run searches of one method one after the other; a failure ends its search only."""

    def new_process() -> PeerProcess:
        library = cases[0].method.partition("-")[0]
        return PeerProcess(python_of(library, environments), Path(__file__).parent / "peers" / f"ask_{library}.py")

    process = None if cases[0].method.startswith(OURS) else new_process()
    for case in cases:
        task, samples, start = new_task(case, source), case.limits.num_samples, time.process_time()
        search, error, others = None, "", 0.0
        try:
            if process is None:
                peer: OwnSearch | PeerProcess = OwnSearch(
                    source, own_setting(case.method, case.workers), task, samples
                )
            else:
                process.start(task)
                peer = process
            search = Search.of(run_search(peer, task, source.curve, samples), task.max_epochs)
            others = process.end() if process else 0.0
        except PeerFailed as failure:
            error = str(failure)
        cpu = time.process_time() - start + others
        print(f"  {case.method}, {case.workers} workers, seed {case.seed}: {cpu:.2f} s {error}", flush=True)
        results.add(case, Outcome(search, error, round(cpu, 3), process.versions if process else {}))
        if process and error:
            process.close()
            process = new_process()
    if process:
        process.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="folder of recorded curves, see docs/curves.md")
    parser.add_argument("--methods", default=",".join([OURS, *PEERS]))
    parser.add_argument("--workers", default="2,8")
    parser.add_argument("--searches", type=int, default=5, help="per method and workers: seeds 0, 1 ...")
    parser.add_argument("--curves", choices=["surrogate", "tabular"], default="surrogate")
    parser.add_argument("--seconds", choices=["recorded", "one"], default="recorded", help="duration of an epoch")
    parser.add_argument("--epochs", type=int, help="of a search")
    parser.add_argument("--num-samples", type=int, help="configurations of a search")
    parser.add_argument("--near", type=float, help="loss above the best that is near it, by default 1 % of the span")
    parser.add_argument("--envs", type=Path, default=DEFAULT)
    parser.add_argument("--results", type=Path, default=Path("results/peers"))
    parser.add_argument("--publish", action="store_true", help="write benchmarks/tables/peers_*.json")
    options = parser.parse_args()
    methods = options.methods.split(",")
    if unknown := [method for method in methods if method not in PEERS and method.partition(":")[0] != OURS]:
        parser.error(f"no method is called {unknown[0]}: {OURS}, {OURS}:SCHEDULER/FACTOR, {', '.join(PEERS)}")

    curves = load_curves(options.table)
    known: Surrogate | Tabular = Surrogate(curves) if options.curves == "surrogate" else Tabular(curves)
    source: Source = OneSecond(known) if options.seconds == "one" else known
    name = "_".join([curves.name, options.curves, *(["one_second"] if options.seconds == "one" else [])])
    results = Results(options.results / f"{name}.jsonl")
    limits = Limits(options.epochs or WHOLE_TRIALS * curves.max_epochs, options.num_samples)
    default = Limits(DEFAULT_SAMPLES * curves.max_epochs, DEFAULT_SAMPLES)
    counts = [int(workers) for workers in options.workers.split(",")]

    with silence_optuna():
        for method, end in [(OURS, default), *((method, limits) for method in methods)]:
            cases = [Case(method, workers, end, seed) for workers in counts for seed in range(options.searches)]
            if missing := [case for case in cases if case not in results.outcomes]:
                run_cases(missing, source, options.envs, results)

    then = {workers: results.epochs(OURS, workers, default) for workers in counts}
    final = curves.losses[curves.whole, -1]
    scale = Scale.of(results.lowest(known.best), float(np.median(final)), options.near)
    comparison = Comparison(results, limits, scale, then)
    samples = f" and {limits.num_samples} configurations" if limits.num_samples else ""
    title = f"Searches of up to {limits.epochs} epochs{samples} on {curves.name}, {options.curves}"
    title += f"; near is within {scale.near - scale.best:.2f} of the best loss, {scale.best:.2f}"
    rows, remarks = list(comparison.rows()), list(comparison.remarks())
    if options.publish:
        versions = {name: version for one in results.outcomes.values() for name, version in one.versions.items()}
        publish(f"peers_{name}", title, COLUMNS, rows, {"scale": asdict(scale), "versions": versions}, remarks)
    else:
        print("\n\n".join([title, markdown(COLUMNS, rows), *remarks]))


if __name__ == "__main__":
    main()
