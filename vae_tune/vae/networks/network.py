"""The base class of networks: an encoder and a decoder, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """Encoder and decoder of a VAE, for images of one shape (channels, height, width).

    Noise, KL divergence, bound and evaluation belong to the objective, so that a network cannot change what a loss
    means. ``outputs`` is the number of the likelihood's parameters per pixel, all channels together.
    """

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``: (batch, channels, height, width) in [0, 1] to mean and log-variance, (batch, latent_size)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Map ``z``: (batch, latent_size) to the parameters of p(x|z): (batch, outputs, height, width)."""
