"""The VAE: a network and a likelihood as a configuration names them, joined by the reparameterization."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.evaluation_batch import evaluation_batch
from vae_tune.vae.likelihoods.likelihood import Likelihood
from vae_tune.vae.likelihoods.registry import build_likelihood
from vae_tune.vae.networks.network import Network
from vae_tune.vae.networks.registry import BUILT_IN, build_network

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""
_IMAGES_AT_ONCE, _PIXELS_AT_ONCE = 4096, 20_000_000
"""Images that a built-in network is given at once without gradients, and their values: 80 MB."""


class Output(NamedTuple):
    """The result of a forward pass, all that the loss needs."""

    parameters: Tensor
    """Of the likelihood: (batch, outputs, height, width)."""
    mean: Tensor
    """(batch, latent_size)"""
    log_variance: Tensor
    """(batch, latent_size)"""


class VAE(nn.Module):
    """A network, the likelihood of its outputs, and the images that both are for.

    The objectives take the parts, ``network`` and ``likelihood``; :meth:`encode` and :meth:`decode` are for users.
    """

    def __init__(
        self, network: Network, likelihood: Likelihood, shape: Shape, latent_size: int, at_once: int = _IMAGES_AT_ONCE
    ):
        """Join the parts; ``at_once`` images are encoded or decoded together where no gradient is needed."""
        super().__init__()
        self.at_once = at_once
        self.network = network
        self.likelihood: Likelihood = likelihood  # a submodule where it has parameters of its own
        self.shape = shape
        self.latent_size = latent_size

    def forward(self, x: Tensor, noise: Tensor) -> Output:
        """Encode ``x``: (batch, channels, height, width) in [0, 1], sample, decode; ``noise`` ~ N(0, 1), as z."""
        mean, log_variance = self.network.encode(x)
        return Output(self.network.decode(self.reparameterize(mean, log_variance, noise)), mean, log_variance)

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
            images: (n, channels, height, width), or of gray ones (n, height, width), as an array or a tensor: uint8 in
                0..255, or floating point in 0..1. They are not binarized: a model that was trained on black and white
                images expects such. A UsageError says if the shape, the type or the range does not fit the model.
        """
        pictures = self._checked(images)
        weight = next(self.parameters())
        means = [torch.empty(0, self.latent_size, dtype=weight.dtype, device=weight.device)]
        for chunk in pictures.reshape(len(pictures), *self.shape).split(self.at_once):
            x = chunk.to(weight) / (255 if chunk.dtype == torch.uint8 else 1)
            means.append(self.network.encode(x)[0])
        return torch.cat(means)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images of latents ``z``: (n, latent_size) as (n, channels, height, width) in [0, 1]."""
        return self.likelihood.mean(self.network.decode(z))

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """Return log p(x|z) in nats, (samples,), of one image ``x``: (1, channels, height, width) for each ``z``."""
        return -self.likelihood.nats(self.network.decode(z), x)

    def _checked(self, images: npt.ArrayLike | Tensor) -> Tensor:
        """Return ``images`` as a tensor, or refuse them."""
        try:
            pictures = images if isinstance(images, Tensor) else torch.from_numpy(_native(images))
        except (TypeError, ValueError) as error:
            raise UsageError(f"images must be one array of numbers, but got {type(images).__name__}.") from error
        shape, (channels, height, width) = tuple(pictures.shape), self.shape
        if shape[1:] != self.shape and not (channels == 1 and shape[1:] == (height, width)):
            gray = f"(n, {height}, {width}) or " if channels == 1 else ""
            raise UsageError(f"images must be {gray}(n, {channels}, {height}, {width}), but got the shape {shape}.")
        if pictures.dtype not in (torch.uint8, torch.bool) and not pictures.is_floating_point():
            raise UsageError(f"images must be uint8 in 0..255 or floats in 0..1, but got {pictures.dtype}.")
        if pictures.is_floating_point() and not bool(((pictures >= 0) & (pictures <= 1)).all()):
            low, high = (float(limit) for limit in pictures.aminmax())
            raise UsageError(f"images of floating point must lie in 0..1, but got {low:g} to {high:g}: divide by 255?")
        return pictures


def build_model(config: TrialConfig, shape: Shape) -> VAE:
    """Return the VAE that ``config`` describes for images of ``shape``, initialized from its seed.

    The global random state is left as it was.
    """
    likelihood = build_likelihood(config, shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # of the CPU, not those of all GPUs
        network = build_network(config, shape, likelihood.outputs(shape[0]))
    return VAE(network, likelihood, shape, config.latent_size, _images_at_once(config, shape))


def _images_at_once(config: TrialConfig, shape: Shape) -> int:
    """Return how many images a network is given without gradients: of a user's class no more than in an evaluation.

    What a user's class keeps of an image is not known; a built-in network keeps little, or takes them in parts.
    """
    if config.model in BUILT_IN:
        return min(_IMAGES_AT_ONCE, max(1, _PIXELS_AT_ONCE // math.prod(shape)))
    return evaluation_batch(config, shape)


def _native(images: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return images as a new array in this machine's byte order, the only one that torch supports."""
    array = np.array(images)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
