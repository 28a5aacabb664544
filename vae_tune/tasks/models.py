"""The models of a search or a training, and their options."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vae_tune.config.errors import UsageError
from vae_tune.config.hyperparameters import MODEL
from vae_tune.config.model_options import FIELDS_OF, PREFIX, OptionValues
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.networks.registry import read_options, read_signature

if TYPE_CHECKING:
    from vae_tune.config.space import Space


def models_of(config: TrialConfig, space: Space | None = None) -> list[str]:
    """Return the models of a search whose reference is ``config``, that of the reference first; else its own one."""
    if space is None:
        return [config.model]
    searched: Any = space.distributions.get(MODEL)
    first = str(space.fixed.get(MODEL, config.model))
    return list(dict.fromkeys([first, *(searched.choices if searched else ())]))


def with_options(config: TrialConfig, space: Space | None = None) -> TrialConfig:
    """Return ``config`` with the options of its model typed, and the searched ones set, by default to their defaults.

    Raises:
        UsageError: a model is unknown, has no such option, or a value does not fit it.
    """
    models = {model: read_signature(model) for model in models_of(config, space)}
    options = dict(read_options(config, models))
    own = next(iter(models))
    for name in space.active(own) if space else ():
        if name.startswith(PREFIX):
            option = models[own][name.removeprefix(PREFIX)]
            options.setdefault(option.name, option.default)
    for model, fields in FIELDS_OF.items():
        for name in fields if model not in models else ():
            if getattr(config, name) != getattr(TrialConfig(), name):
                raise UsageError(f"{name} must be left out for {' and '.join(models)}: it is an option of {model}.")
    return replace(config, model_options=OptionValues(options))
