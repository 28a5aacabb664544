"""The bridge between Ray Tune and the Optuna study. It tells Optuna the truth.

Ray's own OptunaSearch (2.60) tells every stopped trial as COMPLETE with its last loss, so that the sampler
compares losses of epoch 1 with losses of epoch 10, and loses trials with a NaN. Here a trial is COMPLETE only at
``max_epochs``; stopped earlier it is PRUNED at its last epoch; diverged or broken it is FAIL, with a reason.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from ray.tune.callback import Callback
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from vae_tune.config import Sampler, TrialConfig
from vae_tune.names import (
    COMPLETE,
    EPOCH,
    FAIL,
    NODE,
    PRUNED,
    REASON,
    REFERENCE_TRIAL,
    TRIAL,
    VAL_LOSS,
    VALUES,
)
from vae_tune.record import StudyRecord
from vae_tune.space import Space


def make_sampler(name: Sampler, seed: int, trial: int) -> BaseSampler:
    """Return the Optuna sampler for one suggestion.

    Its random stream is a function of the seed and the trial's number, so that a suggestion depends on these and
    on the history alone, not on whether the search was interrupted before.
    """
    stream = seed * 1_000_003 + trial & 0xFFFFFFFF
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match name:
            case "tpe":
                return TPESampler(seed=stream, constant_liar=True)
            case "random":
                return RandomSampler(seed=stream)
            case "qmc":  # its place in the sequence is kept in the study, its scrambling is the seed's
                return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            case "gp":
                return GPSampler(seed=stream, deterministic_objective=False)
            case "cmaes":
                return CmaEsSampler(seed=stream, consider_pruned_trials=True, warn_independent_sampling=False)


class StudySearcher(Searcher):  # type: ignore[misc]
    """Ray Tune's searcher on the Optuna study of a :class:`StudyRecord`."""

    def __init__(self, record: StudyRecord, space: Space, base: TrialConfig, sampler: Sampler):
        super().__init__(metric=VAL_LOSS, mode="min")
        self._record = record
        self._space = space
        self._base = base
        self._sampler = sampler
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Ask the study for a configuration; the first is the reference."""
        number = len(self._record.rows)
        trial, values = self._ask_reference() if number == REFERENCE_TRIAL else self._ask(number)
        self._numbers[trial_id] = trial.number
        self._record.start(trial, values, reference=trial.number == REFERENCE_TRIAL)
        return {TRIAL: trial.number, VALUES: values}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Record one epoch of a trial that goes on."""
        self._record.report(self._numbers[trial_id], {**result, NODE: result.get("hostname", "")})

    def on_trial_complete(
        self,
        trial_id: str,
        result: Mapping[str, Any] | None = None,
        error: bool = False,
    ) -> None:
        """Tell Optuna how a trial ended; ``result`` is its last report.

        A broken trial (``error``) is told by :class:`FailureReasons`, which knows why. A trial that never
        reported was taken back by an interruption: it stays RUNNING, for the resume.
        """
        if error or trial_id not in self._numbers or not result or EPOCH not in result:
            return
        if not math.isfinite(result[VAL_LOSS]):
            reason = result.get(REASON) or f"diverged: {VAL_LOSS} {result[VAL_LOSS]} in epoch {result[EPOCH]}"
            self.fail(trial_id, reason)
            return
        self.on_trial_result(trial_id, result)
        reached_end = result[EPOCH] >= self._base.max_epochs
        self._record.finish(self._numbers.pop(trial_id), COMPLETE if reached_end else PRUNED)

    def fail(self, trial_id: str, reason: str) -> None:
        """Tell Optuna that a trial failed."""
        if trial_id in self._numbers:
            self._record.finish(self._numbers.pop(trial_id), FAIL, reason)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle to an empty shell: Ray's Tuner pickles its settings, and nothing here reads a pickle."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the study is the record."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default", **kwargs: Any) -> None:
        """Save nothing: the study is the record."""

    def _ask(self, number: int) -> tuple[optuna.Trial, dict[str, Any]]:
        self._record.study.sampler = make_sampler(self._sampler, self._base.seed, number)
        trial = self._record.study.ask(dict(self._space.distributions))
        return trial, trial.params

    def _ask_reference(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """Ask for the base configuration; the sampler learns from it only where it lies in the space."""
        values = {name: getattr(self._base, name) for name in self._space.distributions}
        if not self._space.contains(self._base):
            return self._record.study.ask(), values
        self._record.study.enqueue_trial(values)
        return self._ask(REFERENCE_TRIAL)[0], values


class FailureReasons(Callback):  # type: ignore[misc]
    """Tells the study why a trial broke, which Ray Tune tells callbacks but not searchers."""

    def __init__(self, searcher: StudySearcher):
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Pickle to an empty shell, as :class:`StudySearcher` does."""
        return {}

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Note the last line of the error after the last retry."""
        error = trial.get_error()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self._searcher.fail(trial.trial_id, lines[-1])
