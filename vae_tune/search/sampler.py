"""Optuna's samplers, each with a random stream that seed and trial number set, proposing no configuration twice.

To add a sampler, add it to :data:`SAMPLERS` and its name to ``vae_tune.config.settings.Sampler``.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from vae_tune.config.compat.optuna import contains, fixed_params, vectorize_tpe
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import Sampler
from vae_tune.config.space import Space
from vae_tune.config.trial_values import MODEL

Key = tuple[Any, ...]
"""A configuration, hashable: of each hyperparameter the index of its value; of a continuous one the value."""

_TRIES = 5
"""Proposals of a sampler before, in a finite space, another configuration is taken."""


@dataclass(frozen=True)
class SamplerKind:
    """A sampler that a search can be asked for."""

    make: Callable[[int, int], BaseSampler]
    """Returns Optuna's sampler, given the seed of the search and the random stream of one proposal."""
    learns_from_all: bool = False
    """Whether it learns from every trial alike, so that the reference must lie in the space."""
    can_resume: bool = True
    """Whether its state follows from the study, rather than from a pickle."""
    of_models: Callable[[int], BaseSampler] | None = None
    """Returns it for a space with conditions, given the random stream; None if it cannot search one."""


SAMPLERS: Mapping[Sampler, SamplerKind] = {
    "tpe": SamplerKind(
        lambda _, stream: TPESampler(seed=stream, constant_liar=True),
        of_models=lambda stream: TPESampler(seed=stream, constant_liar=True, multivariate=True, group=True),
    ),
    "random": SamplerKind(
        lambda _, stream: RandomSampler(seed=stream), of_models=lambda stream: RandomSampler(seed=stream)
    ),
    "qmc": SamplerKind(  # the study holds its place in the sequence; the seed of the search sets its scrambling
        lambda seed, _: QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False), learns_from_all=True
    ),
    "gp": SamplerKind(lambda _, stream: GPSampler(seed=stream, deterministic_objective=False), learns_from_all=True),
    "cmaes": SamplerKind(
        lambda _, stream: CmaEsSampler(seed=stream, consider_pruned_trials=True, warn_independent_sampling=False),
        learns_from_all=True,
        can_resume=False,
    ),
}


vectorize_tpe()


def make_sampler(
    name: Sampler,
    seed: int,
    trial: int,
    space: Space,
    tried: Collection[Key],
    salt: int = 0,
    chosen: Mapping[str, Any] | None = None,
) -> BaseSampler:
    """Return the Optuna sampler for one suggestion.

    Its random stream is a function of the seed, the trial's number and the salt, so that a suggestion depends on these
    and on the history alone, not on whether the search was interrupted before.

    The keys in ``tried`` (see :func:`configuration_key`) are not proposed again. The ``salt`` differs between searches
    that start from other studies' trials; those may have had the same ``seed``. With ``chosen``, that configuration is
    proposed instead.
    """
    stream = (seed * 1_000_003 + trial + salt) & 0xFFFFFFFF
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        kind = SAMPLERS[name]
        sampler: BaseSampler
        sampler = kind.of_models(stream) if space.conditions and kind.of_models else kind.make(seed, stream)
        if chosen is not None:
            sampler = _Given(chosen, RandomSampler(seed=stream))
        return cast(BaseSampler, _NoRepeats(sampler, space, tried, stream))


def refuse_conditions(name: Sampler, space: Space) -> None:
    """Refuse a sampler for a space that it cannot search.

    Raises:
        UsageError: models of the space have options of their own, which the sampler does not support.
    """
    if space.conditions and SAMPLERS[name].of_models is None:
        able = " or ".join(f"--sampler {name}" for name, kind in SAMPLERS.items() if kind.of_models)
        raise UsageError(
            f"--sampler {name} cannot search options that only some models have: "
            f"{', '.join(space.conditions)}.\nTake {able}."
        )


def configuration_key(space: Mapping[str, BaseDistribution], values: Mapping[str, Any]) -> Key:
    """Return a key that is equal for equal configurations; those of another model lack some hyperparameters."""
    return tuple(_index(searched, values[name]) if name in values else None for name, searched in space.items())


def count_configurations(space: Space) -> float:
    """Return how many configurations there are in a space; infinite where a range is continuous."""
    return sum(math.prod(map(_size, part.values())) for part in space.branches)


class _Given(BaseSampler):
    """Proposes a given configuration; what it lacks, another sampler proposes."""

    def __init__(self, values: Mapping[str, Any], other: BaseSampler):
        self._values = values
        self._other = other

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return no space: the configuration does not depend on the history."""
        del study, trial
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the configuration."""
        del study, trial, search_space
        return dict(self._values)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value that the configuration lacks."""
        return self._other.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class _NoRepeats:
    """Does what another sampler does, but repeats no configuration as long as there is a new one.

    A sampler is asked again, which continues its random stream: in a continuous space until it proposes something
    new, in a finite one a few times. After that, the next untried configuration is taken, counted from a random one.
    Where all were tried, the sampler's own proposal repeats one.
    """

    _sampler: BaseSampler
    _space: Space
    _tried: Collection[Key]
    _stream: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        """Return the whole space: a configuration is new as a whole."""
        return dict(self._space.distributions)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, _: Any) -> dict[str, Any]:
        """Return a configuration; of a trial that has some of its values already, with those."""
        fixed = {**fixed_params(trial), **trial.params}
        tries = _TRIES if math.isfinite(count_configurations(self._space)) else len(self._tried) + 1
        first: dict[str, Any] = {}
        for _ in range(tries):
            proposal = self._propose(study, trial, fixed)
            if configuration_key(self._space.distributions, proposal) not in self._tried:
                return proposal
            first = first or proposal
        return self._next_untried(fixed) or first

    def _propose(self, study: optuna.Study, trial: FrozenTrial, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sampler's own proposal, put together as Optuna does."""
        together = self._sampler.infer_relative_search_space(study, trial)
        related = self._sampler.sample_relative(study, trial, together)
        values: dict[str, Any] = {}
        for name, distribution in self._space.distributions.items():
            if not self._space.applies(name, values.get(MODEL, "")):
                continue
            if name in fixed:
                values[name] = fixed[name]
            elif distribution.single():
                values[name] = _value(distribution, 0)
            elif name in related and contains(distribution, related[name]):
                values[name] = related[name]
            else:
                values[name] = self._sampler.sample_independent(study, trial, name, distribution)
        return values

    def _next_untried(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return an untried configuration of a finite space; {} where all were tried, or the space is infinite."""
        parts = [
            {name: searched for name, searched in part.items() if name not in fixed or name == MODEL}
            for part in self._space.branches
            if MODEL not in fixed or MODEL not in part or contains(part[MODEL], fixed[MODEL])
        ]
        if MODEL in fixed:
            parts = [{name: searched for name, searched in part.items() if name != MODEL} for part in parts]
        sizes = [math.prod(map(_size, part.values())) for part in parts]
        if not math.isfinite(total := sum(sizes)):
            return {}
        start = random.Random(self._stream).randrange(int(total))
        for place in range(start, start + min(int(total), len(self._tried) + 1)):
            rest, number = place % int(total), 0
            while rest >= sizes[number]:
                rest, number = rest - int(sizes[number]), number + 1
            values = dict(fixed)
            for name, distribution in parts[number].items():
                rest, index = divmod(rest, int(_size(distribution)))
                values[name] = _value(distribution, index)
            known = self._space.active(values.get(MODEL, ""))
            found = {name: values[name] for name in known if name in values}
            if configuration_key(self._space.distributions, found) not in self._tried:
                return found
        return {}


def _size(distribution: Any) -> float:
    """Return how many values a hyperparameter may have."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.step is None:
        return 1 if distribution.single() else math.inf
    return float(round((distribution.high - distribution.low) / distribution.step) + 1)


def _value(distribution: Any, index: int) -> Any:
    """Return one of the values of a hyperparameter that has finitely many."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[index]
    if index == 0:
        return distribution.low
    return min(distribution.low + index * distribution.step, distribution.high)  # 0.1 + 2 * 0.1 > 0.3


def _index(distribution: Any, value: Any) -> Any:
    """Return which of finitely many values one is, or a continuous one itself."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value) if value in distribution.choices else -1
    return value if distribution.step is None else round((value - distribution.low) / distribution.step)
