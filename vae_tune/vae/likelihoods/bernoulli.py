"""The Bernoulli likelihood of black and white pixels. On gray values it is a cross-entropy, not a likelihood."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vae_tune.vae.likelihoods.likelihood import CROSS_ENTROPY

_AT_ONCE = 200_000
"""Pixels that fit into a processor's cache together with everything computed from them."""


class Bernoulli:
    """See :class:`vae_tune.vae.likelihoods.likelihood.Likelihood`. Parameters: one logit per pixel and channel."""

    kinds = CROSS_ENTROPY

    def outputs(self, channels: int) -> int:
        """Return one logit per channel."""
        return channels

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the cross-entropy of each image, (batch,). Logits keep it finite where a sigmoid would round to 1."""
        logits = parameters.flatten(1)
        nats: Tensor = _CrossEntropy.apply(logits, x.flatten(1).expand_as(logits))
        return nats

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the probability of white for each pixel."""
        return torch.sigmoid(parameters)


def cross_entropy(
    logits: Tensor, x: Tensor, gradient: Tensor | None = None, scratch: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each image, (batch,), and the gradient of their sum in ``logits``, (batch, pixels).

    An image's nats are the sum of softplus(l) - x l over its pixels. A GPU, which waits for kernels rather than for
    logarithms, computes exactly that. A CPU computes softplus(l) as max(l, 0) - log p, where p = max(sigmoid(l), 1 -
    sigmoid(l)) is the probability of the likelier value. It takes one logarithm per product of up to 100 such p:
    float32 holds the product, because each p is at least 1/2.

    Args:
        logits: (batch, pixels).
        x: (batch, pixels) in [0, 1].
        gradient: receives the gradient; may be ``logits`` itself.
        scratch: of the same shape; overwritten.
    """
    gradient = torch.empty_like(logits) if gradient is None else gradient
    if logits.device.type != "cpu":
        return _in_few_kernels(logits, x, gradient, torch.empty_like(logits) if scratch is None else scratch), gradient
    pixels = logits.shape[-1]
    rows = max(1, _AT_ONCE // pixels)
    scratch = torch.empty_like(logits[:rows]) if scratch is None else scratch
    factors = _factors(pixels)
    if len(logits) <= rows:
        return _in_cache(logits, x, gradient, scratch, factors), gradient
    parts = zip(logits.split(rows), x.split(rows), gradient.split(rows), strict=True)
    return torch.cat([_in_cache(*part, scratch[: len(part[0])], factors) for part in parts]), gradient


@cache
def _factors(pixels: int) -> int:
    """Return how many probabilities are multiplied before one logarithm is taken."""
    return max(divisor for divisor in range(1, 101) if pixels % divisor == 0)


def _in_cache(logits: Tensor, x: Tensor, gradient: Tensor, scratch: Tensor, factors: int) -> Tensor:
    """Write the gradient of a part of the batch that fits into the cache, and return its nats."""
    rest = torch.clamp_min(logits, 0, out=scratch).addcmul_(x, logits, value=-1).sum(dim=-1)
    probability = torch.sigmoid(logits, out=gradient)
    likelier = torch.sub(1, probability, out=scratch)
    torch.maximum(likelier, probability, out=likelier)
    log_likelier = likelier.view(len(logits), -1, factors).prod(dim=-1).log_().sum(dim=-1)
    probability.sub_(x)
    return rest.sub_(log_likelier)


def _in_few_kernels(logits: Tensor, x: Tensor, gradient: Tensor, scratch: Tensor) -> Tensor:
    """Do the same with half as many operations, one of them slow on a CPU. The gradient may overwrite the logits."""
    softplus: Tensor = torch.ops.aten.softplus.out(logits, out=scratch)
    nats = softplus.addcmul_(x, logits, value=-1).sum(dim=-1)
    torch.sigmoid(logits, out=gradient).sub_(x)
    return nats


class _CrossEntropy(torch.autograd.Function):
    """:func:`cross_entropy` for autograd."""

    @staticmethod
    def forward(context: Any, logits: Tensor, x: Tensor) -> Tensor:
        nats, gradient = cross_entropy(logits, x)
        context.save_for_backward(gradient)
        return nats

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = context.saved_tensors
        return gradient * grad.unsqueeze(-1), None
