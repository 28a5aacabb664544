"""The record of a study as a search needs it: what the lifecycle of the trials and the proposals read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial

from vae_tune.record.basis import Basis
from vae_tune.record.trials import TrialRow


class Record(Protocol):
    """The part of :class:`vae_tune.record.study_record.StudyRecord`, which describes it, that a search uses."""

    folder: Path
    study: optuna.Study
    sampler_view: optuna.Study
    warm_start_trials: Sequence[FrozenTrial]

    @property
    def rows(self) -> Sequence[TrialRow]: ...  # noqa: D102
    def row(self, number: int) -> TrialRow: ...  # noqa: D102
    def optuna_trial(self, number: int) -> optuna.Trial: ...  # noqa: D102
    def transaction(self) -> AbstractContextManager[None]: ...  # noqa: D102
    def start(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None: ...  # noqa: D102
    def report(self, number: int, result: Mapping[str, Any]) -> None: ...  # noqa: D102
    def set_aside(self, number: int, epoch: int) -> None: ...  # noqa: D102
    def decided(self, number: int, epoch: int, basis: Basis) -> None: ...  # noqa: D102
    def audit(self, number: int, epoch: int) -> None: ...  # noqa: D102
    def finish(self, number: int, state: str, reason: str = "", diverged: bool = False) -> None: ...  # noqa: D102
