"""Configurations as points of a unit cube, for models of the loss over a search space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution

from vae_tune.config.space import Space
from vae_tune.config.trial_values import MODEL

Array = npt.NDArray[np.float64]
_MISSING = 0.5
"""The place of a number that a trial's model does not have; of a choice it is :data:`_NO_CHOICE`."""
_NO_CHOICE = -1.0


class UnitCube:
    """A space with d hyperparameters as points (n, d): a number in 0..1 on its own scale, a choice by its index.

    Each of the values of a stepped range has an equal share of 0..1, on a logarithmic scale by its neighborhood. A
    reference outside of the space may lie outside of 0..1.
    """

    def __init__(self, space: Space):
        self._space = space
        self._searched: list[Any] = list(space.distributions.values())
        self.choices = np.array([isinstance(one, CategoricalDistribution) for one in self._searched])
        """(d,) Whether a hyperparameter is a choice."""

    def place(self, values: Mapping[str, Any]) -> Array:
        """Return a configuration as a point: (d,)."""
        return np.array([self._cell(name, values.get(name)) for name in self._space.distributions])

    def values(self, place: Sequence[float] | Array) -> dict[str, Any]:
        """Return the configuration at a point that :meth:`snap` or :meth:`place` returned."""
        cells = dict(zip(self._space.distributions, place, strict=True))
        model = ""
        if self._space.conditions:
            model = self._value(MODEL, cells[MODEL])
        return {name: self._value(name, cells[name]) for name in self._space.active(model)}

    def snap(self, uniform: Array) -> Array:
        """Return the configurations nearest to points (n, d) in 0..1, of which a choice gets equal shares."""
        columns = [self._snap(searched, cells) for searched, cells in zip(self._searched, uniform.T, strict=True)]
        places = np.column_stack(columns)
        if self._space.conditions:
            self._leave_out(places)
        return places

    def spread(self, places: Array) -> Array:
        """Return points (n, d) in 0..1 that :meth:`snap` maps to ``places``: an index in the middle of its share."""
        uniform = np.clip(places, 0.0, 1.0)
        for column in np.flatnonzero(self.choices):
            count = len(self._searched[column].choices)
            uniform[:, column] = (np.maximum(places[:, column], 0.0) + 0.5) / count
        return uniform

    def _leave_out(self, places: Array) -> None:
        """Give hyperparameters that a model does not have their fixed places."""
        names = list(self._space.distributions)
        models = self._searched[names.index(MODEL)].choices
        of_model = places[:, names.index(MODEL)].astype(int)
        for column, name in enumerate(names):
            without = [index for index, model in enumerate(models) if not self._space.applies(name, model)]
            places[np.isin(of_model, without), column] = _NO_CHOICE if self.choices[column] else _MISSING

    def _cell(self, name: str, value: Any) -> float:
        searched: Any = self._space.distributions[name]
        if isinstance(searched, CategoricalDistribution):
            return float(searched.choices.index(value)) if value in searched.choices else _NO_CHOICE
        if value is None:
            return _MISSING
        low, high = _ends(searched)
        if searched.log:
            return (math.log(value) - low) / (high - low) if value > 0 else 0.0
        return (value - low) / (high - low) if high > low else _MISSING

    def _value(self, name: str, cell: float) -> Any:
        searched: Any = self._space.distributions[name]
        if isinstance(searched, CategoricalDistribution):
            return searched.choices[int(cell)]
        value = float(_numbers(searched, np.array([cell]))[0])
        return int(value) if isinstance(searched.low, int) else value

    def _snap(self, searched: Any, cells: Array) -> Array:
        if isinstance(searched, CategoricalDistribution):
            return np.minimum(np.floor(cells * len(searched.choices)), len(searched.choices) - 1.0)
        low, high = _ends(searched)
        if high <= low:
            return np.full(len(cells), _MISSING)
        numbers = _numbers(searched, cells)
        return np.asarray(((np.log(numbers) if searched.log else numbers) - low) / (high - low))


def _ends(searched: Any) -> tuple[float, float]:
    """Return the ends of a range on its own scale, half a step beyond the lowest and the highest value."""
    half = (searched.step or 0) / 2
    low, high = searched.low - half, searched.high + half
    return (math.log(low), math.log(high)) if searched.log else (float(low), float(high))


def _numbers(searched: Any, cells: Array) -> Array:
    """Return the values of a range at places in 0..1."""
    low, high = _ends(searched)
    numbers = low + cells * (high - low)
    if searched.log:
        numbers = np.exp(numbers)
    if searched.step:
        numbers = searched.low + np.round((numbers - searched.low) / searched.step) * searched.step
    return np.clip(numbers, searched.low, searched.high)
