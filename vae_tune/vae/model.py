"""The variational autoencoder of Kingma & Welling (arXiv:1312.6114) in the form this project started from.

Legend: ``batch`` images, ``pixels`` per image, ``hidden_width`` units, ``latent_size`` latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_tune.config.settings import Activation, TrialConfig, UsageError

_CHUNK = 4096
"""Images that :meth:`VAE.encode` takes at once."""


def _identity(x: Tensor) -> Tensor:
    """Return ``x``: a function with a name, as ``torch.save`` needs."""
    return x


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _identity,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "elu": F.elu,
}


class Encoder(nn.Module):
    """q(z|x): hidden layers, then one linear head for the mean and one for the log-variance."""

    def __init__(
        self,
        pixels: int,
        hidden_width: int,
        latent_size: int,
        activation: Activation = "linear",
        hidden_layers: int = 1,
    ):
        super().__init__()
        self.hidden = _layers(pixels, hidden_width, hidden_layers)
        self.mean = nn.Linear(hidden_width, latent_size)
        self.log_variance = nn.Linear(hidden_width, latent_size)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``: (batch, pixels) in [0, 1] to mean and log-variance: (batch, latent_size) each."""
        if self._is_less_as_one_layer(*x.shape):
            mean, log_variance = self._as_one_layer(x).chunk(2, dim=-1)
            return mean, log_variance
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.mean(x), self.log_variance(x)

    def _is_less_as_one_layer(self, rows: int, pixels: int) -> bool:
        """Whether the layers are linear and their product, taken once for all rows, saves multiplications."""
        if self.activation is not _ACTIVATIONS["linear"] or len(self.hidden) > 1:
            return False
        latents, width = self.mean.weight.shape
        return 2 * latents * pixels * (width + rows) < rows * width * (pixels + 2 * latents)

    def _as_one_layer(self, x: Tensor) -> Tensor:
        """U (W x + b) + c as (U W) x + (U b + c), with both heads in U; U W is taken in the weights' own precision.

        It is taken as (W'U')': so its sums do not depend on the number of threads.
        """
        (hidden,) = self.hidden
        assert isinstance(hidden, nn.Linear)
        with torch.autocast(x.device.type, enabled=False):
            heads = torch.cat([self.mean.weight, self.log_variance.weight])
            bias = torch.cat([self.mean.bias, self.log_variance.bias])
            weight, bias = (hidden.weight.t() @ heads.t()).t(), torch.addmv(bias, heads, hidden.bias)
        return F.linear(x, weight, bias)


class Decoder(nn.Module):
    """p(x|z): hidden layers, then one logit per pixel."""

    def __init__(
        self,
        latent_size: int,
        hidden_width: int,
        pixels: int,
        activation: Activation = "relu",
        hidden_layers: int = 1,
    ):
        super().__init__()
        self.hidden = _layers(latent_size, hidden_width, hidden_layers)
        self.logits = nn.Linear(hidden_width, pixels)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, z: Tensor) -> Tensor:
        """Map ``z``: (batch, latent_size) to logits: (batch, pixels)."""
        for layer in self.hidden:
            z = self.activation(layer(z))
        logits: Tensor = self.logits(z)
        return logits

    def probabilities(self, z: Tensor) -> Tensor:
        """Map ``z``: (batch, latent_size) to the pixels' means in [0, 1]: (batch, pixels)."""
        return torch.sigmoid(self(z))


class Output(NamedTuple):
    """What one forward pass yields, all that the loss needs."""

    logits: Tensor
    """(batch, pixels)"""
    mean: Tensor
    """(batch, latent_size)"""
    log_variance: Tensor
    """(batch, latent_size)"""


class VAE(nn.Module):
    """Encoder and decoder, joined by the reparameterisation.

    Training takes the two parts, ``encoder`` and ``decoder``, by themselves; :meth:`encode` is for whoever uses it.
    """

    def __init__(
        self,
        pixels: int,
        hidden_width: int,
        latent_size: int,
        encoder_activation: Activation = "linear",
        decoder_activation: Activation = "relu",
        hidden_layers: int = 1,
    ):
        super().__init__()
        self.pixels = pixels
        self.latent_size = latent_size
        self.encoder = Encoder(pixels, hidden_width, latent_size, encoder_activation, hidden_layers)
        self.decoder = Decoder(latent_size, hidden_width, pixels, decoder_activation, hidden_layers)

    @staticmethod
    def reparameterize(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return ``z = mean + exp(log_variance / 2) * noise`` (section 2.4 of the paper), all (batch, latent_size).

        With ``noise`` ~ N(0, 1), z ~ N(mean, exp(log_variance)), and z is differentiable in both.
        """
        return mean + torch.exp(0.5 * log_variance) * noise

    @torch.no_grad()
    def encode(self, images: npt.ArrayLike | Tensor) -> Tensor:
        """Return the latent means of images: (n, latent_size), on the device of the weights, without gradient.

        Args:
            images: (n, height, width) or (n, channels, height, width), as an array or a tensor: uint8 in 0..255, or
                floating point in 0..1. They are taken as they are: a model that was trained on black and white images
                expects such.

        Raises:
            UsageError: the shape, the type or the range does not fit the model.
        """
        try:
            pictures = images if isinstance(images, Tensor) else torch.from_numpy(_native(images))
        except (TypeError, ValueError) as error:
            raise UsageError(f"images must be one array of numbers, but got {type(images).__name__}.") from error
        shape = tuple(pictures.shape)
        if len(shape) not in (3, 4) or math.prod(shape[1:]) != self.pixels:
            known = f"(n, height, width) or (n, channels, height, width) of {self.pixels} pixels an image"
            raise UsageError(f"images must be {known}, but got the shape {shape}.")
        if pictures.dtype not in (torch.uint8, torch.bool) and not pictures.is_floating_point():
            raise UsageError(f"images must be uint8 in 0..255 or floats in 0..1, but got {pictures.dtype}.")
        if pictures.is_floating_point() and not bool(((pictures >= 0) & (pictures <= 1)).all()):
            low, high = (float(limit) for limit in pictures.aminmax())
            raise UsageError(f"images of floating point must lie in 0..1, but got {low:g} to {high:g}: divide by 255?")
        weight = self.encoder.mean.weight
        means = [torch.empty(0, self.latent_size, dtype=weight.dtype, device=weight.device)]
        for some in pictures.flatten(start_dim=1).split(_CHUNK):
            x = some.to(weight) / (255 if some.dtype == torch.uint8 else 1)
            means.append(self.encoder(x)[0])
        return torch.cat(means)

    def forward(self, x: Tensor, noise: Tensor) -> Output:
        """Encode ``x``: (batch, pixels) in [0, 1], sample with ``noise``: (batch, latent_size), decode."""
        mean, log_variance = self.encoder(x)
        return Output(self.decoder(self.reparameterize(mean, log_variance, noise)), mean, log_variance)


def build(config: TrialConfig, pixels: int) -> VAE:
    """Return the VAE that ``config`` describes for images of ``pixels`` pixels, initialised from its seed.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # of the CPU, not those of all GPUs
        return VAE(
            pixels,
            config.hidden_width,
            config.latent_size,
            config.encoder_activation,
            config.decoder_activation,
            config.hidden_layers,
        )


def _native(images: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return images as a new array in this machine's byte order: torch knows no other."""
    array = np.array(images)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _layers(size: int, width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(size if layer == 0 else width, width) for layer in range(count))
