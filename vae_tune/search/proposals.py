"""The proposals of a search: the sampler asked for the next configuration, as a function of seed and record."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from vae_tune.config.compat.optuna import suggest
from vae_tune.config.names import REFERENCE_TRIAL
from vae_tune.config.settings import Sampler, TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import MODEL
from vae_tune.search.initial_trials import InitialTrials, reference_values
from vae_tune.search.record_protocol import Record
from vae_tune.search.sampler import configuration_key, make_sampler


class Proposals:
    """Asks the sampler for configurations, none of which was tried before."""

    def __init__(self, record: Record, space: Space, base: TrialConfig, sampler: Sampler):
        """Continue the proposals of a study; ``base`` is the reference configuration."""
        self._record = record
        self._space = space
        self._base = base
        self._sampler = sampler
        others = [trial.params for trial in record.warm_start_trials]
        tried = [*others, *(row.values for row in record.rows)]
        self._tried = {self._key(values) for values in tried if self._is_complete(values)}
        self._salt = zlib.crc32(json.dumps(others).encode()) if others else 0
        if not record.study.get_trials(deepcopy=False):
            InitialTrials().enqueue(record.study, space, base)
        self._given = len(record.rows) + len(record.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    @property
    def has_given(self) -> bool:
        """Whether the next trial is given: the reference, or a point to try first."""
        return len(self._record.rows) < self._given

    def propose(self, chosen: Mapping[str, Any] | None = None) -> int:
        """Start a new trial and return its number; the first trial is the reference.

        It gets the values in ``chosen``, if there are any and it has none yet; by default, the sampler proposes them.
        The sampler learns from the reference only where it lies in the space.
        """
        number = len(self._record.rows)
        self._use_sampler(number, chosen)
        in_space = number != REFERENCE_TRIAL or self._space.contains(self._base)
        known = self._space.distributions if in_space and not self._space.conditions else {}
        trial = self._record.sampler_view.ask(dict(known))
        if in_space and self._space.conditions:
            self._suggest(trial)
        self._start(trial)
        return trial.number

    def complete(self, number: int) -> None:
        """Propose the hyperparameters that a crash in the middle of a proposal left out; the others stay."""
        if self._is_complete(self._record.row(number).values):
            return
        trial = self._record.optuna_trial(number)
        if number != REFERENCE_TRIAL or self._space.contains(self._base):
            self._use_sampler(number)
            self._suggest(trial)
        self._start(trial)

    def _suggest(self, trial: optuna.Trial) -> None:
        """Give a trial what it lacks: its model first, where models are searched, then what this model has."""
        searched = self._space.distributions
        model = suggest(trial, MODEL, searched[MODEL]) if self._space.conditions else self._base.model
        for name, distribution in self._space.active(model).items():
            suggest(trial, name, distribution)

    def _start(self, trial: optuna.Trial) -> None:
        is_reference = trial.number == REFERENCE_TRIAL
        values = reference_values(self._space, self._base) if is_reference else trial.params
        self._record.start(trial, values)
        self._tried.add(self._key(values))

    def _use_sampler(self, number: int, chosen: Mapping[str, Any] | None = None) -> None:
        self._record.sampler_view.sampler = make_sampler(
            self._sampler, self._base.seed, number, self._space, self._tried, self._salt, chosen
        )

    def _is_complete(self, values: Mapping[str, Any]) -> bool:
        return self._space.is_complete(values)

    def _key(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return configuration_key(self._space.distributions, values)
