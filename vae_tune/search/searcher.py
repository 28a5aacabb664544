"""Ray Tune's searcher on the Optuna study: which trial a free worker gets.

Ray's own OptunaSearch (2.60) tells Optuna that every stopped trial is COMPLETE with its last loss, so that the sampler
compares losses of epoch 1 with losses of epoch 10, and loses trials with a NaN. Here a trial is COMPLETE only at
``max_epochs``; stopped earlier it is PRUNED at its last epoch; diverged or broken it is FAIL, with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from vae_tune.cluster.slots import Slots
from vae_tune.config.names import EPOCHS, GPUS, TRIAL, VALUES
from vae_tune.config.settings import NO_EARLY_STOPPING, Sampler, TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import with_values
from vae_tune.search.proposals import Proposals
from vae_tune.search.record_protocol import Record
from vae_tune.search.scheduler import Scheduler
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import READY, Lifecycle
from vae_tune.vae.memory_estimate import in_words


class StudySearcher(Searcher):
    """Gives READY trials to free workers first, then trials that the scheduler resumes, then new ones."""

    def __init__(
        self,
        record: Record,
        space: Space,
        base: TrialConfig,
        sampler: Sampler,
        stopping: Stopping,
        scheduler: Scheduler | None = None,
        num_samples: int | None = None,
        slots: Callable[[], Slots] | None = None,
        needs: Callable[[TrialConfig, bool], int] | None = None,
    ):
        """Continue a study whose reference configuration is ``base``.

        ``slots`` returns how many trials may run now, and on what; ``needs`` the bytes of memory that a configuration
        takes, with or without a GPU. By default all trials train on, Ray Tune counts and limits them, and each fits.
        """
        super().__init__()  # without a metric, which Ray Tune does not use: the lifecycle ranks the trials
        scheduler = scheduler or make_scheduler(NO_EARLY_STOPPING, base.max_epochs, base.seed)
        scheduler.open(space, num_samples)
        self._scheduler = scheduler
        self.trials = Lifecycle(record, scheduler, stopping, base.max_epochs)
        self._proposals = Proposals(record, space, base, sampler)
        self._record = record
        self._base = base
        self._stopping = stopping
        self._num_samples = num_samples
        self._slots = slots
        self._needs = needs
        self._shares: dict[str, tuple[float, int]] = {}
        """GPUs and bytes of memory of each worker, by lease."""
        self.all_slots_are_taken = False
        """Whether the last worker that asked got nothing for want of a slot: only a trial that ends changes that."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return what the worker ``trial_id`` trains: number and hyperparameters of a trial, and its share of a GPU.

        None says that there is nothing to train before another trial has reported.
        """
        if self._stopping.refuses_new_trials():
            return str(Searcher.FINISHED)
        slots = self._slots() if self._slots else None
        shares = [self._shares[lease] for lease in self.trials.leases]
        self.all_slots_are_taken = bool(slots and slots.are_taken([gpus for gpus, _ in shares]))
        if self.all_slots_are_taken:
            return None
        gpus = slots.gpus_of_next([gpus for gpus, _ in shares]) if slots else 0.0
        number, memory = None, 0
        with self.trials.recording():
            number, memory = self._next_that_fits(slots, [memory for _, memory in shares], on_gpu=gpus > 0)
            if number is None and not self.trials.leases:  # no report can make the scheduler resume another one
                self.trials.prune_paused()
        if self._stopping.error or (number is None and not self.trials.leases):
            return str(Searcher.FINISHED)
        if number is None:
            return None
        if gpus and number in self.trials.out_of_memory:
            gpus = max(gpus, 1.0)
        self.trials.start(trial_id, number)
        self._shares[trial_id] = gpus, memory
        row = self._record.row(number)
        return {TRIAL: number, VALUES: dict(row.values), EPOCHS: row.epochs, GPUS: gpus}

    def _next_that_fits(self, slots: Slots | None, running: list[int], *, on_gpu: bool) -> tuple[int | None, int]:
        """Return the trial that starts now, and the bytes of memory that it takes; None where none does.

        A trial that does not fit beside those that run stays the next one. A trial that can never fit fails.
        """
        while (number := self._next()) is not None:
            if not (slots and self._needs):
                return number, 0
            memory = self._needs(with_values(self._base, self._record.row(number).values), on_gpu)
            if memory <= slots.memory_left(running):
                return number, memory
            if memory <= (most := slots.memory_left([])):
                break
            at_most = f"but a trial can have {in_words(most)} at most here"
            self.trials.reject(number, f"needs about {in_words(memory)} of memory, {at_most}")
        return None, 0

    def _next(self) -> int | None:
        """Return the trial that is READY next; where none is, resume a paused one or propose a new one."""
        is_full = self._num_samples is not None and len(self._record.rows) >= self._num_samples
        is_given = self._scheduler.proposes and self._proposals.has_given and not is_full
        if not self.trials.in_state(READY) and not is_given:
            self.trials.resume_paused(may_open=not is_full)
        if not self.trials.in_state(READY) and not is_full:
            chosen = self._scheduler.proposal()
            new = self._proposals.propose(chosen)
            self.trials.add(new, is_chosen=self._record.row(new).values == chosen)
        number = next(iter(self.trials.in_state(READY)), None)
        if number is not None:
            self._proposals.complete(number)
        return number

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002
        """Tell Ray Tune whether the searcher itself limits the trials that run at a time."""
        return self._slots is not None

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Record a report of a trial that goes on."""
        self.trials.report(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Record that a worker has stopped; ``result`` is its last report.

        :class:`~vae_tune.search.callbacks.FailureReasons` records an ``error``: only callbacks get its reason.
        """
        if not error:
            self.trials.complete(trial_id, result)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle to an empty shell: Ray's Tuner pickles its settings, and nothing here reads a pickle."""
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default", **kwargs: Any) -> None:
        """Save nothing: the study is the record."""
