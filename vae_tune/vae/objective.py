"""The terms of the loss, as pure functions per image, in nats.

The negative ELBO of Kingma & Welling (arXiv:1312.6114, equations 3 and 10) is the reconstruction term, which the
likelihood gives, plus the KL divergence. Callers average over images.
"""

from __future__ import annotations

import math

from torch import Tensor


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL divergence of N(mean, exp(log_variance)) from N(0, 1), summed over dimensions (appendix B).

    ``mean`` and ``log_variance`` are (batch, latent_size), the result is (batch,) nats per image.
    """
    return kl_by_latent(mean, log_variance).sum(dim=-1)


def kl_by_latent(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the part of each latent in :func:`kl`: (batch, latent_size) nats per image."""
    return 0.5 * (log_variance.exp().addcmul(mean, mean) - log_variance - 1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """Return ``-log (1/K sum_k w_k)``, which lies between the negative ELBO and the NLL (Burda et al. 2016, eq. 8).

    ``log_weights``: (batch, K) are log p(x, z_k) - log q(z_k|x), z_k drawn from q(z|x); the result is (batch,) nats
    per image.
    """
    return math.log(log_weights.shape[-1]) - log_weights.logsumexp(dim=-1)


def missing_bits(mean: Tensor, log_variance: Tensor, free_bits: float) -> Tensor:
    """Return the penalty by which a KL below ``free_bits`` gains nothing: max(0, free_bits - KL), summed over latents.

    KL is the mean over the minibatch. Added to the negative ELBO this is the objective of Kingma et al. 2016
    (arXiv:1606.04934, section C.8) with a group for each latent.
    """
    return (free_bits - kl_by_latent(mean, log_variance).mean(dim=0)).clamp(min=0).sum()
