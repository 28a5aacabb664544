"""Ray Tune's OptunaSearch with its ASHAScheduler: ``ray-asha-R`` has reduction factor R.

The searcher and the scheduler are called as Tune's controller calls them (``_process_trial_result`` in
``ray/tune/execution/tune_controller.py``), without a cluster. A trial that the scheduler stops is reported to the
searcher as complete with its last loss, as Tune does.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from ask_tell import Job, Peer, Task, serve
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch


class RayPeer:
    """A searcher and a scheduler, told about each report."""

    def __init__(self, task: Task):
        np.random.seed(task.seed)  # the scheduler draws from it
        self._task = task
        first = None if task.reference is None else [dict(task.reference)]
        self._searcher: Any = OptunaSearch(points_to_evaluate=first, seed=task.seed)
        self._searcher.set_search_properties("loss", "min", {one["name"]: _domain(one) for one in task.space})
        factor = int(task.method.removeprefix("ray-asha-"))
        self._scheduler: Any = ASHAScheduler(max_t=task.max_epochs, grace_period=1, reduction_factor=factor)
        self._scheduler.set_search_properties("loss", "min")
        self._trials: list[SimpleNamespace] = []

    def ask(self) -> Job:
        """Start a trial."""
        trial = SimpleNamespace(trial_id=str(len(self._trials)))
        values = self._searcher.suggest(trial.trial_id)
        self._trials.append(trial)
        self._scheduler.on_trial_add(None, trial)
        return Job(int(trial.trial_id), values, self._task.max_epochs)

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Let the scheduler decide, then tell the searcher."""
        running = self._trials[trial]
        if not math.isfinite(loss):  # as if the trainable had raised an exception
            self._scheduler.on_trial_error(None, running)
            self._searcher.on_trial_complete(running.trial_id, error=True)
            return False
        result = {"training_iteration": epoch, "loss": loss}
        if self._scheduler.on_trial_result(None, running, result) == TrialScheduler.STOP:
            self._scheduler.on_trial_complete(None, running, result)
            self._searcher.on_trial_complete(running.trial_id, result)
            return False
        self._searcher.on_trial_result(running.trial_id, result)
        return True


def _domain(one: Any) -> Any:
    """Return a hyperparameter as Tune describes it; the upper end of its integers is exclusive."""
    if one["type"] == "categorical":
        return tune.choice(one["choices"])
    if one["type"] == "int":
        return (tune.lograndint if one["log"] else tune.randint)(one["low"], one["high"] + 1)
    return (tune.loguniform if one["log"] else tune.uniform)(one["low"], one["high"])


def make(task: Task) -> Peer:
    return RayPeer(task)


if __name__ == "__main__":
    serve(make, ["ray", "optuna"])
