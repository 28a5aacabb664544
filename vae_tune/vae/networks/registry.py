"""The models by name: the built-in ones, and the classes of users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_tune.config.errors import UsageError
from vae_tune.config.message_hints import did_you_mean
from vae_tune.config.model_options import FIELDS_OF, OptionValues, Signature
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.networks.signature import signature_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BuiltIn:
    """A network that comes with the package; its module is imported when it is needed."""

    module: str
    name: str
    """Of the class. Its constructor takes (shape, outputs, latent_size, *, OPTIONS), or (shape, outputs, config) where
    :data:`vae_tune.config.model_options.FIELDS_OF` names its hyperparameters."""


BUILT_IN: Mapping[str, BuiltIn] = {
    "mlp": BuiltIn("vae_tune.vae.networks.mlp", "MLP"),
}
"""Every built-in model by the name that ``--model`` takes."""


def network_class(model: str) -> type[nn.Module]:
    """Return the class of a model; raise UsageError if there is none of that name."""
    if model in BUILT_IN:
        found: type[nn.Module] = getattr(import_module(BUILT_IN[model].module), BUILT_IN[model].name)
        return found
    known = f"{', '.join(BUILT_IN)}, FILE.py:CLASS or MODULE:CLASS"
    raise UsageError(f"model must be {known}, but got {model!r}.{did_you_mean(model, BUILT_IN)}")


def read_signature(model: str) -> Signature:
    """Return the options of a model by name, without those that are fields of a trial's configuration."""
    return {} if model in FIELDS_OF else signature_of(network_class(model), model)


def build_network(config: TrialConfig, shape: tuple[int, int, int], outputs: int) -> Any:
    """Return a network for images of ``shape`` and so many likelihood parameters per pixel.

    Options of ``config`` that its model lacks are those of the other models of a search: they are left out.
    """
    cls = network_class(config.model)
    if config.model in FIELDS_OF:
        return cls(shape, outputs, config)
    known = read_signature(config.model)
    options = {name: known[name].read(value) for name, value in config.model_options.items() if name in known}
    return cls(shape, outputs, config.latent_size, **options)


def read_options(config: TrialConfig, models: Mapping[str, Signature]) -> OptionValues:
    """Return the options of ``config`` with the types that the signatures of ``models`` give them.

    Raises:
        UsageError: no model has such an option, or a value does not fit it.
    """
    values = {}
    for name, value in config.model_options.items():
        having = [signature[name] for signature in models.values() if name in signature]
        if not having:
            known = list(dict.fromkeys(option for signature in models.values() for option in signature))
            offer = f"choose from {', '.join(known)}" if known else "there are none"
            meant = did_you_mean(name, known)
            raise UsageError(f"model_options: {name!r} is no option of {' or '.join(models)}; {offer}.{meant}")
        for option in having:
            try:
                values[name] = option.read(value)
            except ValueError as error:
                raise UsageError(f"model_options: {name} {error}.") from error
    return OptionValues(values)
