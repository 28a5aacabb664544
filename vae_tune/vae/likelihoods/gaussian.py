"""The Gaussian density of pixels in [0, 1], with one learned scale per channel (sigma-VAE, arXiv:2006.13202)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae_tune.vae.likelihoods.likelihood import DENSITY

_MIN_LOG_SCALE = math.log(1 / 255)
"""With a smaller scale than one level, the density of flat areas could grow without bound."""


class Gaussian(nn.Module):
    """See :class:`vae_tune.vae.likelihoods.likelihood.Likelihood`. Parameters: one mean per pixel and channel."""

    kinds = DENSITY

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((channels,), math.log(0.3)))

    def outputs(self, channels: int) -> int:
        """Return one mean per channel."""
        return channels

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) of each image, (batch,). It may be negative, because p is a density."""
        log_scale = self.log_scale.to(parameters.dtype).clamp(min=_MIN_LOG_SCALE).view(-1, 1, 1)
        deviation = (x - parameters) * torch.exp(-log_scale)
        return (0.5 * deviation.square() + log_scale + 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the means, clipped to [0, 1]."""
        return parameters.clamp(0, 1)
