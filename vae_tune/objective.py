"""The loss, as pure functions per image, in nats.

The negative ELBO of Kingma & Welling (arXiv:1312.6114, equations 3 and 10) is the reconstruction term plus the
KL divergence. Callers average over images.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def reconstruction(logits: Tensor, x: Tensor) -> Tensor:
    """Bernoulli cross-entropy of ``x`` under ``logits``, summed over pixels.

    With grey values instead of zeros and ones it is no likelihood, so such numbers compare only with each
    other. Working on logits keeps it finite where a sigmoid would round to 0 or 1.

    Args:
        logits: (batch, pixels).
        x: (batch, pixels) in [0, 1].

    Returns:
        (batch,) nats per image.
    """
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=-1)


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, 1), summed over dimensions (appendix B).

    Args:
        mean: (batch, latent_size).
        log_variance: (batch, latent_size).

    Returns:
        (batch,) nats per image.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=-1)


def negative_elbo(logits: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Reconstruction plus KL at weight 1: (batch,) nats per image.

    This is the number by which trials are ranked. It stays comparable whatever a trial's latent size, batch
    size or training loss, because it is per image and always has KL weight 1.
    """
    return reconstruction(logits, x) + kl(mean, log_variance)
