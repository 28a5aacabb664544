"""ASHA, the stopping form: which trials go on past a rung, and the Ray Tune scheduler that asks.

Source: Li et al. 2018, "A System for Massively Parallel Hyperparameter Tuning" (arXiv:1810.05934). Here a trial
is stopped at a rung instead of paused, as in Ray's and Optuna's own versions.

Unlike Ray's AsyncHyperBandScheduler this one decides on ``epoch`` (Ray's ``training_iteration`` restarts at 1
when a worker is lost), stops a trial with a non-finite loss at once, and can be filled with what finished trials
reached, so that rungs survive a restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from vae_tune.names import EPOCH, REFERENCE_TRIAL, TRIAL, VAL_LOSS


class Rungs:
    """The losses that trials had at each rung, and the decision who goes on."""

    def __init__(self, epochs: Iterable[int], reduction_factor: int):
        self._losses: dict[int, dict[int, float]] = {epoch: {} for epoch in sorted(epochs)}
        self._reduction_factor = reduction_factor

    def record(self, trial: int, epoch: int, loss: float) -> None:
        """Note what a trial had at an epoch; ignored where the epoch is no rung or the loss is not finite."""
        if epoch in self._losses and math.isfinite(loss):
            self._losses[epoch].setdefault(trial, loss)

    def promotes(self, trial: int, epoch: int, loss: float) -> bool:
        """Record ``loss`` and say whether the trial goes on.

        At a rung it does when it is among the best ``max(1, n // reduction_factor)`` of the n trials that
        reached the rung so far, itself included. A trial that was there before (it was restored from a
        checkpoint) is not judged again.
        """
        losses = self._losses.get(epoch)
        if losses is None or trial in losses:
            return True
        losses[trial] = loss
        quota = max(1, len(losses) // self._reduction_factor)
        return loss <= sorted(losses.values())[quota - 1]


class Asha(FIFOScheduler):  # type: ignore[misc]
    """Ray Tune's view of :class:`Rungs`: ends trials at ``max_epochs``, at a rung, or when they diverge.

    The reference configuration is never stopped: the winner is compared with it at ``max_epochs``.
    """

    def __init__(self, rungs: Rungs, max_epochs: int):
        super().__init__()
        self._rungs = rungs
        self._max_epochs = max_epochs

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Decide on one report."""
        epoch, loss, number = result[EPOCH], result[VAL_LOSS], trial.config[TRIAL]
        if not math.isfinite(loss) or epoch >= self._max_epochs:
            return str(TrialScheduler.STOP)
        promoted = self._rungs.promotes(number, epoch, loss)
        goes_on = promoted or number == REFERENCE_TRIAL
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def debug_string(self) -> str:
        """Name the scheduler in Ray's logs."""
        return "ASHA"
