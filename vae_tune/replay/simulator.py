"""A whole search on a simulated clock: the real searcher and the real scheduler, with recorded curves for training.

What Ray Tune does is reduced to what its controller does for them: a free worker asks the searcher for a trial; each
report goes to the scheduler, then to the searcher. A suggestion takes no time on this clock, and starting a trial
neither.
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
from ray.tune.search import Searcher

from vae_tune.config.compat.optuna import trial_id
from vae_tune.config.names import COMPLETE, DIRECTION, EPOCH, FAIL, PRUNED, RUNNING, TRIAL, VAL_LOSS, VALUES
from vae_tune.config.optuna_logging import silence_optuna
from vae_tune.record.sampler_view import SET_ASIDE, sampler_view
from vae_tune.record.trials import TrialRow
from vae_tune.replay.curves import Curve, Source
from vae_tune.replay.setting import Setting
from vae_tune.search.initial_trials import InitialTrials, reference_values
from vae_tune.search.scheduler import Scheduler, make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping


class UnknownEpoch(Exception):
    """A replayed trial goes on past where its recorded curve ends."""


@dataclass
class ReplayedTrial:
    """One trial of a replayed search."""

    trial: int
    values: Mapping[str, Any]
    curve: Curve
    state: str = RUNNING
    epochs: int = 0
    ended: float = 0.0
    """Simulated seconds since the search began."""
    spent: int = 0
    """Epochs that all trials together had trained by then."""

    @property
    def val_loss(self) -> float:
        """Its newest loss, nats per image."""
        return float(self.curve.losses[self.epochs - 1])

    @property
    def final_loss(self) -> float:
        """The loss that it has, or would have, at ``max_epochs``; NaN where that is not known."""
        return float(self.curve.losses[-1])


class MemoryRecord:
    """A study's record as a searcher needs it, without a folder."""

    folder = Path()
    warm_start_trials: Sequence[FrozenTrial] = ()

    def __init__(self, *, extrapolate: bool = True) -> None:
        storage = InMemoryStorage()
        self.study = optuna.create_study(direction=DIRECTION, storage=storage, study_name="replay")
        self.sampler_view = sampler_view("replay", storage) if extrapolate else self.study
        self.rows: list[TrialRow] = []
        self._trials: dict[int, optuna.Trial] = {}

    def row(self, number: int) -> TrialRow:
        """Return the trial of that number."""
        return self.rows[number]

    def transaction(self) -> nullcontext[None]:
        """Write nothing."""
        return nullcontext()

    def optuna_trial(self, number: int) -> optuna.Trial:
        """Return an unfinished trial as Optuna has it."""
        return self._trials[number]

    def start(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None:
        """Note that a trial is about to run."""
        self._trials[trial.number] = trial
        self.rows.append(TrialRow(trial.number, values, ""))

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """Tell Optuna one epoch."""
        self._trials[number].report(result[VAL_LOSS], result[EPOCH])

    def set_aside(self, number: int, epoch: int) -> None:
        """Let the sampler take a trial for pruned at ``epoch``."""
        self._trials[number].set_user_attr(SET_ASIDE, epoch)

    audit = set_aside

    def finish(self, number: int, state: str, reason: str = "", diverged: bool = False) -> None:  # noqa: ARG002
        """Tell Optuna how a trial ended, as :class:`vae_tune.record.study_record.StudyRecord` does."""
        trial = self._trials.pop(number)
        values = trial.storage.get_trial(trial_id(trial)).intermediate_values if state == COMPLETE else {}
        self.study.tell(trial, values[max(values)] if values else None, TrialState[state])


def simulate(
    source: Source, setting: Setting, num_samples: int, seed: int, points: Sequence[Mapping[str, Any]] = ()
) -> list[ReplayedTrial]:
    """Replay one search and return its trials by number; after the reference come ``points``, then what is proposed.

    Raises:
        UnknownEpoch: it trains further than a tabular source knows.
    """
    with silence_optuna():
        base = replace(source.curves.reference, seed=seed)
        scheduler = make_scheduler(setting.asha, base.max_epochs, seed)
        searcher = _make_searcher(source, setting, num_samples, seed, scheduler, points)
        return _run(searcher, scheduler, source.curve, setting.workers)


def _run(
    searcher: Searcher,
    scheduler: Scheduler,
    curve_of: Callable[[Mapping[str, Any]], Curve],
    workers: int,
) -> list[ReplayedTrial]:
    """Let free workers ask for trials, and the reports come in the order of the clock, until all have ended."""
    trials: list[ReplayedTrial] = []
    events: list[tuple[float, int, str, ReplayedTrial]] = []  # ends of epochs; ties in order of their start
    clock, spent, free, order = 0.0, 0, workers, count()
    names = count()

    def train(name: str, replayed: ReplayedTrial) -> None:
        seconds = replayed.curve.seconds[replayed.epochs]
        if math.isnan(replayed.curve.losses[replayed.epochs]):
            raise UnknownEpoch(f"its configuration {dict(replayed.values)} was trained for {replayed.epochs} epochs")
        heapq.heappush(events, (clock + seconds, next(order), name, replayed))

    while True:
        while free:
            config = searcher.suggest(name := str(next(names)))
            if not isinstance(config, dict):
                break
            if config[TRIAL] == len(trials):
                trials.append(ReplayedTrial(len(trials), config[VALUES], curve_of(config[VALUES])))
            train(name, trials[config[TRIAL]])
            free -= 1
        if not events:
            return trials
        clock, _, name, replayed = heapq.heappop(events)
        spent += 1
        replayed.epochs += 1
        if _report(searcher, scheduler, name, replayed):
            train(name, replayed)
            continue
        replayed.state = _end(replayed)
        replayed.ended, replayed.spent = clock, spent
        free += 1


def _report(searcher: Searcher, scheduler: Scheduler, name: str, replayed: ReplayedTrial) -> bool:
    """Report an epoch as Ray Tune does; return whether the trial trains another one."""
    result = {EPOCH: replayed.epochs, VAL_LOSS: replayed.val_loss, "training_iteration": replayed.epochs}
    if isinstance(searcher, StudySearcher):
        return searcher.trials.report(name, result)
    goes_on = scheduler.decide(replayed.trial, replayed.epochs, replayed.val_loss).action == "continue"
    (searcher.on_trial_result if goes_on else searcher.on_trial_complete)(name, result)
    return goes_on


def _end(replayed: ReplayedTrial) -> str:
    if not math.isfinite(replayed.val_loss):
        return FAIL
    return COMPLETE if replayed.epochs == len(replayed.curve.losses) else PRUNED


def _make_searcher(
    source: Source,
    setting: Setting,
    num_samples: int,
    seed: int,
    scheduler: Scheduler,
    points: Sequence[Mapping[str, Any]],
) -> Searcher:
    base, space = replace(source.curves.reference, seed=seed), source.curves.space
    if setting.bridge == "stock":
        reference = [reference_values(space, base)] if space.contains(base) else []
        return _stock(dict(space.distributions), [*reference, *map(dict, points)], num_samples, seed)
    record = MemoryRecord(extrapolate=setting.bridge == "ours")
    InitialTrials(points).enqueue(record.study, space, base)
    return StudySearcher(record, space, base, setting.sampler, Stopping(), scheduler, num_samples)


def _stock(distributions: dict[str, Any], points: Sequence[dict[str, Any]], count: int, seed: int) -> Searcher:
    """Return Ray's own OptunaSearch with its own defaults, which begins with the reference too."""
    from ray.tune.search.optuna import OptunaSearch

    class Numbered(OptunaSearch):
        """Hands out so many trials, each with its number, as the scheduler here expects."""

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            number = int(trial_id)
            return {TRIAL: number, VALUES: super().suggest(trial_id)} if number < count else None

    sampler = TPESampler(seed=seed)
    return Numbered(distributions, metric=VAL_LOSS, mode="min", points_to_evaluate=list(points), sampler=sampler)
