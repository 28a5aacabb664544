"""Private parts of Optuna, checked with Optuna 5.0."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

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


def vectorize_fanova() -> None:
    """Replace fANOVA's walks through its trees, in Python: most of what the importance of many trials costs."""
    from optuna.importance._fanova import _fanova

    setattr(_fanova, "_FanovaTree", _Leaves)  # noqa: B010  # it exports no such name, says mypy


class _Leaves:
    """A tree of fANOVA as the boxes of its leaves, with the two numbers that Optuna asks of its ``_FanovaTree``.

    They are sums over the leaves, taken in another order than Optuna's: equal to within rounding.
    """

    def __init__(self, tree: Any, search_spaces: npt.NDArray[np.float64]):
        """Take a tree of scikit-learn and the ends of each input's range: (inputs, 2)."""
        self._edges = [
            np.unique([*ends, *tree.threshold[tree.feature == place]]) for place, ends in enumerate(search_spaces)
        ]
        boxes = np.empty((tree.node_count, *search_spaces.shape))
        boxes[0] = search_spaces
        nodes = zip(tree.feature, tree.threshold, tree.children_left, tree.children_right, strict=True)
        for node, (split, threshold, left, right) in enumerate(nodes):  # a node comes before its children
            if split >= 0:
                boxes[[left, right]] = boxes[node]
                boxes[left, split, 1] = boxes[right, split, 0] = threshold
        is_leaf = tree.feature < 0
        self._boxes, self._values = boxes[is_leaf], tree.value[is_leaf].reshape(is_leaf.sum(), -1)[:, 0]
        self._sides = np.diff(self._boxes)[:, :, 0]

    @property
    def variance(self) -> float:
        """The variance of the tree's prediction over the whole space."""
        return _variance(self._values, self._sides.prod(axis=1))

    def get_marginal_variance(self, features: npt.NDArray[np.int64]) -> float:
        """Return the variance of the prediction over some inputs, averaged over the others."""
        is_inside, sizes = np.ones((1, len(self._values)), bool), np.ones(1)
        for place in features:  # the cells between all splits of these inputs
            edges, (low, high) = self._edges[place], self._boxes[:, place].T
            middles = (edges[1:] + edges[:-1])[:, None] / 2
            is_inside = (is_inside[:, None] & (low < middles) & (middles <= high)).reshape(-1, len(low))
            sizes = np.outer(sizes, np.diff(edges)).ravel()
        weights = is_inside * np.delete(self._sides, features, axis=1).prod(axis=1)
        totals = weights.sum(axis=1)
        return _variance(weights @ self._values / totals, totals * sizes)


def _variance(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    return float(np.average((values - np.average(values, weights=weights)) ** 2, weights=weights))


def share_distributions() -> None:
    """Let equal distributions that are read from a journal be one object, and skip those of trials that are alike.

    Each trial would hold its own, and TPE compares those of all trials for each proposal.
    """
    from optuna.search_space import intersection
    from optuna.storages.journal import _storage

    _storage.json_to_distribution = cache(json_to_distribution)  # type: ignore[attr-defined]
    intersection._calculate = partial(_calculate, intersection._calculate)


def _calculate(calculate: Callable[..., Any], trials: list[FrozenTrial], include_pruned: bool, *known: Any) -> Any:
    """Return what ``calculate`` does without the trials that cannot change it: those with the space of a later one."""
    if not include_pruned:
        return calculate(trials, include_pruned, *known)
    kept, last = [], None
    for trial in reversed(trials):
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            if trial.distributions == last:
                continue
            last = trial.distributions
        kept.append(trial)
    return calculate(kept[::-1], include_pruned, *known)
