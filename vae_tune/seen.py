"""What the sampler sees of a study: trials that were set aside at an epoch look pruned there, whatever they do now."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

SET_ASIDE = "set_aside"
"""User attribute of an Optuna trial: the epoch at which it counts as pruned for the sampler; 0 for none."""


def seen_study(name: str, storage: BaseStorage) -> optuna.Study:
    """Return the study called ``name`` as the sampler is to see it; trials asked of it are those of the storage."""
    return optuna.load_study(study_name=name, storage=cast(BaseStorage, _Seen(storage)))


class _Seen:
    """A storage, with other answers to the one question by which samplers learn."""

    def __init__(self, storage: BaseStorage):
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return all trials in one of ``states``, those set aside as pruned."""
        seen = map(as_seen, self._storage.get_all_trials(study_id, deepcopy=deepcopy))
        return [trial for trial in seen if states is None or trial.state in states]


def as_seen(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as the sampler is to see it."""
    epoch = trial.user_attrs.get(SET_ASIDE, 0)
    if not epoch or trial.state not in (TrialState.RUNNING, TrialState.COMPLETE):
        return trial
    pruned = copy.copy(trial)
    pruned.intermediate_values = {step: loss for step, loss in trial.intermediate_values.items() if step <= epoch}
    pruned.state, pruned.value = TrialState.PRUNED, pruned.intermediate_values.get(epoch)
    return pruned
