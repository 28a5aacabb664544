"""Hyperparameters by name: the fields of a trial's configuration, and the options of its model as ``model.NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vae_tune.config.model_options import PREFIX, OptionValues
from vae_tune.config.settings import TrialConfig

MODEL = "model"


def with_values(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """Return ``config`` with these hyperparameters in place of its own; raise UsageError if it refuses one."""
    options = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
    fields = {name: value for name, value in values.items() if not name.startswith(PREFIX)}
    if options:
        fields["model_options"] = OptionValues({**config.model_options, **options})
    return replace(config, **fields)


def value_of(config: TrialConfig, name: str) -> Any:
    """Return the value of a hyperparameter; None where it is an option that the configuration leaves to its model."""
    if name.startswith(PREFIX):
        return config.model_options.get(name.removeprefix(PREFIX))
    return getattr(config, name)
