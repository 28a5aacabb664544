"""NePS by its AskAndTell: ``neps-priorband`` (on Hyperband, its default), ``neps-priorband-async`` (on async_hb).

PriorBand samples around a prior, which is the reference with medium confidence, and tries it first. A configuration
that goes on to a larger fidelity continues from its last epoch. The freeze-thaw method of NePS, ``ifbo``, downloads
the weights of a network before its first proposal, and so does not run here.
"""

from __future__ import annotations

import math
from typing import Any

import neps
import numpy as np
import torch
from ask_tell import Job, Peer, Task, serve

BASES = {"neps-priorband": "hyperband", "neps-priorband-async": "async_hb"}
EPOCHS = "training_epochs"


class NepsPeer:
    """An optimizer of NePS, asked for configurations with fidelities."""

    def __init__(self, task: Task):
        np.random.seed(task.seed)
        torch.manual_seed(task.seed)
        self._names = [one["name"] for one in task.space]
        parameters = {one["name"]: _parameter(one, task.reference) for one in task.space}
        parameters[EPOCHS] = neps.IntegerFidelity(1, task.max_epochs)
        space = type("Space", (neps.PipelineSpace,), parameters)()
        optimizer = neps.algorithms.priorband(
            space, base=BASES[task.method], sample_prior_first=task.reference is not None
        )
        self._search = neps.AskAndTell(optimizer)
        self._running: dict[int, Any] = {}

    def ask(self) -> Job:
        """Start a configuration, or continue one with a larger fidelity."""
        trial = self._search.ask()
        number = int(trial.id.partition("_")[0])
        self._running[number] = trial
        values = {name: trial.config[name] for name in self._names}
        return Job(number, values, trial.config[EPOCHS])

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Tell the optimizer the loss at the end of the fidelity, or a failure."""
        running = self._running[trial]
        if not math.isfinite(loss):
            self._search.tell(running, ArithmeticError("diverged"))
            return False
        if epoch < running.config[EPOCHS]:
            return True
        self._search.tell(running, loss)
        return False


def _parameter(one: Any, reference: Any) -> Any:
    prior: dict[str, Any] = {}
    if reference is not None:
        value = reference[one["name"]]
        prior = {"prior": value, "prior_confidence": "medium"}
    if one["type"] == "categorical":
        if prior:
            prior["prior"] = one["choices"].index(prior["prior"])
        return neps.Categorical(one["choices"], **prior)
    kind = neps.Integer if one["type"] == "int" else neps.Float
    return kind(one["low"], one["high"], log=one["log"], **prior)


def make(task: Task) -> Peer:
    return NepsPeer(task)


if __name__ == "__main__":
    serve(make, ["neural-pipeline-search", "torch"])
