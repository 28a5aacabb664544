"""The life of every trial: the one place where the state of a trial changes.

    READY -> RUNNING -> READY     the worker was lost, or the search ends: the trial goes on later
             RUNNING -> PAUSED -> READY     the scheduler frees the worker, and resumes the trial
             RUNNING -> COMPLETE, PRUNED, FAIL
    READY -> FAIL     no node has enough memory for it
             PAUSED -> PRUNED     the search is over, and the scheduler did not resume it

To Optuna the first three states are RUNNING. One turn of a worker with a trial is a lease, named by a Ray Tune id.
Ray Tune reports the same event to its scheduler, its searcher and its callbacks, in its own order. Each passes it to
the lifecycle, which counts an event once and ignores events of a lease that has ended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from vae_tune.config import names
from vae_tune.config.errors import SearchError
from vae_tune.config.metric import loss_of
from vae_tune.search.record_protocol import Record
from vae_tune.search.scheduler import STOP, Decision, Scheduler
from vae_tune.search.stopping import Stopping

READY, PAUSED = "READY", "PAUSED"
TRANSITIONS = {
    READY: {names.RUNNING, names.FAIL},
    names.RUNNING: {READY, PAUSED, names.COMPLETE, names.PRUNED, names.FAIL},
    PAUSED: {READY, names.PRUNED},
}
"""The states that may follow each state; none follows COMPLETE, PRUNED and FAIL."""
_MOST_LOST_WORKERS = 3
"""A trial fails when one more worker is lost before it started the trial."""


@dataclass(frozen=True)
class Outcome:
    """The state of a trial after an event, with the reason of a FAIL."""

    state: str
    reason: str = ""
    diverged: bool = False


def after_report(epoch: int, loss: float, decision: Decision, max_epochs: int, *, search_ends: bool) -> Outcome:
    """Return the state that follows RUNNING after a report and the scheduler's decision on it."""
    if not math.isfinite(loss):
        return Outcome(names.FAIL, f"diverged: {names.VAL_LOSS} {loss} in epoch {epoch}", diverged=True)
    if epoch >= max_epochs:
        return Outcome(names.COMPLETE)
    if decision.action == "continue":
        return Outcome(READY if search_ends else names.RUNNING)
    return Outcome(PAUSED if decision.action == "pause" else names.PRUNED)


class Lifecycle:
    """The states of all unfinished trials, and the record of every change; final states are in the record alone."""

    def __init__(self, record: Record, scheduler: Scheduler, stopping: Stopping, max_epochs: int):
        """Rebuild the states from the record; finish the trials whose final state a crash kept out of it."""
        self._record = record
        self._scheduler = scheduler
        self._stopping = stopping
        self._max_epochs = max_epochs
        self._states = {row.trial: names.RUNNING for row in record.rows if row.state == names.RUNNING}
        self.leases: dict[str, int] = {}
        """The trials that workers train now, by lease."""
        self.out_of_memory: set[int] = set()
        """The trials that ran out of GPU memory beside others: they run alone on a GPU from now on."""
        self._lost_workers: Counter[int] = Counter()
        decisions = scheduler.rebuild(record.rows)
        with record.transaction():
            for trial in list(self._states):
                row, outcome = record.row(trial), Outcome(READY)
                if trial in decisions and row.loss is not None:
                    outcome = after_report(row.epochs, row.loss, decisions[trial], max_epochs, search_ends=True)
                    self._record_outcome(trial, row.epochs, outcome, decisions[trial])
                self._move(trial, outcome.state)

    def in_state(self, state: str) -> list[int]:
        """Return the unfinished trials in a state, in the order in which they entered it."""
        return [trial for trial, known in self._states.items() if known == state]

    def add(self, trial: int, *, is_chosen: bool = False) -> None:
        """Add a new trial, which is READY; ``is_chosen`` says whether it is the scheduler's own proposal."""
        self._states[trial] = READY
        if is_chosen:
            self._record_basis(trial, 1)

    def start(self, lease: str, trial: int) -> None:
        """Give a READY trial to a worker."""
        self._move(trial, names.RUNNING)
        self.leases[lease] = trial
        self._scheduler.begin(trial, self._record.row(trial).values)

    def report(self, lease: str, result: Mapping[str, Any]) -> bool:
        """Record a worker's report and what follows from it; return whether the worker trains another epoch.

        If it cannot be recorded, or contains an error not caused by a trial, the search ends.
        """
        if lease not in self.leases:
            return False
        outcome = Outcome(READY)
        with self.recording():
            if error := _error_of_search(result):
                raise error
            trial = self.leases[lease]
            if numbers := result.get(names.GPU_MEMORY):
                outcome = self._run_out_of_memory(trial, numbers)
            else:
                outcome = self._record_report(trial, result)
        if outcome.state != names.RUNNING:
            self._end_lease(lease, outcome.state)
        return outcome.state == names.RUNNING

    def complete(self, lease: str, result: Mapping[str, Any] | None) -> None:
        """End the lease of a worker that has stopped; ``result`` is its last report."""
        if lease not in self.leases:
            return
        if not result or names.EPOCH not in result:  # the search ended before its first report
            self._end_lease(lease, READY)
        elif self.report(lease, result):  # it stopped without a decision
            self._finish(lease, Outcome(names.PRUNED))

    def fail(self, lease: str, reason: str) -> None:
        """Finish a trial whose worker raised an error or died."""
        if lease in self.leases:
            self._finish(lease, Outcome(names.FAIL, reason))

    def reject(self, trial: int, reason: str) -> None:
        """Finish a READY trial that no worker can train."""
        self._record.finish(trial, names.FAIL, reason)
        self._move(trial, names.FAIL)

    def lose_worker(self, lease: str) -> bool:
        """Make a trial READY again whose worker was lost before it started the trial, and return True.

        Return False where the trial should fail: unknown, or after three lost workers.
        """
        trial = self.leases.get(lease)
        if trial is None or self._lost_workers[trial] >= _MOST_LOST_WORKERS:
            return False
        self._lost_workers[trial] += 1
        self._end_lease(lease, READY)
        return True

    def resume_paused(self, *, may_open: bool = False) -> None:
        """Make the paused trial READY that the scheduler resumes, if any; ``may_open`` a new one instead."""
        trial = self._scheduler.next_paused(may_open=may_open)
        if trial is not None:
            self._move(trial, READY)
            self._record.set_aside(trial, 0)
            self._record_basis(trial, self._record.row(trial).epochs + 1)

    def prune_paused(self) -> None:
        """Finish the trials that are still paused when nothing is left to train."""
        with self.recording():
            for trial in self.in_state(PAUSED):
                self._record.finish(trial, names.PRUNED)
                self._move(trial, names.PRUNED)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Write everything that is recorded in the block at once; where that fails, end the search."""
        try:
            with self._record.transaction():
                yield
        except OSError as error:
            reason = error.strerror or error
            self._stopping.fail(
                f"The record in {self._record.folder} cannot be written: {reason}. The record is intact up to there."
            )
        except SearchError as error:
            self._stopping.fail(str(error))

    def _record_report(self, trial: int, result: Mapping[str, Any]) -> Outcome:
        epoch, loss = result[names.EPOCH], loss_of(result)
        search_ends = self._stopping.after_report(result)
        if epoch <= self._record.row(trial).epochs:  # Ray Tune reported it twice, or the trial was restored
            self._record.report(trial, result)  # which adds its note, if it has one
            return Outcome(READY if search_ends else names.RUNNING)
        if failure := result.get(names.METRIC_ERROR):
            outcome = Outcome(names.FAIL, failure)
            self._record_outcome(trial, epoch, outcome, STOP)
            return outcome
        decision = self._scheduler.decide(trial, epoch, loss)
        outcome = after_report(epoch, loss, decision, self._max_epochs, search_ends=search_ends)
        if outcome.diverged:
            outcome = replace(outcome, reason=result.get(names.REASON) or outcome.reason)
        else:
            self._record.report(trial, {**result, names.NODE: result.get("hostname", "")})
        self._record_outcome(trial, epoch, outcome, decision)
        if decision.action == "continue" and outcome.state in TRANSITIONS:
            self._record_basis(trial, epoch + 1)
        return outcome

    def _run_out_of_memory(self, trial: int, numbers: str) -> Outcome:
        """Return READY for a trial that has not had a GPU for itself, else FAIL."""
        if trial not in self.out_of_memory:
            self.out_of_memory.add(trial)
            self._stopping.warn(f"Trial {trial} ran out of GPU memory: {numbers}. It is tried once more, alone.")
            return Outcome(READY)
        outcome = Outcome(names.FAIL, f"out of GPU memory, also alone: {numbers}")
        self._record.finish(trial, outcome.state, outcome.reason, outcome.diverged)
        return outcome

    def _record_basis(self, trial: int, epoch: int) -> None:
        if (basis := self._scheduler.basis) is not None:
            self._record.decided(trial, epoch, basis)

    def _record_outcome(self, trial: int, epoch: int, outcome: Outcome, decision: Decision) -> None:
        if decision.stopped_at is not None and self._record.row(trial).audited != decision.stopped_at:
            self._record.audit(trial, decision.stopped_at)
        if outcome.state == PAUSED:
            self._record.set_aside(trial, epoch)
        elif outcome.state not in TRANSITIONS:
            self._record.finish(trial, outcome.state, outcome.reason, outcome.diverged)

    def _finish(self, lease: str, outcome: Outcome) -> None:
        with self.recording():
            self._record.finish(self.leases[lease], outcome.state, outcome.reason, outcome.diverged)
        self._end_lease(lease, outcome.state)

    def _end_lease(self, lease: str, state: str) -> None:
        self._move(self.leases.pop(lease), state)

    def _move(self, trial: int, state: str) -> None:
        before = self._states[trial]
        if state not in TRANSITIONS[before]:
            raise ValueError(f"trial {trial} is {before}; it cannot become {state}")
        del self._states[trial]
        if state in TRANSITIONS:
            self._states[trial] = state


def _error_of_search(result: Mapping[str, Any]) -> OSError | SearchError | None:
    """Return the error in a report that was not caused by a trial, if any."""
    if names.STORAGE_ERROR in result:
        return OSError(result[names.STORAGE_ERROR])
    if names.GPU_ERROR in result:
        return SearchError(
            f"PyTorch cannot use the GPU that Ray found on {result.get('hostname', 'a node')}: "
            f"{result[names.GPU_ERROR].rstrip('.')}. (--gpus-per-trial 0 does without.)"
        )
    return None
