"""Private parts of Optuna, checked with Optuna 5.0."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

trial_id: Callable[[optuna.Trial | FrozenTrial], int] = attrgetter("_trial_id")
"""Return the number by which a storage knows a trial."""


def study_system_attrs(study: optuna.Study) -> dict[str, Any]:
    """Return the attributes of a study that Optuna keeps apart from those of its users."""
    storage = study._storage
    return storage.get_study_system_attrs(storage.get_study_id_from_name(study.study_name))


def set_study_system_attr(study: optuna.Study, key: str, value: Any) -> None:
    """Set one of the attributes of a study that Optuna keeps apart from those of its users."""
    storage = study._storage
    storage.set_study_system_attr(storage.get_study_id_from_name(study.study_name), key, value)


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the values that ``Study.enqueue_trial`` gave a trial."""
    values: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return values


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Return the value of a hyperparameter that the trial has, or else the one that its sampler proposes."""
    return trial._suggest(name, distribution)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a sampler could propose ``value``."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if distribution.log and value <= 0:  # type: ignore[attr-defined]  # to_internal_repr raises an error on it
        return False
    return distribution._contains(distribution.to_internal_repr(value))


def vectorize_tpe() -> None:
    """Replace TPE's log_ndtr, which calls Python once per number: most of what a suggestion costs."""
    from optuna.samplers._tpe import _truncnorm

    _truncnorm._log_ndtr = _log_ndtr


def _log_ndtr(a: Any) -> Any:
    """Return the logarithm of the normal distribution function, for arrays of any shape."""
    from scipy.special import log_ndtr

    return log_ndtr(a)
