"""Syne Tune's multi-fidelity schedulers: ``syne-asha`` (random search), ``syne-bohb``, ``syne-cqr``, ``syne-bore``.

The scheduler is called as Syne Tune's Tuner calls it (``_update_running_trials`` in ``syne_tune/tuner.py``). All four
stop trials; none resumes a paused one. Reduction factor 3 and grace period 1 are their defaults.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from ask_tell import Job, Peer, Task, serve
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
from syne_tune.optimizer.baselines import ASHA, ASHABORE, ASHACQR, BOHB
from syne_tune.optimizer.scheduler import SchedulerDecision

METHODS = {"syne-asha": ASHA, "syne-bohb": BOHB, "syne-cqr": ASHACQR, "syne-bore": ASHABORE}


class SynePeer:
    """A scheduler, told about each report."""

    def __init__(self, task: Task):
        np.random.seed(task.seed)  # BORE draws its configurations from it, whatever random_seed is
        self._task = task
        self._scheduler = METHODS[task.method](
            {one["name"]: _domain(one) for one in task.space},
            metric="loss",
            time_attr="epoch",
            max_t=task.max_epochs,
            random_seed=task.seed,
            points_to_evaluate=None if task.reference is None else [dict(task.reference)],
        )
        self._trials: list[Trial] = []

    def ask(self) -> Job | None:
        """Start a trial."""
        suggestion = self._scheduler.suggest()
        if suggestion is None:
            return None
        trial = Trial(len(self._trials), suggestion.config, datetime.now(UTC))
        self._trials.append(trial)
        self._scheduler.on_trial_add(trial)
        return Job(trial.trial_id, trial.config, self._task.max_epochs)

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Let the scheduler decide."""
        running = self._trials[trial]
        if not math.isfinite(loss):
            self._scheduler.on_trial_error(running)
            return False
        if self._scheduler.on_trial_result(running, {"epoch": epoch, "loss": loss}) == SchedulerDecision.STOP:
            self._scheduler.on_trial_remove(running)
            return False
        return True


def _domain(one: Any) -> Any:
    """Return a hyperparameter as Syne Tune describes it."""
    if one["type"] == "categorical":
        return choice(one["choices"])
    if one["type"] == "int":
        return (lograndint if one["log"] else randint)(one["low"], one["high"])
    return (loguniform if one["log"] else uniform)(one["low"], one["high"])


def make(task: Task) -> Peer:
    return SynePeer(task)


if __name__ == "__main__":
    serve(make, ["syne-tune"])
