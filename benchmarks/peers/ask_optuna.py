"""Optuna alone: its default sampler, and a pruner that decides after each report.

The loop is that of the documentation of ``Study.tell``. ``optuna-sha-R`` is SuccessiveHalvingPruner with reduction
factor R (4 is its default), ``optuna-hyperband`` is HyperbandPruner as its documentation shows it. Several workers ask
the same study, as threads or processes with one storage would.
"""

from __future__ import annotations

import math

import optuna
from ask_tell import Job, Peer, Task, serve
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState


class OptunaPeer:
    """A study in memory."""

    def __init__(self, task: Task):
        self._task = task
        self._space: dict[str, BaseDistribution] = {}
        for one in task.space:
            if one["type"] == "categorical":
                self._space[one["name"]] = CategoricalDistribution(one["choices"])
            else:
                kind = IntDistribution if one["type"] == "int" else FloatDistribution
                self._space[one["name"]] = kind(one["low"], one["high"], log=one["log"])
        self._study = optuna.create_study(
            study_name=f"search {task.seed}",  # HyperbandPruner draws a trial's bracket from it
            sampler=optuna.samplers.TPESampler(seed=task.seed),
            pruner=_pruner(task),
        )
        if task.reference is not None:
            self._study.enqueue_trial(dict(task.reference))
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self) -> Job:
        """Start a trial: Optuna always has one."""
        trial = self._study.ask(self._space)
        self._trials[trial.number] = trial
        return Job(trial.number, trial.params, self._task.max_epochs)

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Report, and finish the trial if it is pruned, complete or diverged."""
        running = self._trials[trial]
        if not math.isfinite(loss):
            self._study.tell(running, state=TrialState.FAIL)
            return False
        running.report(loss, epoch)
        if running.should_prune():
            self._study.tell(running, state=TrialState.PRUNED)
            return False
        if epoch == self._task.max_epochs:
            self._study.tell(running, loss)
            return False
        return True


def _pruner(task: Task) -> BasePruner:
    if task.method == "optuna-hyperband":
        return HyperbandPruner(min_resource=1, max_resource=task.max_epochs, reduction_factor=3)
    factor = int(task.method.removeprefix("optuna-sha-"))
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)


def make(task: Task) -> Peer:
    return OptunaPeer(task)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    serve(make, ["optuna"])
