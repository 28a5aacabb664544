"""The bridge between Ray Tune and the Optuna study. It tells Optuna the truth.

Ray's own OptunaSearch (2.60) tells every stopped trial as COMPLETE with its last loss, so that the sampler
compares losses of epoch 1 with losses of epoch 10, and loses trials with a NaN. Here a trial is COMPLETE only at
``max_epochs``; stopped earlier it is PRUNED at its last epoch; diverged or broken it is FAIL, with a reason.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from ray.tune.search import Searcher

from vae_tune.cluster.slots import Slots
from vae_tune.config.names import (
    COMPLETE,
    EPOCH,
    EPOCHS,
    FAIL,
    GPU_ERROR,
    GPUS,
    NODE,
    PRUNED,
    REASON,
    REFERENCE_TRIAL,
    STORAGE_ERROR,
    TRIAL,
    VAL_LOSS,
    VALUES,
)
from vae_tune.config.settings import Sampler, SearchError, TrialConfig
from vae_tune.config.space import Space
from vae_tune.record.trials import TrialRow
from vae_tune.search.initial_trials import Prior, reference_values
from vae_tune.search.sampler import Key, key_of, make_sampler
from vae_tune.search.scheduler import Asha, Rungs
from vae_tune.search.stopping import Ending
from vae_tune.vae.memory import in_words


class Record(Protocol):
    """The study folder as the searcher writes it: see :class:`vae_tune.record.study_record.StudyRecord`."""

    folder: Path
    study: optuna.Study
    seen: optuna.Study
    """The study as the sampler is to see it: see :mod:`vae_tune.record.sampler_view`."""
    borrowed: Sequence[FrozenTrial]
    """Trials of other studies, which a warm start has brought."""

    @property
    def rows(self) -> Sequence[TrialRow]:
        """All trials that were started."""

    def row(self, number: int) -> TrialRow:
        """Return one of them."""

    def transaction(self) -> AbstractContextManager[None]:
        """Write all of a block in one piece."""

    def unfinished(self) -> list[optuna.Trial]:
        """Return the trials that an earlier end left RUNNING."""

    def start(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None:
        """Note that a trial is about to run."""

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """Record one epoch."""

    def set_aside(self, number: int, epoch: int) -> None:
        """Let the sampler take a trial for pruned at ``epoch``."""

    def audit(self, number: int, epoch: int) -> None:
        """Note that a trial goes on though its rung at ``epoch`` condemned it."""

    def finish(self, number: int, state: str, reason: str = "", diverged: bool = False) -> None:
        """Tell Optuna how a trial ended."""


class StudySearcher(Searcher):
    """Ray Tune's searcher on the Optuna study of a :class:`Record`."""

    def __init__(
        self,
        record: Record,
        space: Space,
        base: TrialConfig,
        sampler: Sampler,
        ending: Ending,
        scheduler: Asha | None = None,
        num_samples: int | None = None,
        slots: Callable[[], Slots] | None = None,
        needs: Callable[[TrialConfig, bool], int] | None = None,
    ):
        """Take up a study.

        Args:
            record: of the study.
            space: what is searched.
            base: the reference configuration.
            sampler: who proposes.
            ending: whether to hand out any more.
            scheduler: says which trials are audited, paused and promoted.
            num_samples: trials of the study; by default Ray Tune counts them, also those handed out again.
            slots: how many trials may run now, and on what; by default Ray Tune limits them.
            needs: the bytes of memory that a configuration takes, with or without a GPU; by default none is too large.
        """
        super().__init__(metric=VAL_LOSS, mode="min")
        self._scheduler = scheduler or Asha(Rungs((), 2), base.max_epochs)
        self._num_samples = num_samples
        self._ending = ending
        self._record = record
        self._space = space
        self._base = base
        self._sampler = sampler
        borrowed = [trial.params for trial in record.borrowed]
        began = [row.values for row in record.rows]
        searched = space.distributions
        self._known = {self._key(values) for values in (*borrowed, *began) if values.keys() == searched.keys()}
        self._salt = zlib.crc32(json.dumps(borrowed).encode()) if borrowed else 0
        self._numbers: dict[str, int] = {}
        self._gpus: dict[str, float] = {}
        self._lost: Counter[int] = Counter()
        self._slots = slots
        self._needs = needs
        self._memory: dict[str, int] = {}
        self._waiting: dict[str, Any] | None = None
        self._unfinished = deque(t for t in record.unfinished() if t.number not in self._scheduler.paused)
        if not record.study.get_trials(deepcopy=False):
            with record.transaction():
                Prior().plant(record.study, space, base)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Hand out a configuration: unfinished trials first, then promoted ones, the reference, what is proposed.

        None says that there is nothing to do before another trial has reported.
        """
        if self._ending.refuses_new_trials():
            return str(Searcher.FINISHED)
        slots = self._slots() if self._slots else None
        running = [self._gpus[other] for other in self._numbers]
        if slots and len(running) >= slots.count:
            return None
        gpus = slots.gpus_of_next(running) if slots else 0.0
        try:
            with self._record.transaction():
                handed, memory = self._hand_out_what_fits(slots, on_gpu=gpus > 0)
        except OSError as error:
            self._fail_to_write(error)
            return str(Searcher.FINISHED)
        if handed is not None:
            self._numbers[trial_id], self._gpus[trial_id], self._memory[trial_id] = handed[TRIAL], gpus, memory
            return {**handed, GPUS: gpus}
        if self._numbers:
            return None
        for number in self._scheduler.paused:  # nothing runs any more that could make room for them
            self._write(self._record.finish, number, PRUNED)
        return str(Searcher.FINISHED)

    def _hand_out_what_fits(self, slots: Slots | None, *, on_gpu: bool) -> tuple[dict[str, Any] | None, int]:
        """Return the next trial and the bytes of memory that it takes; None where there is none now.

        One that does not fit beside those that run is the next one until it does. One that never fits is told as FAIL.
        """
        while (handed := self._waiting or self._hand_out()) is not None:
            if not (slots and self._needs):
                return handed, 0
            memory = self._needs(replace(self._base, **handed[VALUES]), on_gpu)
            if memory > (most := slots.memory_left([])):
                self._waiting = None
                reason = (
                    f"needs about {in_words(memory)} of memory, but a trial can have {in_words(most)} at most here"
                )
                self._record.finish(handed[TRIAL], FAIL, reason)
            elif memory > slots.memory_left([self._memory[other] for other in self._numbers]):
                self._waiting = handed
                return None, 0
            else:
                self._waiting = None
                return handed, memory
        return None, 0

    def _hand_out(self) -> dict[str, Any] | None:
        """Return the number and the hyperparameters of the next trial, or None where there is none now."""
        if not self._unfinished:
            promoted = self._scheduler.promote()
            if promoted is not None:
                self._record.set_aside(promoted, 0)
                return self._handed(promoted, self._record.row(promoted).values)
            if self._num_samples is not None and len(self._record.rows) >= self._num_samples:
                return None
        trial = self._next()
        values = reference_values(self._space, self._base) if trial.number == REFERENCE_TRIAL else trial.params
        self._record.start(trial, values)
        self._known.add(self._key(values))
        return self._handed(trial.number, values)

    def _handed(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        return {TRIAL: number, VALUES: dict(values), EPOCHS: self._record.row(number).epochs}

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002
        """Tell Ray Tune whether the searcher itself keeps to what may run at a time."""
        return self._slots is not None

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Record one epoch of a trial that goes on."""
        if not self._ends_the_search(result):
            self._write(self._report, self._numbers[trial_id], {**result, NODE: result.get("hostname", "")})

    def on_trial_complete(
        self,
        trial_id: str,
        result: Mapping[str, Any] | None = None,
        error: bool = False,
    ) -> None:
        """Tell Optuna how a trial ended; ``result`` is its last report.

        A broken trial (``error``) is told by :class:`~vae_tune.search.callbacks.FailureReasons`, which knows why.
        A trial that the end of the search stopped stays RUNNING, for the resume.
        """
        if error or trial_id not in self._numbers or not result or EPOCH not in result:
            return
        if self._ends_the_search(result):
            return
        if not math.isfinite(result[VAL_LOSS]):
            reason = result.get(REASON) or f"diverged: {VAL_LOSS} {result[VAL_LOSS]} in epoch {result[EPOCH]}"
            self.fail(trial_id, reason, diverged=True)
            return
        self.on_trial_result(trial_id, result)
        if self._ending.error:
            return
        if result[EPOCH] >= self._base.max_epochs:
            self._finish(trial_id, COMPLETE)
        elif self._numbers[trial_id] in self._scheduler.paused:
            del self._numbers[trial_id]
        elif trial_id not in self._ending.paused:
            self._finish(trial_id, PRUNED)

    def _ends_the_search(self, result: Mapping[str, Any]) -> bool:
        """End it where a result tells of what no trial is to blame for, and whether it did."""
        if STORAGE_ERROR in result:
            self._fail_to_write(OSError(result[STORAGE_ERROR]))
        elif GPU_ERROR in result:
            self._ending.fail(
                f"PyTorch cannot use the GPU that Ray found on {result.get('hostname', 'a node')}: "
                f"{result[GPU_ERROR].rstrip('.')}. (--gpus-per-trial 0 does without.)"
            )
        return bool({STORAGE_ERROR, GPU_ERROR} & result.keys())

    def _report(self, number: int, result: Mapping[str, Any]) -> None:
        """Record one epoch, and that the scheduler has just paused the trial or begun to audit it."""
        epoch = result[EPOCH]
        with self._record.transaction():
            self._record.report(number, result)
            if self._scheduler.audited.get(number) == epoch:
                self._record.audit(number, epoch)
            elif self._scheduler.paused.get(number) == epoch:
                self._record.set_aside(number, epoch)

    def fail(self, trial_id: str, reason: str, diverged: bool = False) -> None:
        """Tell Optuna that a trial failed."""
        if trial_id in self._numbers:
            self._finish(trial_id, FAIL, reason, diverged)

    def again(self, trial_id: str) -> bool:
        """Hand a trial out once more, from its checkpoint: its worker was lost before it took it up.

        Returns:
            Whether it will be; no trial is more than three times.
        """
        number = self._numbers[trial_id]
        self._lost[number] += 1
        if self._lost[number] > _MOST_LOST:
            return False
        del self._numbers[trial_id]
        self._unfinished.append(next(trial for trial in self._record.unfinished() if trial.number == number))
        return True

    def _finish(self, trial_id: str, state: str, reason: str = "", diverged: bool = False) -> None:
        self._write(self._record.finish, self._numbers.pop(trial_id), state, reason, diverged)

    def _write(self, write: Callable[..., None], *arguments: Any) -> None:
        """Write to the record; where that fails the search ends, since what it computes would be lost."""
        try:
            write(*arguments)
        except OSError as error:
            self._fail_to_write(error)
        except SearchError as error:
            self._ending.fail(str(error))

    def _fail_to_write(self, error: OSError) -> None:
        reason = error.strerror or error
        self._ending.fail(f"The record in {self._record.folder} cannot be written: {reason}. What it holds is whole.")

    def __getstate__(self) -> dict[str, Any]:
        """Pickle to an empty shell: Ray's Tuner pickles its settings, and nothing here reads a pickle."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the study is the record."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default", **kwargs: Any) -> None:
        """Save nothing: the study is the record."""

    def _next(self) -> optuna.Trial:
        if not self._unfinished:
            return self._ask()
        trial = self._unfinished.popleft()
        if trial.number != REFERENCE_TRIAL or self._space.contains(self._base):
            self._use_sampler(trial.number)
            _complete(trial, self._space)
        return trial

    def _ask(self) -> optuna.Trial:
        """Ask for a new trial; the sampler learns from the reference only where it lies in the space."""
        is_reference = not self._record.rows
        known = not is_reference or self._space.contains(self._base)
        self._use_sampler(len(self._record.rows))
        return self._record.seen.ask(dict(self._space.distributions) if known else {})

    def _use_sampler(self, number: int) -> None:
        distributions, seed = self._space.distributions, self._base.seed
        sampler = make_sampler(self._sampler, seed, number, distributions, self._known, self._salt)
        self._record.seen.sampler = sampler

    def _key(self, values: Mapping[str, Any]) -> Key:
        return key_of(self._space.distributions, values)


def _complete(trial: optuna.Trial, space: Space) -> None:
    """Suggest what a crash in the middle of a suggestion left out; what is there stays as it is."""
    for name, distribution in space.distributions.items():
        match distribution:
            case IntDistribution(low=low, high=high, log=log, step=step):
                trial.suggest_int(name, low, high, log=log, step=step)
            case FloatDistribution(low=low, high=high, log=log, step=step):
                trial.suggest_float(name, low, high, log=log, step=step)
            case CategoricalDistribution(choices=choices):
                trial.suggest_categorical(name, choices)


_MOST_LOST = 3
"""Times that a trial is handed out again after its worker was lost before it took it up."""
