"""Try a model on two images before anything is created: built, encoded, decoded, differentiated, evaluated.

A model that would train, but whose numbers would mean something else (an image's loss that depends on the other images
of its batch, noise of its own in an evaluation, weights that never move), is refused in words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.likelihoods.gaussian import Gaussian
from vae_tune.vae.model import VAE, Shape, build_model
from vae_tune.vae.networks.code import where
from vae_tune.vae.networks.registry import admitted_code
from vae_tune.vae.objective import kl

_SEED = 0
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
"""Rounding between two passes over an image in batches of the same size."""


def probe(config: TrialConfig, shape: Shape) -> int:
    """Try the model of ``config`` on two made-up images of ``shape`` and return the number of its parameters.

    The global random state is left as it was.

    Raises:
        UsageError: the model cannot be trained, or its numbers would not be those of a VAE; says why.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        with _errors_of(config, "build"):
            model = build_model(config, shape)
        _check_parameters(model, config)
        _check_training(model, config)
        _check_evaluation(model, config)
        return _count(model)


def count_parameters(config: TrialConfig, shape: Shape) -> int:
    """Return the number of parameters of the model of ``config``; raise UsageError if it cannot be built."""
    with _errors_of(config, "build"):
        return _count(build_model(config, shape))


def _count(model: VAE) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def refuse(config: TrialConfig, why: str) -> UsageError:
    """Return the error that refuses the model of ``config``."""
    return UsageError(f"model {config.model} {why}.")


@contextmanager
def _errors_of(config: TrialConfig, doing: str) -> Iterator[None]:
    """Turn an error of a model's own code into a refusal that names its line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        code = admitted_code(config.model)
        words = where(error, code) if code else f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise refuse(config, f"fails to {doing}: {words.rstrip('.')}") from error


def _check_parameters(model: VAE, config: TrialConfig) -> None:
    """Refuse parameters that cannot be one flat tensor, which the optimizer updates."""
    network: nn.Module = model.network
    named = list(network.named_parameters(remove_duplicate=False))
    if not named:
        raise refuse(config, "has no parameters to train")
    for name, parameter in named:
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise refuse(config, f"has the parameter {name} without a size: lazy modules are not supported")
        if parameter.dtype != torch.float32:
            raise refuse(config, f"has the parameter {name} of {parameter.dtype}, but must have float32")
        if not parameter.requires_grad:
            raise refuse(config, f"has the frozen parameter {name}: make it a buffer")
    seen: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        place = tensor.untyped_storage().data_ptr()
        if tensor.numel() and place in seen:
            raise refuse(config, f"shares one tensor between {seen[place]} and {name}: give each its own")
        seen[place] = name


def _check_training(model: VAE, config: TrialConfig) -> None:
    """Refuse outputs of another form, values that are not finite, and parameters that nothing trains."""
    network = model.network.train()
    x, noise = _images(model, 2), torch.randn(2, model.latent_size)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    unsaved = {name: tensor.clone() for name, tensor in network.named_buffers() if name not in state}
    mean, log_variance = _encoded(model, config, x)
    z = VAE.reparameterize(mean, log_variance, noise)
    parameters = _decoded(model, config, z)
    loss = (model.likelihood.nats(parameters, x) + kl(mean, log_variance)).mean()
    named = dict(model.named_parameters())
    with _errors_of(config, "differentiate"):
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    without = [name.removeprefix("network.") for name, found in zip(named, gradients, strict=True) if found is None]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise refuse(
            config, f"has the parameter {without[0]}{more} without a gradient: the loss does not depend on it"
        )
    for name, found in zip(named, gradients, strict=True):
        if found is not None and not bool(found.isfinite().all()):
            raise refuse(config, f"gives a gradient of {name.removeprefix('network.')} that is not finite")
    for name, tensor in network.named_buffers():
        if name in unsaved and not torch.equal(tensor, unsaved[name]):
            raise refuse(config, f"changes the buffer {name}, which is not persistent: a resume would lose it")


def _check_evaluation(model: VAE, config: TrialConfig) -> None:
    """Refuse outputs in eval mode that are not a function of the image alone."""
    network = model.network.eval()
    first, other, third = _images(model, 3)
    pair, changed = torch.stack([first, other]), torch.stack([first, third])

    def passed(x: Tensor) -> dict[str, Tensor]:
        mean, log_variance = _encoded(model, config, x)
        z = torch.cat([mean[:1], mean[:1] + (x[1:].flatten(1).mean() + 1)])
        return {"mean": mean, "log_variance": log_variance, "decode": _decoded(model, config, z)}

    with torch.no_grad():
        before = _random_states()
        found, again = passed(pair), passed(pair)
        if _random_states() != before:
            raise refuse(
                config, "draws random numbers of its own in eval mode: encode must return mean and log-variance"
            )
        for name in found:
            if not torch.equal(found[name], again[name]):
                raise refuse(config, f"gives another {name} for the same images in eval mode, from call to call")
        beside = passed(changed)
        for name, values in found.items():
            if not torch.allclose(values[0], beside[name][0], rtol=_RELATIVE, atol=_ABSOLUTE):
                raise refuse(config, f"gives an image another {name} in eval mode beside other images of its batch")
        _check_range(model, config)
    network.train()


def _check_range(model: VAE, config: TrialConfig) -> None:
    """Refuse a decoder that ends in a sigmoid where the likelihood takes logits, or means and log-scales.

    Such a model trains, but its logits between 0 and 1 leave each pixel near gray. A Gaussian's mean may be bounded.
    """
    if isinstance(model.likelihood, Gaussian):
        return
    far = 100 * torch.randn(2, model.latent_size, generator=torch.Generator().manual_seed(_SEED))
    with _errors_of(config, "decode two latent codes"):
        low, high = model.network.decode(far).aminmax()
    if 0 <= low < high <= 1:
        raise refuse(
            config,
            "decodes to values between 0 and 1 only, but must return the parameters of the likelihood, which are\n"
            "unbounded (of bernoulli the logits): leave out the sigmoid at the end of decode",
        )


def _encoded(model: VAE, config: TrialConfig, x: Tensor) -> tuple[Tensor, Tensor]:
    with _errors_of(config, "encode two images"):
        found: Any = model.network.encode(x)
    if not isinstance(found, tuple | list) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
        given = f"{len(found)} values" if isinstance(found, tuple | list) else type(found).__name__
        raise refuse(
            config,
            f"must return mean and log-variance from encode, but returns {given}.\n"
            "Losses of its own, quantised codes, hierarchies and other posteriors are not supported",
        )
    for name, part in zip(("mean", "log_variance"), found, strict=True):
        _check_tensor(config, f"encode's {name}", part, (len(x), model.latent_size))
    return found[0], found[1]


def _decoded(model: VAE, config: TrialConfig, z: Tensor) -> Tensor:
    with _errors_of(config, "decode two latent codes"):
        found = model.network.decode(z)
    outputs = model.likelihood.outputs(model.shape[0])
    if not isinstance(found, Tensor):
        raise refuse(config, f"must return one tensor from decode, but returns {type(found).__name__}")
    _check_tensor(config, "decode's result", found, (len(z), outputs, *model.shape[1:]))
    return found


def _check_tensor(config: TrialConfig, what: str, found: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(found.shape) != shape:
        raise refuse(config, f"gives {what} the shape {tuple(found.shape)}, but it must be {shape}")
    if not found.is_floating_point():
        raise refuse(config, f"gives {what} as {found.dtype}, but it must be floating point")
    if not bool(found.isfinite().all()):
        raise refuse(config, f"gives {what} values that are not finite")


def _images(model: VAE, count: int) -> Tensor:
    return torch.rand(count, *model.shape, generator=torch.Generator().manual_seed(_SEED))


def _random_states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state(legacy=False))
