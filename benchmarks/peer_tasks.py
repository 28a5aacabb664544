"""Searches of vae_tune and of other libraries on many small tables, pooled: after ``peer_searches.py`` on each.

    for task in benchmarks/curves/ifbo/*; do
        python benchmarks/peer_searches.py $task --curves tabular --seconds one --epochs 540 --workers 2
    done
    python benchmarks/peer_tasks.py benchmarks/curves/ifbo/* --epochs 540

*Then* is, for each table, the median number of epochs of a default search there. Regret is in percent of the span of
the table, from the best to the median loss at the last epoch; *near* is within 1 % of it. A median that is never
reached counts with the end of the search. Intervals are 95 %, from a bootstrap over the tables.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from harness import markdown, publish
from peer_measures import Scale, cost_to_near, is_near, regret
from peer_results import OURS, Limits, Results
from peer_searches import DEFAULT_SAMPLES

from vae_tune.replay.curves import Tabular, load_curves

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--epochs", type=int, required=True, help="of a search, as in the runs to pool")
    parser.add_argument("--results", type=Path, default=Path("results/peers"))
    parser.add_argument("--publish", metavar="NAME", help="write benchmarks/tables/peers_NAME.json")
    options = parser.parse_args()
    found: dict[str, dict[str, list[tuple[float, bool, float]]]] = defaultdict(lambda: defaultdict(list))
    for table in options.tables:
        curves = load_curves(table)
        results = Results(options.results / f"{curves.name}_tabular_one_second.jsonl")
        default = Limits(DEFAULT_SAMPLES * curves.max_epochs, DEFAULT_SAMPLES)
        then = results.epochs(OURS, WORKERS, default)
        final = float(np.median(curves.losses[curves.whole, -1]))
        scale = Scale.of(results.lowest(Tabular(curves).best), final)
        for case, outcome in results.outcomes.items():
            if case.workers == WORKERS and case.limits == Limits(options.epochs) and outcome.search:
                percent = 100 * regret(outcome.search, scale, then) / (scale.median - scale.best)
                cost = cost_to_near(outcome.search, scale, "epochs")
                found[case.method][str(table)].append((cost, is_near(outcome.search, scale, then), percent))
    rows = []
    for method, by_table in sorted(found.items()):
        costs, near, percents = (
            np.array([np.mean([run[index] for run in runs]) for runs in by_table.values()]) for index in range(3)
        )
        picks = np.random.default_rng(0).integers(0, len(percents), (1000, len(percents)))
        low, high = np.quantile(percents[picks].mean(axis=1), [0.025, 0.975])
        runs = sum(map(len, by_table.values()))
        middle = np.median([run[0] for runs in by_table.values() for run in runs])
        rows.append(
            [
                method,
                f"{len(percents)}",
                f"{runs}",
                f"{middle:.0f}",
                f"{costs.mean():.0f}",
                f"{near.mean():.0%}",
                f"{percents.mean():.1f} % ({low:.1f} to {high:.1f})",
            ]
        )
    columns = ["", "tables", "searches", "median epochs to near", "mean epochs to near", "near by then", "regret then"]
    title = f"Searches of up to {options.epochs} epochs on {len(options.tables)} tables, {WORKERS} workers"
    if options.publish:
        publish(f"peers_{options.publish}", title, columns, rows, {})
    else:
        print(f"{title}\n\n{markdown(columns, rows)}")


if __name__ == "__main__":
    main()
