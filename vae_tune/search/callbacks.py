"""What Ray Tune tells callbacks alone: why a trial broke, that one has ended, that a step is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.callback import Callback
from ray.tune.experiment import Trial

from vae_tune.cluster.ray_processes import NO_TASK, RayDied
from vae_tune.cluster.ray_runtime import ray_is_alive
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Ending

_LOW_MEMORY = "killed due to the node running low on memory"
"""What Ray's memory monitor says of a worker that it ended, before pages of advice."""


class FailureReasons(Callback):
    """Tells the study why a trial broke, which Ray Tune tells callbacks but not searchers.

    Where Ray itself has died the trial is not to blame: it stays RUNNING.
    """

    def __init__(self, searcher: StudySearcher, ending: Ending, check: Callable[[], None] = lambda: None):
        """Tell ``searcher``; ``check`` raises RayDied where that is known at once, as of a Ray of this machine."""
        self._searcher = searcher
        self._ending = ending
        self._check = check

    def __getstate__(self) -> dict[str, Any]:
        """Pickle to an empty shell, as :class:`StudySearcher` does."""
        return {}

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Note the last line of the error after the last retry.

        Raises:
            RayDied: Ray no longer runs tasks.
        """
        lines = _last_error(trial)
        out_of_memory = _LOW_MEMORY in lines[0]
        worker_died = lines[0].startswith("The actor ")  # else the trial's own code raised
        if worker_died and not self._ending.error:
            self._check()
            if not ray_is_alive():
                raise RayDied(NO_TASK)
        # Ray Tune gives up, whatever is left of its retries, where a worker is lost between two trials
        recovers = worker_died and trial.should_recover() and not self._ending.error
        if not (recovers and self._searcher.again(trial.trial_id)) and not self._ending.error:
            line = lines[0] if out_of_memory else lines[-1]
            self._searcher.fail(trial.trial_id, f"worker died: {line}" if out_of_memory or worker_died else line)


class EachStep(Callback):
    """Calls a function after each step of Ray Tune's loop, ten times a second or more often."""

    def __init__(self, function: Callable[[], None]):
        self._function = function

    def __getstate__(self) -> dict[str, Any]:
        """Pickle to an empty shell, as :class:`StudySearcher` does."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """Call it."""
        self._function()


class LetGo(Callback):
    """Lets go what Ray Tune keeps of each metric of an ended trial for its own tables: most of its memory here."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Forget the trial's metrics, which the record holds."""
        trial.run_metadata.metric_n_steps.clear()
        trial.run_metadata.metric_analysis.clear()


def _last_error(trial: Trial) -> list[str]:
    """Return the lines that Ray Tune wrote about a trial's newest failure."""
    text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    lines = text.rpartition("Failure # ")[2].splitlines()[1:]
    return [line.strip() for line in lines if line.strip()] or ["broken without a message"]
