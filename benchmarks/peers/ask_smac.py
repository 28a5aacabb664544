"""SMAC3's MultiFidelityFacade by its ask-and-tell interface: ``smac``.

The facade's defaults (Hyperband, reduction factor 3, random forest) with the initial design of its multi-fidelity
example, five random configurations, and the reference as an additional one. Hyperband's budgets are fractions (1.11,
3.33 and 10 of 10 epochs): the example rounds them up, here they are rounded to the nearest epoch, which costs SMAC
less. A configuration that goes on to a larger budget continues from its last epoch.
"""

from __future__ import annotations

import math
from tempfile import TemporaryDirectory
from typing import Any

from ask_tell import Job, Peer, Task, serve
from ConfigSpace import Categorical, Configuration, ConfigurationSpace, Float, Integer
from smac import MultiFidelityFacade, Scenario
from smac.runhistory import StatusType, TrialInfo, TrialValue


class SmacPeer:
    """A facade, asked for configurations with budgets."""

    def __init__(self, task: Task):
        self._place = TemporaryDirectory()
        space = ConfigurationSpace(seed=task.seed)
        space.add([_hyperparameter(one) for one in task.space])
        scenario = Scenario(
            space,
            output_directory=self._place.name,
            deterministic=True,
            n_trials=task.total_epochs,  # none costs less than an epoch
            min_budget=1,
            max_budget=task.max_epochs,
            seed=task.seed,
        )
        first = [] if task.reference is None else [Configuration(space, dict(task.reference))]
        design = MultiFidelityFacade.get_initial_design(scenario, n_configs=5, additional_configs=first)
        self._facade = MultiFidelityFacade(scenario, initial_design=design, overwrite=True, logging_level=False)
        self._numbers: dict[Configuration, int] = {}
        self._running: dict[int, tuple[TrialInfo, int]] = {}

    def ask(self) -> Job:
        """Start a configuration, or continue one with a larger budget."""
        info = self._facade.ask()
        number = self._numbers.setdefault(info.config, len(self._numbers))
        until = max(1, round(info.budget))
        self._running[number] = info, until
        return Job(number, dict(info.config), until)

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Tell the facade the loss at the end of the budget, or a crash."""
        info, until = self._running[trial]
        if not math.isfinite(loss):
            self._facade.tell(info, TrialValue(math.inf, status=StatusType.CRASHED), save=False)
            return False
        if epoch < until:
            return True
        self._facade.tell(info, TrialValue(loss), save=False)
        return False


def _hyperparameter(one: Any) -> Any:
    if one["type"] == "categorical":
        return Categorical(one["name"], one["choices"])
    kind: Any = Integer if one["type"] == "int" else Float
    return kind(one["name"], (one["low"], one["high"]), log=one["log"])


def make(task: Task) -> Peer:
    return SmacPeer(task)


if __name__ == "__main__":
    serve(make, ["smac", "ConfigSpace"])
