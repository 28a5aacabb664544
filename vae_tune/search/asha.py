"""ASHA in both forms, each of which decides at rungs which trials go on.

Source: Li et al. 2018, "A System for Massively Parallel Hyperparameter Tuning" (arXiv:1810.05934). :class:`Asha` stops
a trial at a rung instead of pausing it, as Ray's and Optuna's own versions do; :class:`PromotionAsha` pauses it.

Unlike Ray's AsyncHyperBandScheduler, both count epochs (Ray's ``training_iteration`` restarts at 1 when a worker is
lost), stop a trial with a non-finite loss at once, and are rebuilt from the record, so that rungs survive a restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from vae_tune.config.metric import loss_of
from vae_tune.config.names import EPOCH, ORDER, PRUNED, REFERENCE_TRIAL, RUNNING
from vae_tune.config.settings import AshaConfig
from vae_tune.search.scheduler import CONTINUE, PAUSE, STOP, Decision, Outlook

if TYPE_CHECKING:
    from vae_tune.config.space import Space
    from vae_tune.record.basis import Basis
    from vae_tune.record.trials import TrialRow


class Rungs:
    """The losses that trials reported at each rung."""

    def __init__(self, epochs: Iterable[int], reduction_factor: int):
        self.losses: dict[int, dict[int, float]] = {epoch: {} for epoch in sorted(epochs)}
        self._reduction_factor = reduction_factor

    def add(self, trial: int, epoch: int, loss: float) -> bool:
        """Record a loss; return False between rungs and for a trial that was at this rung before."""
        losses = self.losses.get(epoch)
        if losses is None or trial in losses:
            return False
        losses[trial] = loss
        return True

    def quota(self, reached: int, at_least: int = 0) -> int:
        """Return how many of ``reached`` trials are the best ``reached // reduction_factor``."""
        return max(at_least, reached // self._reduction_factor)

    def best(self, epoch: int, at_least: int = 0) -> list[int]:
        """Return the best ``n // reduction_factor`` of the n trials at a rung, the best first."""
        losses = self.losses[epoch]
        return sorted(losses, key=lambda trial: (losses[trial], trial))[: self.quota(len(losses), at_least)]


class Asha:
    """Stops a trial at a rung unless it is among the best ``max(1, n // reduction_factor)`` of the n so far.

    The reference configuration is never stopped: the winner is compared with it at ``max_epochs``. Of the others that
    a rung stops, a random share is audited: they train on, but later rungs do not count them.
    """

    resumes: ClassVar[bool] = False
    proposes: ClassVar[bool] = False
    reopens: ClassVar[bool] = False
    basis: Basis | None = None
    _name = "ASHA"

    def __init__(self, config: AshaConfig, max_epochs: int, seed: int = 0):
        """Start with empty rungs; ``seed`` chooses the audited trials."""
        self._config = config
        self._max_epochs = max_epochs
        self._seed = seed
        self._rungs = Rungs(config.rungs(max_epochs), config.reduction_factor)
        self._audited: dict[int, int] = {}

    @property
    def pauses(self) -> Sequence[int]:
        """Return no epochs: no trial pauses."""
        return ()

    def open(self, space: Space, num_samples: int | None) -> None:
        """Do nothing: losses alone decide."""

    def begin(self, trial: int, values: Mapping[str, Any]) -> None:
        """Do nothing: losses alone decide."""

    def decide(self, trial: int, epoch: int, loss: float) -> Decision:
        """Decide at a rung; the same reports in the same order lead to the same decisions."""
        if not math.isfinite(loss) or epoch >= self._max_epochs:
            return STOP
        if trial in self._audited:
            return Decision("continue", self._audited[trial])
        if not self._rungs.add(trial, epoch, loss) or trial == REFERENCE_TRIAL:
            return CONTINUE
        if loss <= self._rungs.losses[epoch][self._rungs.best(epoch, at_least=1)[-1]]:
            return CONTINUE
        if is_audited(self._seed, trial, self._config.audit_fraction):
            self._audited[trial] = epoch
            return Decision("continue", epoch)
        return STOP

    def quota(self, reached: int) -> int:
        """Return how many of ``reached`` trials pass a rung: ``reached // reduction_factor``, at least one."""
        return self._rungs.quota(reached, at_least=1)

    def next_paused(self, *, may_open: bool = False) -> int | None:  # noqa: ARG002
        """Return None: no trial pauses."""
        return None

    def proposal(self) -> Mapping[str, Any] | None:
        """Return None: the sampler proposes."""
        return None

    def rebuild(self, rows: Sequence[TrialRow]) -> Mapping[int, Decision]:
        """Decide again on each report, in the order of the reports."""
        return {trial: self.decide(trial, epoch, loss) for trial, epoch, loss in reports_in_order(rows)}

    def verify(self, rows: Sequence[TrialRow]) -> Iterator[str]:
        """Decide again on each report; yield where the record says otherwise."""
        by_number = {row.trial: row for row in rows}
        for trial, epoch, loss in reports_in_order(rows):
            row, goes_on = by_number[trial], self.decide(trial, epoch, loss).action == "continue"
            if goes_on and epoch == row.epochs and row.state == PRUNED and row.closed is None:
                yield f"trial {trial} was stopped at epoch {epoch}, where the rung lets it go on"
            if not goes_on and epoch < row.epochs:
                yield f"trial {trial} went on past epoch {epoch}, where the rung stops it"
        for row in rows:
            if row.closed is None and row.audited != (expected := self._audited.get(row.trial)):
                yield f"trial {row.trial} was audited at epoch {row.audited}, which the rungs put at {expected}"

    def outlook(self, rows: Sequence[TrialRow]) -> Outlook | None:  # noqa: ARG002
        """Return None: nothing is predicted."""
        return None

    def describe(self) -> str:
        """Name the rungs and the reduction factor."""
        if not self._rungs.losses:
            return "no early stopping"
        rungs = ", ".join(map(str, self._rungs.losses))
        return f"{self._name} with rungs at {rungs} and reduction factor {self._config.reduction_factor}"


class PromotionAsha(Asha):
    """ASHA as published: a trial pauses at each rung, and the best of a rung are promoted when a worker is free.

    A rung promotes the best ``n // reduction_factor`` of the n trials that reached it, whenever they come to belong to
    them; the highest rung comes first (algorithm 2 of Li et al. 2018). No trial is audited.
    """

    resumes: ClassVar[bool] = True
    _name = "Promoting ASHA"

    def __init__(self, config: AshaConfig, max_epochs: int, seed: int = 0):
        super().__init__(config, max_epochs, seed)
        self._promoted: dict[int, set[int]] = {epoch: set() for epoch in self._rungs.losses}
        """By rung: the trials that it does not promote any more."""

    @property
    def pauses(self) -> Sequence[int]:
        """Return the rungs."""
        return tuple(self._rungs.losses)

    def decide(self, trial: int, epoch: int, loss: float) -> Decision:
        """Pause a trial at a rung, unless it is the one that would be promoted now."""
        if not math.isfinite(loss) or epoch >= self._max_epochs:
            return STOP
        if not self._rungs.add(trial, epoch, loss):
            return CONTINUE
        if trial == REFERENCE_TRIAL or self._next() == (epoch, trial):
            self._promoted[epoch].add(trial)
            return CONTINUE
        return PAUSE

    def next_paused(self, *, may_open: bool = False) -> int | None:  # noqa: ARG002
        """Promote the best trial of the highest rung that has one to promote."""
        if (promotable := self._next()) is None:
            return None
        epoch, trial = promotable
        self._promoted[epoch].add(trial)
        return trial

    def rebuild(self, rows: Sequence[TrialRow]) -> Mapping[int, Decision]:
        """Pause each unfinished trial whose newest report was at a rung; the other trials passed their rungs."""
        decisions = {}
        for row in rows:
            for report in row.reports:
                epoch = report[EPOCH]
                decisions[row.trial] = CONTINUE if epoch < self._max_epochs else STOP
                if not self._rungs.add(row.trial, epoch, loss_of(report)):
                    continue
                if row.epochs == epoch and row.state == RUNNING and row.trial != REFERENCE_TRIAL:
                    decisions[row.trial] = PAUSE
                else:
                    self._promoted[epoch].add(row.trial)
        return decisions

    def verify(self, rows: Sequence[TrialRow]) -> Iterator[str]:
        """Check that each trial that passed a rung was among its best at some moment before its next report.

        The record does not hold when a trial was promoted. One that was among the best while no worker was free may
        have been overtaken.
        """
        promotable = {epoch: {REFERENCE_TRIAL} for epoch in self._rungs.losses}
        for trial, epoch, loss in reports_in_order(rows):
            before = max((rung for rung in promotable if rung < epoch), default=None)
            if before is not None and trial not in promotable[before]:
                yield f"trial {trial} went on past epoch {before}, where the rung did not promote it"
            if self._rungs.add(trial, epoch, loss):
                promotable[epoch].update(self._rungs.best(epoch))
        for row in rows:
            if row.closed is not None:
                continue
            if row.state == PRUNED and row.epochs not in promotable:
                yield f"trial {row.trial} was stopped at epoch {row.epochs}, where no rung is"
            elif row.state == PRUNED and row.trial in self._rungs.best(row.epochs):
                yield f"trial {row.trial} was stopped at epoch {row.epochs}, where the rung promotes it"

    def _next(self) -> tuple[int, int] | None:
        """Return rung and number of the trial to promote next."""
        for epoch in reversed(self._rungs.losses):
            for trial in self._rungs.best(epoch):
                if trial not in self._promoted[epoch]:
                    return epoch, trial
        return None


def is_audited(seed: int, trial: int, fraction: float) -> bool:
    """Whether a trial that a rung stops is audited: a function of seed and number, so that a resume decides alike."""
    return Random(f"audit {seed} {trial}").random() < fraction


def reports_in_order(rows: Sequence[TrialRow]) -> list[tuple[int, int, float]]:
    """Return trial, epoch and loss of every report, in the order in which they were recorded."""
    reports = [(report[ORDER], row.trial, report[EPOCH], loss_of(report)) for row in rows for report in row.reports]
    return [(trial, epoch, loss) for _, trial, epoch, loss in sorted(reports)]
