"""The other parts of Ray Tune that a search plugs into: its scheduler, its stopper and its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.callback import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.stopper import Stopper

from vae_tune.cluster.ray_processes import NO_TASK, RayDied
from vae_tune.cluster.ray_runtime import ray_is_alive
from vae_tune.config.compat.ray_tune import forget_trial, is_out_of_memory, is_worker_death, last_failure
from vae_tune.config.names import TRIAL
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import Lifecycle

_WAITING = (Trial.PENDING, Trial.PAUSED)
"""States of Ray Tune's trials that may start; the first before the second."""


class _PicklesToNothing:
    """Ray's Tuner pickles its settings, and nothing here reads a pickle."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class ReportsToLifecycle(_PicklesToNothing, FIFOScheduler):
    """Ray Tune's scheduler: the lifecycle decides, and trials start in the order of their numbers."""

    def __init__(self, trials: Lifecycle):
        super().__init__()  # type: ignore[no-untyped-call]
        self._trials = trials

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Record a report; return whether the worker continues or stops."""
        goes_on = self._trials.report(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the next trial to start, as FIFOScheduler does, which looks through all that have ended too."""
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status in _WAITING]
        return min(waiting, key=lambda trial: (_WAITING.index(trial.status), trial.config[TRIAL]), default=None)


class StopsAll(_PicklesToNothing, Stopper):
    """Ray Tune's stopper: ends the epochs in flight when the search must end at once."""

    def __init__(self, stopping: Stopping):
        self._stopping = stopping

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Stop no trial: the lifecycle does."""
        return False

    def stop_all(self) -> bool:
        """Return whether to end everything now."""
        return self._stopping.stop_all()


class FailureReasons(_PicklesToNothing, Callback):
    """Records why a trial failed, which Ray Tune tells callbacks but not searchers.

    If Ray itself has died, the trial did not cause it: it stays RUNNING.
    """

    def __init__(self, trials: Lifecycle, stopping: Stopping, check: Callable[[], None] = lambda: None):
        """Record it in ``trials``; ``check`` raises RayDied where that is known at once, as of a local Ray."""
        self._trials = trials
        self._stopping = stopping
        self._check = check

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Record the last line of the error after the last retry.

        Raises:
            RayDied: Ray no longer runs tasks.
        """
        lines = last_failure(trial)
        out_of_memory, worker_died = is_out_of_memory(lines), is_worker_death(lines)
        if self._stopping.error:
            return
        if worker_died:
            self._check()
            if not ray_is_alive():
                raise RayDied(NO_TASK)
            # Ray Tune gives up, whatever is left of its retries, where a worker is lost between two trials
            if trial.should_recover() and self._trials.lose_worker(trial.trial_id):
                return
        line = lines[0] if out_of_memory else lines[-1]
        self._trials.fail(trial.trial_id, f"worker died: {line}" if out_of_memory or worker_died else line)


class EachStep(_PicklesToNothing, Callback):
    """Calls a function after each step of Ray Tune's loop, ten times a second or more often."""

    def __init__(self, function: Callable[[], None]):
        self._function = function

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """Call it."""
        self._function()


class ForgetTrials(_PicklesToNothing, Callback):
    """Deletes what Ray Tune keeps of ended trials, all of which the record holds."""

    def __init__(self) -> None:
        self._ended: list[Trial] = []

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Note a trial: Ray Tune still needs it in this step."""
        self._ended.append(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """Delete what was kept of the trials that ended in this step."""
        while self._ended:
            forget_trial(self._ended.pop())
