"""The models of a search or a training: the code of users' classes, and the options of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vae_tune.config.errors import UsageError
from vae_tune.config.model_options import FIELDS_OF, PREFIX, OptionValues, Signature, signature_to_dict
from vae_tune.config.settings import TrialConfig
from vae_tune.config.trial_values import MODEL, with_values
from vae_tune.vae.networks.code import Code, is_own, read_code
from vae_tune.vae.networks.registry import admit, admitted_code, read_options, read_signature

if TYPE_CHECKING:
    from vae_tune.config.space import Space
    from vae_tune.vae.model import Shape


def models_of(config: TrialConfig, space: Space | None = None) -> list[str]:
    """Return the models of a search whose reference is ``config``, that of the reference first; else its own one."""
    if space is None:
        return [config.model]
    searched: Any = space.distributions.get(MODEL)
    first = str(space.fixed.get(MODEL, config.model))
    return list(dict.fromkeys([first, *(searched.choices if searched else ())]))


def signature_of_named(model: str) -> Signature:
    """Return the options of a model that the user has named; the code of a user's class is read and admitted.

    Raises:
        UsageError: there is no such model, or its code cannot be read or imported.
    """
    if is_own(model):
        admit(read_code(model))
    return read_signature(model)


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


def codes_of(models: Iterable[str]) -> dict[str, Code]:
    """Return the code of each of ``models`` that is a user's class, by its name in the record."""
    return {model: code for model in models if (code := admitted_code(model)) is not None}


def describe_codes(models: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the signature and the hash of each user's class among ``models``, as ``study.json`` holds them."""
    return {
        model: {"sha256": code.digest, "options": signature_to_dict(read_signature(model))}
        for model, code in codes_of(models).items()
    }


def probe_models(base: TrialConfig, space: Space | None, shape: Shape) -> None:
    """Try each model of a search with the reference's options, before anything is created; the MLP needs no trial.

    Raises:
        UsageError: a model cannot be trained, or its numbers would not be those of a VAE.
    """
    if models := [model for model in models_of(base, space) if model not in FIELDS_OF]:
        from vae_tune.vae.probe import probe

        for model in models:
            probe(with_values(base, {MODEL: model}), shape)


def describe_model(config: TrialConfig, shape: Shape, *, tried: bool = False) -> list[str]:
    """Return lines about the model of ``config``: its parameters, its options, and if ``tried``, a probe and its cost.

    Raises:
        UsageError: the model is unknown, cannot be built, or the probe refuses it.
    """
    from vae_tune.vae.image_defaults import with_image_defaults
    from vae_tune.vae.probe import count_parameters, probe

    signature = signature_of_named(config.model)
    config = with_image_defaults(with_options(config), shape[0])
    count = probe(config, shape) if tried else count_parameters(config, shape)
    sizes = " x ".join(map(str, shape))
    lines = [f"{config.model}: {count:,} parameters, for images of {sizes} and {config.latent_size} latents"]
    own = {f"{PREFIX}{option.name}": (option.words, option.default) for option in signature.values()}
    for name in FIELDS_OF.get(config.model, ()):
        own[name] = type(getattr(config, name)).__name__, getattr(config, name)
    width = max(map(len, own), default=0)
    lines += [f"  {name:{width}}  {words}; default {default}" for name, (words, default) in own.items()]
    if not own:
        lines.append("  It has no options of its own.")
    return [*lines, _cost_line(config, shape), "The probe found nothing against it."] if tried else lines


def _cost_line(config: TrialConfig, shape: Shape) -> str:
    """Return what a training step of a model costs, measured."""
    from vae_tune.vae.model_cost import model_cost
    from vae_tune.vae.step_time import step_seconds
    from vae_tune.views.formatting import format_duration

    seconds = step_seconds(config, shape) / config.batch_size
    saved = model_cost(config, shape).saved_bytes
    epoch = f"an epoch of 50,000 images {format_duration(50_000 * seconds)}"
    return (
        f"A training step takes {1e3 * seconds:.2g} ms per image here, on one thread of the CPU, and {epoch}; "
        f"it keeps {saved / 1e3:,.0f} kB per image."
    )
