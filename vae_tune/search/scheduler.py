"""ASHA in both forms: which trials go on past a rung, and the Ray Tune scheduler that asks.

Source: Li et al. 2018, "A System for Massively Parallel Hyperparameter Tuning" (arXiv:1810.05934). :class:`Asha` stops
a trial at a rung instead of pausing it, as Ray's and Optuna's own versions do; :class:`PromotionAsha` pauses it.

Unlike Ray's AsyncHyperBandScheduler this one decides on ``epoch`` (Ray's ``training_iteration`` restarts at 1
when a worker is lost), stops a trial with a non-finite loss at once, and can be filled with what finished trials
reached, so that rungs survive a restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from vae_tune.config.names import COMPLETE, EPOCH, ORDER, PRUNED, REFERENCE_TRIAL, RUNNING, TRIAL, VAL_LOSS
from vae_tune.config.settings import AshaConfig
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow

_WAITING = (Trial.PENDING, Trial.PAUSED)
"""States of a trial that may start; the first before the second."""


class Rungs:
    """The losses that trials had at each rung, and the decision who goes on."""

    def __init__(self, epochs: Iterable[int], reduction_factor: int):
        self._losses: dict[int, dict[int, float]] = {epoch: {} for epoch in sorted(epochs)}
        self._reduction_factor = reduction_factor

    def promotes(self, trial: int, epoch: int, loss: float) -> bool:
        """Record ``loss`` and say whether the trial goes on.

        At a rung it does when it is among the best ``max(1, n // reduction_factor)`` of the n trials that
        reached the rung so far, itself included. A trial that was there before (it was restored from a
        checkpoint) is not judged again. The decision depends on the order of the reports alone, so the same
        reports in the same order lead to the same decisions: that is how rungs are rebuilt after a restart.
        """
        losses = self._losses.get(epoch)
        if losses is None or trial in losses:
            return True
        losses[trial] = loss
        quota = max(1, len(losses) // self._reduction_factor)
        return loss <= sorted(losses.values())[quota - 1]


class Asha(FIFOScheduler):
    """Ray Tune's view of :class:`Rungs`: ends trials at ``max_epochs``, at a rung, or when they diverge.

    The reference configuration is never stopped: the winner is compared with it at ``max_epochs``. Of the others that
    a rung condemns, a random share is audited: they train on, but later rungs do not count them.
    """

    def __init__(self, rungs: Rungs, max_epochs: int, audit_fraction: float = 0.0, seed: int = 0):
        super().__init__()  # type: ignore[no-untyped-call]
        self._rungs = rungs
        self._max_epochs = max_epochs
        self._audit_fraction = audit_fraction
        self._seed = seed
        self.audited: dict[int, int] = {}
        """By number of an audited trial: the epoch of the rung that condemned it."""
        self.paused: dict[int, int] = {}
        """By number of a paused trial, which may go on some day: the epoch of its rung."""

    def goes_on(self, number: int, epoch: int, loss: float) -> bool:
        """Record a report of trial ``number`` and decide whether it trains another epoch."""
        if not math.isfinite(loss) or epoch >= self._max_epochs:
            return False
        if number in self.audited or self._rungs.promotes(number, epoch, loss) or number == REFERENCE_TRIAL:
            return True
        if is_audited(self._seed, number, self._audit_fraction):
            self.audited[number] = epoch
        return number in self.audited

    def promote(self) -> int | None:
        """Return the paused trial that a free worker should go on with, which is paused no more; None for none."""
        return None

    def newest_checkpoint(self, rows: Sequence[TrialRow]) -> dict[int, bool]:
        """Take up recorded trials; return which of those that reported were to train another epoch."""
        return replay(self, rows)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Decide on one report."""
        goes_on = self.goes_on(trial.config[TRIAL], result[EPOCH], result[VAL_LOSS])
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the next trial to start, as FIFOScheduler does, which looks through all that have ended too."""
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status in _WAITING]
        return min(waiting, key=lambda trial: (_WAITING.index(trial.status), trial.config[TRIAL]), default=None)

    def debug_string(self) -> str:
        """Name the scheduler in Ray's logs."""
        return "ASHA"


class PromotionAsha(Asha):
    """ASHA as published: a trial pauses at each rung, and the best of a rung are promoted when a worker is free.

    A rung promotes the best ``n // reduction_factor`` of the n trials that reached it, whenever they come to belong to
    them; the highest rung comes first (algorithm 2 of Li et al. 2018). To Ray Tune a paused trial has ended: the
    searcher hands it out again, and it goes on from its checkpoint, as after a resume. So no actor waits for it.
    """

    def __init__(self, epochs: Iterable[int], reduction_factor: int, max_epochs: int):
        super().__init__(Rungs((), reduction_factor), max_epochs)
        self._losses: dict[int, dict[int, float]] = {epoch: {} for epoch in sorted(epochs, reverse=True)}
        self._left: dict[int, set[int]] = {epoch: set() for epoch in self._losses}
        self._reduction_factor = reduction_factor

    def goes_on(self, number: int, epoch: int, loss: float) -> bool:
        """Record a report and decide whether the trial trains another epoch now, or pauses."""
        if not math.isfinite(loss) or epoch >= self._max_epochs:
            return False
        losses = self._losses.get(epoch, {number: loss})
        if number in losses:  # between rungs, or the trial came back from its checkpoint
            return True
        losses[number] = loss
        if number == REFERENCE_TRIAL or self._next() == (epoch, number):
            self._left[epoch].add(number)
            return True
        self.paused[number] = epoch
        return False

    def promote(self) -> int | None:
        """Return the paused trial that a free worker should go on with, which is paused no more; None for none."""
        found = self._next()
        if found is None:
            return None
        epoch, number = found
        self._left[epoch].add(number)
        del self.paused[number]
        return number

    def newest_checkpoint(self, rows: Sequence[TrialRow]) -> dict[int, bool]:
        """Take up recorded trials: who stands at a rung is paused there, and can be promoted; who has ended cannot."""
        for row in rows:
            for report in row.reports:
                epoch = report[EPOCH]
                if epoch in self._losses:
                    self._losses[epoch][row.trial] = report[VAL_LOSS]
                    if row.epochs == epoch and row.state == RUNNING and row.trial != REFERENCE_TRIAL:
                        self.paused[row.trial] = epoch
                    else:
                        self._left[epoch].add(row.trial)
        return {row.trial: row.epochs < self._max_epochs for row in rows}

    def debug_string(self) -> str:
        """Name the scheduler in Ray's logs."""
        return "ASHA with promotion"

    def _next(self) -> tuple[int, int] | None:
        """Return rung and number of the trial to promote next: of the highest rung that has one, the best."""
        for epoch, losses in self._losses.items():
            for number in sorted(losses, key=lambda number: (losses[number], number))[: self._quota(epoch)]:
                if number not in self._left[epoch]:
                    return epoch, number
        return None

    def _quota(self, epoch: int) -> int:
        return len(self._losses[epoch]) // self._reduction_factor


def make_scheduler(config: AshaConfig, max_epochs: int, seed: int) -> Asha:
    """Return the scheduler that ``config`` asks for, which knows no trial yet."""
    if config.scheduler == "asha-promotion":
        return PromotionAsha(config.rungs(max_epochs), config.reduction_factor, max_epochs)
    rungs = Rungs(config.rungs(max_epochs), config.reduction_factor)
    return Asha(rungs, max_epochs, config.audit_fraction, seed)


def is_audited(seed: int, number: int, fraction: float) -> bool:
    """Whether a trial, once condemned, is audited: a function of seed and number, so that a resume decides alike."""
    return Random(f"audit {seed} {number}").random() < fraction


def replay(scheduler: Asha, rows: Sequence[TrialRow]) -> dict[int, bool]:
    """Take the reports of recorded trials in the order they came, as if they came now.

    Returns:
        For each trial that reported, whether it was to train another epoch after its last report.
    """
    reports = [(report[ORDER], row.trial, report[EPOCH], report[VAL_LOSS]) for row in rows for report in row.reports]
    return {trial: scheduler.goes_on(trial, epoch, loss) for _, trial, epoch, loss in sorted(reports)}


def settle(record: StudyRecord, scheduler: Asha, max_epochs: int) -> None:
    """Rebuild the rungs of a resumed study and finish the trials whose end a crash kept from being told."""
    goes_on = scheduler.newest_checkpoint(record.rows)
    for number, epoch in scheduler.paused.items():
        record.set_aside(number, epoch)
    for number, epoch in scheduler.audited.items():
        if record.row(number).state == RUNNING:
            record.audit(number, epoch)
    for row in record.rows:
        if row.state == RUNNING and not goes_on.get(row.trial, True):
            record.finish(row.trial, COMPLETE if row.epochs >= max_epochs else PRUNED)
