"""A whole search on a simulated clock: the real searcher and the real scheduler, with recorded curves for training.

Ray Tune is reduced to what its controller does: a free worker asks the searcher for a trial, and each report decides
whether the worker trains another epoch. On this clock a suggestion and the start of a trial take no time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from vae_tune.config.compat.optuna import trial_id
from vae_tune.config.metric import METRIC
from vae_tune.config.names import COMPLETE, EPOCH, RUNNING, TRIAL, VAL_LOSS, VALUES
from vae_tune.config.optuna_logging import silence_optuna
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space
from vae_tune.record.basis import Basis
from vae_tune.record.sampler_view import SET_ASIDE, sampler_view
from vae_tune.record.trials import TrialRow
from vae_tune.replay.curves import Curve, Curves, Source
from vae_tune.replay.setting import Setting
from vae_tune.search.initial_trials import InitialTrials, reference_values
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import after_report

Suggest = Callable[[str], Any]  # returns the configuration for a free worker, or no dict if there is none now
Report = Callable[[str, Mapping[str, Any]], bool]  # takes a worker's report; returns whether it trains another epoch
States = Mapping[int, str]  # the final states of the trials that have one, by number


class UnknownEpoch(Exception):
    """A replayed trial trains past the end of its recorded curve."""


@dataclass
class ReplayedTrial:
    """One trial of a replayed search."""

    trial: int
    values: Mapping[str, Any]
    curve: Curve
    state: str = RUNNING
    epochs: int = 0
    ended: float = 0.0  # simulated seconds since the start of the search
    spent: int = 0  # epochs that all trials had trained by then

    @property
    def val_loss(self) -> float:
        """The newest loss, nats per image."""
        return float(self.curve.losses[self.epochs - 1])

    @property
    def final_loss(self) -> float:
        """The loss that the trial has, or would have, at ``max_epochs``; NaN if it is not known."""
        return float(self.curve.losses[-1])


class _MemoryRecord:
    """The record of a replayed search, without a folder: see :class:`vae_tune.search.record_protocol.Record`."""

    folder = Path()
    warm_start_trials: Sequence[FrozenTrial] = ()

    def __init__(self, *, extrapolate: bool = True) -> None:
        storage = InMemoryStorage()
        self.study = optuna.create_study(direction=METRIC.direction, storage=storage, study_name="replay")
        self.sampler_view = sampler_view("replay", storage) if extrapolate else self.study
        self.rows: list[TrialRow] = []
        self.states: dict[int, str] = {}
        self._trials: dict[int, optuna.Trial] = {}

    def row(self, number: int) -> TrialRow:
        return self.rows[number]

    def transaction(self) -> nullcontext[None]:
        return nullcontext()

    def optuna_trial(self, number: int) -> optuna.Trial:
        return self._trials[number]

    def start(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None:
        self._trials[trial.number] = trial
        self.rows.append(TrialRow(trial.number, values, ""))

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        self._trials[number].report(result[VAL_LOSS], result[EPOCH])

    def set_aside(self, number: int, epoch: int) -> None:
        self._trials[number].set_user_attr(SET_ASIDE, epoch)

    audit = set_aside

    def decided(self, number: int, epoch: int, basis: Basis) -> None:
        """Keep nothing: no audit reads this record."""

    def finish(self, number: int, state: str, reason: str = "", diverged: bool = False) -> None:  # noqa: ARG002
        self.states[number] = state
        trial = self._trials.pop(number)
        values = trial.storage.get_trial(trial_id(trial)).intermediate_values if state == COMPLETE else {}
        self.study.tell(trial, values[max(values)] if values else None, TrialState[state])


def simulate(
    source: Source, setting: Setting, num_samples: int, seed: int, points: Sequence[Mapping[str, Any]] = ()
) -> list[ReplayedTrial]:
    """Replay one search and return its trials by number: the reference, then ``points``, then proposals.

    Raises:
        UnknownEpoch: a trial trains past the end of its recorded curve.
    """
    with silence_optuna():
        suggest, report, states = new_search(source.curves, setting, num_samples, seed, points)
        trials = _run(suggest, report, source.curve, setting.workers)
    for trial in trials:
        trial.state = states[trial.trial]
    return trials


def new_search(
    curves: Curves, setting: Setting, num_samples: int, seed: int, points: Sequence[Mapping[str, Any]] = ()
) -> tuple[Suggest, Report, States]:
    """Return how a worker asks and reports in a new search of the curves' space, and the states that follow."""
    base = replace(curves.reference, seed=seed)
    make_search = _stock_search if setting.bridge == "stock" else _search
    return make_search(curves.space, base, setting, num_samples, points)


def _run(
    suggest: Suggest, report: Report, curve_of: Callable[[Mapping[str, Any]], Curve], workers: int
) -> list[ReplayedTrial]:
    """Let free workers ask for trials and report in the order of the clock, until all trials have ended."""
    trials: list[ReplayedTrial] = []
    events: list[tuple[float, int, str, ReplayedTrial]] = []  # ends of epochs; ties in order of their start
    clock, spent, free = 0.0, 0, workers
    order, names = count(), count()

    def train(name: str, replayed: ReplayedTrial) -> None:
        seconds = replayed.curve.seconds[replayed.epochs]
        if math.isnan(replayed.curve.losses[replayed.epochs]):
            raise UnknownEpoch(f"its configuration {dict(replayed.values)} was trained for {replayed.epochs} epochs")
        heapq.heappush(events, (clock + seconds, next(order), name, replayed))

    while True:
        while free and isinstance(config := suggest(name := str(next(names))), dict):
            if config[TRIAL] == len(trials):
                trials.append(ReplayedTrial(len(trials), config[VALUES], curve_of(config[VALUES])))
            train(name, trials[config[TRIAL]])
            free -= 1
        if not events:
            return trials
        clock, _, name, replayed = heapq.heappop(events)
        spent += 1
        replayed.epochs += 1
        if report(name, {EPOCH: replayed.epochs, VAL_LOSS: replayed.val_loss}):
            train(name, replayed)
            continue
        replayed.ended, replayed.spent = clock, spent
        free += 1


def _search(
    space: Space, base: TrialConfig, setting: Setting, num_samples: int, points: Sequence[Mapping[str, Any]]
) -> tuple[Suggest, Report, States]:
    """Return how a worker asks and reports in a search of ours, and the states that follow."""
    record = _MemoryRecord(extrapolate=setting.bridge == "ours")
    InitialTrials(points).enqueue(record.study, space, base)
    scheduler = make_scheduler(setting.asha, base.max_epochs, base.seed)
    searcher = StudySearcher(record, space, base, setting.sampler, Stopping(), scheduler, num_samples)
    return searcher.suggest, searcher.trials.report, record.states


def _stock_search(
    space: Space, base: TrialConfig, setting: Setting, num_samples: int, points: Sequence[Mapping[str, Any]]
) -> tuple[Suggest, Report, States]:
    """Return the same for Ray's own OptunaSearch with its own defaults, which starts with the reference too."""
    from ray.tune.search.optuna import OptunaSearch

    first = [*([reference_values(space, base)] if space.contains(base) else ()), *map(dict, points)]
    sampler, searched = TPESampler(seed=base.seed), dict(space.distributions)
    searcher = OptunaSearch(searched, metric=METRIC.name, mode=METRIC.mode, points_to_evaluate=first, sampler=sampler)
    scheduler = make_scheduler(setting.asha, base.max_epochs, base.seed)
    states: dict[int, str] = {}

    def suggest(name: str) -> Any:
        number = int(name)
        return {TRIAL: number, VALUES: searcher.suggest(name)} if number < num_samples else None

    def report(name: str, result: Mapping[str, Any]) -> bool:
        number, epoch, loss = int(name), result[EPOCH], result[VAL_LOSS]
        decision = scheduler.decide(number, epoch, loss)
        states[number] = after_report(epoch, loss, decision, base.max_epochs, search_ends=False).state
        goes_on = states[number] == RUNNING
        tell = searcher.on_trial_result if goes_on else searcher.on_trial_complete
        tell(name, {**result, "training_iteration": epoch})
        return goes_on

    return suggest, report, states
