"""The search space for the next search, from the results of a study."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.analysis.hyperparameters import Axis, axes, comparable
from vae_tune.analysis.range_edges import best_trials, range_edges
from vae_tune.analysis.study import Study, complete_trials, parts_by_model
from vae_tune.config.errors import UsageError
from vae_tune.config.names import EPOCH, HIGH, LOW
from vae_tune.config.space import Space
from vae_tune.config.trial_values import MODEL, value_of, with_values

_MARGIN = 0.1  # of a range, kept on both sides of the best trials
_BEYOND = 0.25  # of a range, added past an end that was too narrow
_LEAST = 0.4  # of a range, kept at least: a few trials may lie close together by chance
_UNTRIED = 3  # trials: a choice with fewer stays


def next_space(study: Study) -> Space | None:
    """Return the space for a next search: narrowed to where the best trials are, widened where a range ends too soon.

    A range keeps the best trials (see :func:`vae_tune.analysis.range_edges.best_trials`) with a tenth of its length on
    both sides, and at least four tenths of its length. Where the trials are compared before the last epoch, it keeps
    the better half of the complete trials too. A range grows by a quarter past an end where
    :func:`vae_tune.analysis.range_edges.range_edges` finds it too narrow. All lengths are on the range's own scale. A
    choice stays if a best trial has it or fewer than 3 trials tried it. Ranges with a step stay as they are.

    Returns:
        None where fewer than 10 trials can be compared. What only some models have is judged by their trials alone,
        and stays as it is where these are too few.
    """
    if study.space.conditions:
        return _of_models(study)
    top = best_trials(study)
    if top.empty:
        return None
    if top[EPOCH].iloc[0] < study.max_epochs:  # early losses may favor others than the last ones do
        whole = complete_trials(study)
        losses = study.losses(whole)
        good = whole[losses <= losses.median()]
        top = pd.concat([top, good[list(study.space.distributions)]])
    narrow = {edge.hyperparameter: edge.edge for edge in range_edges(study)}
    searched: dict[str, BaseDistribution] = {}
    fixed = dict(study.space.fixed)
    compared = comparable(study)
    for name, axis in axes(study).items():
        if axis.scale == "category":
            tried, best = compared[name].value_counts(), set(top[name])
            choices = [value for value in axis.choices if value in best or tried.get(value, 0) < _UNTRIED]
            if len(choices) > 1:
                searched[name] = CategoricalDistribution(choices)
            else:
                fixed[name] = choices[0]
        else:
            searched[name] = _range(study, axis, top[name].to_numpy(np.float64), narrow[name])
    return Space(searched, fixed) if searched else study.space


def _of_models(study: Study) -> Space | None:
    """Return the next space of a study of models with hyperparameters of their own."""
    parts, old = parts_by_model(study), study.space
    shared = next_space(parts.pop(""))
    if shared is None:
        return None
    chosen: Any = shared.distributions.get(MODEL, CategoricalDistribution([shared.fixed.get(MODEL, "")]))
    searched, fixed = dict(shared.distributions), dict(shared.fixed)
    for name, models in old.conditions.items():
        left = [model for model in models if model in chosen.choices]
        if not left:
            continue
        found = next_space(parts[left[0]]) or parts[left[0]].space
        if name in old.fixed or name in found.fixed:
            fixed[name] = old.fixed.get(name, found.fixed.get(name))
        else:
            searched[name] = found.distributions[name]
    fixed |= {name: value for name, value in old.fixed.items() if name not in old.conditions}
    conditions = {name: models for name, models in old.conditions.items() if name in searched or name in fixed}
    return Space(searched, fixed, conditions if len(chosen.choices) > 1 else {})


def as_yaml(space: Space) -> str:
    """Return a space as the text of a file for ``--space``."""
    entries = dict(space.fixed) | {name: _terms(distribution) for name, distribution in space.distributions.items()}
    return yaml.safe_dump(entries, default_flow_style=None, sort_keys=False, width=math.inf)


def _terms(searched: Any) -> dict[str, Any]:
    """Return a distribution as an entry of a space file."""
    if isinstance(searched, CategoricalDistribution):
        return {"type": "categorical", "choices": list(searched.choices)}
    kind = "int" if isinstance(searched, IntDistribution) else "float"
    terms = {"type": kind, "low": searched.low, "high": searched.high, "log": searched.log, "step": searched.step}
    defaults = {"log": False, "step": 1 if kind == "int" else None}
    return {name: value for name, value in terms.items() if name not in defaults or value != defaults[name]}


def _range(study: Study, axis: Axis, best: Any, edge: str) -> BaseDistribution:
    """Return the next range of a hyperparameter."""
    old: Any = study.space.distributions[axis.name]
    if old.step not in (None, 1):
        return old  # type: ignore[no-any-return]
    places = np.nan_to_num(axis.place(best), neginf=0.0)  # 0 has no place on a log range
    first, last = min(0.0, places.min()), max(1.0, places.max())  # the reference may lie beyond the range
    start, stop = max(first, places.min() - _MARGIN), min(last, places.max() + _MARGIN)
    missing = max(0.0, _LEAST - (stop - start))
    start, stop = max(first, start - missing / 2), min(last, stop + missing / 2)
    start = min(start, -_BEYOND) if edge == LOW else start
    stop = max(stop, 1 + _BEYOND) if edge == HIGH else stop
    low = _bound(study, axis.name, _value(old, start), old.low, math.floor)
    high = _bound(study, axis.name, _value(old, stop), old.high, math.ceil)
    low, high = (low if start < 0 else max(low, old.low)), (high if stop > 1 else min(high, old.high))
    if not low < high:
        return old  # type: ignore[no-any-return]
    if isinstance(old, IntDistribution):
        return IntDistribution(low, high, log=old.log)
    return FloatDistribution(low, high, log=old.log)


def _value(old: Any, place: float) -> float:
    """Return the value at a place of a range, on its own scale."""
    if old.log:
        least = 1 if isinstance(old, IntDistribution) else 0  # Optuna's rule
        return max(least, float(old.low * (old.high / old.low) ** place))
    return float(old.low + (old.high - old.low) * place)


def _bound(study: Study, name: str, value: float, old: Any, away: Any) -> Any:
    """Return ``value`` rounded outwards to two digits; the old bound if no trial may have that value."""
    if value == 0:
        return old
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    if isinstance(old, int):
        rounded: Any = int(away(round(value / max(unit, 1), 6)) * max(unit, 1))
    else:
        rounded = float(f"{away(round(value / unit, 6)) * unit:.2g}")
    try:
        return value_of(with_values(study.reference, {name: rounded}), name)
    except UsageError:
        return old
