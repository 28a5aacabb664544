"""The finished searches of a comparison, one line of JSON each, and the table that compares them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
from peer_measures import Scale, Search, cost_to_near, interval, is_near, paired_ratio, regret

OURS = "ours"
"""The default search, and how the names of our other methods begin."""
COLUMNS = [
    *["", "searches", "epochs to near", "near by then", "regret then", "mean regret then"],
    *["minutes to near", "configurations", "CPU s per search"],
]


@dataclass(frozen=True)
class Limits:
    """When a search ends."""

    epochs: int
    num_samples: int | None = None


@dataclass(frozen=True)
class Case:
    """One search of a comparison; cases that differ in their method alone are pairs."""

    method: str
    workers: int
    limits: Limits
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    search: Search | None
    """None if the peer failed."""
    error: str
    cpu: float
    """The processor's seconds that it took, those of the clock included."""
    versions: Mapping[str, str]
    """Of the peer's libraries."""


class Results:
    """All outcomes in a file."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.outcomes: dict[Case, Outcome] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            row = json.loads(line)
            case, search = row["case"], row["outcome"]["search"]
            outcome = {**row["outcome"], "search": search and Search(**search)}
            self.outcomes[Case(**{**case, "limits": Limits(**case["limits"])})] = Outcome(**outcome)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Keep an outcome, in the file too."""
        self.outcomes[case] = outcome
        with self._path.open("a") as file:
            file.write(json.dumps({"case": asdict(case), "outcome": asdict(outcome)}) + "\n")

    def lowest(self, known: float) -> float:
        """Return the lowest loss: ``known``, or that of a trial of any search."""
        searches = (outcome.search for outcome in self.outcomes.values() if outcome.search)
        return min([known, *(loss for search in searches for _, _, loss in search.completed)])

    def epochs(self, method: str, workers: int, limits: Limits) -> float:
        """Return the median number of epochs at which the searches of a method ended."""
        return median(
            outcome.search.epochs
            for case, outcome in self.outcomes.items()
            if outcome.search and (case.method, case.workers, case.limits) == (method, workers, limits)
        )


class Comparison:
    """The searches with one limit, judged on one scale.

    ``then`` is the number of epochs at which searches are compared, by workers.
    """

    def __init__(self, results: Results, limits: Limits, scale: Scale, then: Mapping[int, float]):
        self._scale, self._then = scale, then
        self._runs: dict[tuple[int, str], dict[int, Search]] = defaultdict(dict)
        self._cpu: dict[tuple[int, str], list[float]] = defaultdict(list)
        self._failed: Counter[tuple[int, str]] = Counter()
        for case, outcome in results.outcomes.items():
            group = case.workers, case.method
            if case.limits != limits:
                continue
            if outcome.search is None:
                self._failed[group] += 1
            else:
                self._runs[group][case.seed] = outcome.search
                self._cpu[group].append(outcome.cpu)

    def rows(self) -> Iterator[list[str]]:
        """Return the row of each number of workers and method, with the columns :data:`COLUMNS`."""
        scale = self._scale
        for (workers, method), by_seed in sorted(self._runs.items()):
            runs, then, failed = list(by_seed.values()), self._then[workers], self._failed[workers, method]
            regrets = [regret(run, scale, then) for run in runs]
            yield [
                f"{_workers(workers)}, {method}",
                f"{len(runs)}" + (f", {failed} failed" if failed else ""),
                _in_words(interval([cost_to_near(run, scale, "epochs") for run in runs]), 0),
                f"{np.mean([is_near(run, scale, then) for run in runs]):.0%}",
                _in_words(interval(regrets), 2),
                f"{np.mean(regrets):.2f}",
                _in_words(interval([cost_to_near(run, scale, "seconds") / 60 for run in runs]), 1),
                f"{median(run.trials for run in runs):.0f}",
                f"{median(self._cpu[workers, method]):.2f}",
            ]

    def remarks(self) -> Iterator[str]:
        """Say when *then* is, and compare each of our methods with the peer of the lowest median, then mean."""
        costs = {
            group: {seed: float(cost_to_near(run, self._scale, "epochs")) for seed, run in runs.items()}
            for group, runs in sorted(self._runs.items())
        }
        for workers, then in sorted(self._then.items()):
            sentences = [f"{_workers(workers)}: *then* is {then:.0f} epochs, the median of a default search."]
            here = {method: cost for (of, method), cost in costs.items() if of == workers}
            peers = {method: cost for method, cost in here.items() if not method.startswith(OURS)}
            if peers:
                best = min(peers, key=lambda method: (median(peers[method].values()), mean(peers[method].values())))
                for method in sorted(here.keys() - peers.keys()):
                    found = _in_words(paired_ratio(here[method], peers[best]), 2)
                    sentences.append(f"Epochs to near, {method} / {best} (the best peer): {found}.")
            yield " ".join(sentences)


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _in_words(value: tuple[float, float, float], digits: int) -> str:
    """Return a value and its interval."""
    middle, low, high = (f"{one:.{digits}f}" for one in value)
    return middle if np.isnan(value[1]) else f"{middle} ({low} to {high})"
