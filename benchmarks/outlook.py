"""Is a freeze-thaw search right about what going on would bring? Searches on recorded curves, each to its own end.

    python benchmarks/outlook.py benchmarks/curves/mnist [...] [--searches 32] [--workers 2] [--num-samples 50]

At its end a search says what training all of its paused trials to the end is expected to gain (*mean*), and what that
gains at most in nine of ten cases (*high*). The recorded curves tell what it does gain. All three are given as
percentages of the span of the table, from the best to the median loss at the last epoch. *Told little* counts the
searches whose *high* was at most the percentage of ``--little``, and those of them that gained more.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import publish
from peer_clock import OwnSearch, run_search
from peer_results import Case, Limits
from peer_searches import new_task, own_setting

from vae_tune.config.names import EPOCH, ORDER, VAL_LOSS
from vae_tune.config.optuna_logging import silence_optuna
from vae_tune.record.trials import TrialRow
from vae_tune.replay.curves import Curve, Source, Tabular, load_curves
from vae_tune.replay.surrogate import Surrogate
from vae_tune.search.scheduler_factory import make_scheduler

METHOD = "ours:freeze-thaw"


@dataclass(frozen=True)
class End:
    """What a search said at its end, and what going on gains, in the unit of the losses."""

    epochs: int
    mean: float
    high: float
    gained: float


def end_of(source: Source, workers: int, num_samples: int, seed: int) -> End:
    """Run a search to its own end."""
    curves = source.curves
    opened: list[tuple[Mapping[str, Any], Curve]] = []

    def curve_of(values: Mapping[str, Any]) -> Curve:
        found = source.curve(values)
        opened.append((values, found))
        return found

    limits = Limits(num_samples * curves.max_epochs, num_samples)
    task = new_task(Case(METHOD, workers, limits, seed), source)
    setting = own_setting(METHOD, workers)
    log = run_search(OwnSearch(source, setting, task, num_samples), task, curve_of, num_samples)
    reports = defaultdict(list)
    for order, one in enumerate(log, start=1):
        reports[one.trial].append({EPOCH: one.epoch, VAL_LOSS: one.loss, ORDER: order})
    rows = [TrialRow(trial, opened[trial][0], "", reports=tuple(reports[trial])) for trial in sorted(reports)]
    rows = [row for row in rows if np.isfinite(row.reports[-1][VAL_LOSS])]
    scheduler = make_scheduler(setting.asha, curves.max_epochs, seed)
    scheduler.open(curves.space, num_samples)
    outlook = scheduler.outlook(rows)
    if outlook is None:
        raise RuntimeError("no trial is complete at the end")
    best = min(row.reports[-1][VAL_LOSS] for row in rows if row.epochs == curves.max_epochs)
    paused = [opened[row.trial][1].losses[-1] for row in rows if row.epochs < curves.max_epochs]
    return End(len(log), outlook.mean, outlook.high, max(0.0, best - min(paused, default=np.inf)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="folders of recorded curves")
    parser.add_argument("--searches", type=int, default=32, help="per table: seeds 0, 1 ...")
    parser.add_argument("--curves", choices=["surrogate", "tabular"], default="tabular")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--num-samples", type=int, default=50)
    parser.add_argument("--little", type=float, default=0.3, help="percent of the span")
    parser.add_argument("--name", default="outlook", help="of the table in benchmarks/tables")
    options = parser.parse_args()
    rows, measured = [], {}
    for table in options.tables:
        curves = load_curves(table)
        source = Surrogate(curves) if options.curves == "surrogate" else Tabular(curves)
        final = curves.losses[curves.whole, -1]
        percent = 100 / (float(np.median(final)) - source.best)
        with silence_optuna():
            ends = [end_of(source, options.workers, options.num_samples, seed) for seed in range(options.searches)]
        mean, high, gained = (
            percent * np.array([getattr(end, name) for end in ends]) for name in ("mean", "high", "gained")
        )
        little = high <= options.little
        rows.append(
            [
                f"{curves.name}, {options.curves}",
                f"{len(ends)}",
                f"{np.mean([end.epochs for end in ends]):.0f}",
                f"{mean.mean():.3f} %",
                f"{gained.mean():.3f} %",
                f"{np.mean(gained > high + 1e-9):.0%}",
                f"{little.sum()}",
                f"{(little & (gained > options.little)).sum()}",
            ]
        )
        measured[str(table)] = [vars(end) for end in ends]
        print(" | ".join(rows[-1]), flush=True)
    columns = ["", "searches", "epochs", "told: mean", "gained: mean", "gained more than high", "told little"]
    title = (
        f"What going on gains after freeze-thaw searches of {options.num_samples} configurations, {options.workers}"
    )
    title += f" workers; little is {options.little} % of the span"
    publish(options.name, title, [*columns, "of these gained more"], rows, measured)


if __name__ == "__main__":
    main()
