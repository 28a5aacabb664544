"""The Gaussian density of pixels in [0, 1], with one learned scale per channel (sigma-VAE, arXiv:2006.13202)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vae_tune.vae.likelihoods.likelihood import DENSITY

_MIN_LOG_SCALE = math.log(1 / 255)
"""With a smaller scale than one level, the density of flat areas could grow without bound."""


class _Bound(torch.autograd.Function):
    """The maximum of a tensor and :data:`_MIN_LOG_SCALE`, with a gradient that leads back from below it.

    The gradient of ``clamp`` is 0 there: a scale that one step has taken below the bound would never grow again. This
    one passes a gradient that raises the scale, and stops one that would lower it further.
    """

    @staticmethod
    def forward(context: Any, log_scale: Tensor) -> Tensor:
        context.save_for_backward(log_scale)
        return log_scale.clamp(min=_MIN_LOG_SCALE)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> Tensor:
        (log_scale,) = context.saved_tensors
        return torch.where((log_scale >= _MIN_LOG_SCALE) | (grad < 0), grad, 0.0)


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
        bounded: Tensor = _Bound.apply(self.log_scale.to(parameters.dtype))
        log_scale = bounded.view(-1, 1, 1)
        deviation = (x - parameters) * torch.exp(-log_scale)
        return (0.5 * deviation.square() + log_scale + 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the means, clipped to [0, 1]."""
        return parameters.clamp(0, 1)
