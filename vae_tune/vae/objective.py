"""The loss, as pure functions per image, in nats.

The negative ELBO of Kingma & Welling (arXiv:1312.6114, equations 3 and 10) is the reconstruction term plus the
KL divergence. Callers average over images.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 200_000
"""Pixels that a processor's cache holds with all that is computed from them."""


def reconstruction(logits: Tensor, x: Tensor) -> Tensor:
    """Bernoulli cross-entropy of ``x`` under ``logits``, summed over pixels.

    With grey values instead of zeros and ones it is no likelihood, so such numbers compare only with each
    other. Working on logits keeps it finite where a sigmoid would round to 0 or 1.

    Args:
        logits: (batch, pixels).
        x: (batch, pixels) in [0, 1]; or (pixels,), one image under each row of ``logits``.

    Returns:
        (batch,) nats per image.
    """
    nats: Tensor = _Reconstruction.apply(logits, x.expand_as(logits))
    return nats


def bernoulli(
    logits: Tensor, x: Tensor, gradient: Tensor | None = None, scratch: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return :func:`reconstruction`, (batch,), and the gradient of its sum in ``logits``, (batch, pixels).

    An image's nats are the sum of softplus(l) - x l over its pixels. A GPU, which waits for kernels rather than for
    logarithms, computes just that. A CPU takes softplus(l) as max(l, 0) - log p, where p = max(sigmoid(l), 1 -
    sigmoid(l)) >= 1/2 is that of the likelier value, and the logarithm of products: of up to 100 factors, which
    float32 holds as each is at least 1/2.

    Args:
        logits: (batch, pixels).
        x: (batch, pixels) in [0, 1].
        gradient: where to write it, perhaps over the ``logits`` themselves; a new tensor if None.
        scratch: of the same shape, to be overwritten; a new tensor if None.
    """
    gradient = torch.empty_like(logits) if gradient is None else gradient
    if logits.device.type != "cpu":
        return _in_few_kernels(logits, x, gradient, torch.empty_like(logits) if scratch is None else scratch), gradient
    pixels = logits.shape[-1]
    rows = max(1, _AT_ONCE // pixels)
    scratch = torch.empty_like(logits[:rows]) if scratch is None else scratch
    factors = _factors(pixels)
    if len(logits) <= rows:
        return _bernoulli(logits, x, gradient, scratch, factors), gradient
    parts = zip(logits.split(rows), x.split(rows), gradient.split(rows), strict=True)
    return torch.cat([_bernoulli(*part, scratch[: len(part[0])], factors) for part in parts]), gradient


@cache
def _factors(pixels: int) -> int:
    """Return of how many of its pixels an image's logarithms are taken at once."""
    return max(divisor for divisor in range(1, 101) if pixels % divisor == 0)


def _bernoulli(logits: Tensor, x: Tensor, gradient: Tensor, scratch: Tensor, factors: int) -> Tensor:
    """Write the gradient of some images and return their nats."""
    rest = torch.clamp_min(logits, 0, out=scratch).addcmul_(x, logits, value=-1).sum(dim=-1)
    probability = torch.sigmoid(logits, out=gradient)
    likelier = torch.sub(1, probability, out=scratch)
    torch.maximum(likelier, probability, out=likelier)
    log_likelier = likelier.view(len(logits), -1, factors).prod(dim=-1).log_().sum(dim=-1)
    probability.sub_(x)
    return rest.sub_(log_likelier)


def _in_few_kernels(logits: Tensor, x: Tensor, gradient: Tensor, scratch: Tensor) -> Tensor:
    """Do the same with half as many operations, of which one is slow on a CPU; the gradient may go over the logits."""
    softplus: Tensor = torch.ops.aten.softplus.out(logits, out=scratch)
    nats = softplus.addcmul_(x, logits, value=-1).sum(dim=-1)
    torch.sigmoid(logits, out=gradient).sub_(x)
    return nats


class _Reconstruction(torch.autograd.Function):
    """Makes :func:`bernoulli` known to autograd."""

    @staticmethod
    def forward(context: Any, logits: Tensor, x: Tensor) -> Tensor:
        nats, gradient = bernoulli(logits, x)
        context.save_for_backward(gradient)
        return nats

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = context.saved_tensors
        return gradient * grad.unsqueeze(-1), None


def kl(mean: Tensor, log_variance: Tensor, variance: Tensor | None = None) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, 1), summed over dimensions (appendix B).

    Args:
        mean: (batch, latent_size).
        log_variance: (batch, latent_size).
        variance: its exponential, where it is known already.

    Returns:
        (batch,) nats per image.
    """
    return kl_by_latent(mean, log_variance, variance).sum(dim=-1)


def kl_by_latent(mean: Tensor, log_variance: Tensor, variance: Tensor | None = None) -> Tensor:
    """Return the part of each latent in :func:`kl`: (batch, latent_size) nats per image."""
    variance = log_variance.exp() if variance is None else variance
    return 0.5 * (torch.addcmul(variance, mean, mean) - log_variance - 1)


def negative_elbo(logits: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Reconstruction plus KL at weight 1: (batch,) nats per image.

    This is the number by which trials are ranked. It stays comparable whatever a trial's latent size, batch
    size or training loss, because it is per image and always has KL weight 1.
    """
    return reconstruction(logits, x) + kl(mean, log_variance)


def importance_bound(log_weights: Tensor) -> Tensor:
    """Return ``-log (1/K sum_k w_k)``, which lies between the negative ELBO and the NLL (Burda et al. 2016, eq. 8).

    Args:
        log_weights: (batch, K), log p(x, z_k) - log q(z_k|x) with z_k drawn from q(z|x).

    Returns:
        (batch,) nats per image.
    """
    return math.log(log_weights.shape[-1]) - log_weights.logsumexp(dim=-1)


def missing_bits(mean: Tensor, log_variance: Tensor, free_bits: float) -> Tensor:
    """Return what makes KL below ``free_bits`` as costly as that: the sum over latents of max(0, free_bits - KL).

    KL is the mean over the minibatch. Added to the negative ELBO this is the objective of Kingma et al. 2016
    (arXiv:1606.04934, section C.8) with a group for each latent: a latent gains nothing by carrying less.
    """
    return (free_bits - kl_by_latent(mean, log_variance).mean(dim=0)).clamp(min=0).sum()
