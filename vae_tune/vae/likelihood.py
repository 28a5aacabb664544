"""Importance-weighted estimate of the negative log-likelihood, ``-log p(x)``, in nats per image.

With z_1..z_K drawn from q(z|x), ``-log (1/K sum_k p(x, z_k) / q(z_k|x))`` lies above ``-log p(x)`` in expectation,
falls with K and meets it in the limit (Burda et al. 2016, arXiv:1509.00519, theorem 1). K = 1 is the negative ELBO.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae_tune.vae.objective import reconstruction
from vae_tune.vae.threads import on_one_thread_each

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps images (1, pixels) to mean and log-variance of q(z|x): (1, latent_size) each."""
LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""Maps z: (samples, latent_size) and an image (pixels,) to log p(x|z): (samples,)."""

_SAMPLES_AT_ONCE = 1_000  # with 784 pixels 3 MB of logits, which stay in the cache


@dataclass(frozen=True)
class Estimate:
    """A mean over images, in nats per image."""

    mean: float
    standard_error: float | None
    """Of the mean, over images; None for one image. It says nothing of the bias that more samples would remove."""


def negative_log_likelihoods(
    images: Tensor,
    encode: Encode,
    log_likelihood: LogLikelihood,
    samples: int,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """Return the estimate of each image's ``-log p(x)``: (images,), float64; the prior of z is N(0, 1).

    Each thread works on one image at a time, in portions of 1,000 samples: memory does not grow with the number of
    images, and with ``samples`` by 8 bytes each. An image's noise depends on ``seed`` and its place alone, so the
    first images of a longer tensor have the same estimates. The number of threads changes no bit.

    Args:
        images: (images, pixels).
        encode: q(z|x), normal; called from several threads at a time, as ``log_likelihood`` is.
        log_likelihood: p(x|z).
        samples: K, per image.
        seed: of the noise.
        progress: called after each image.
    """

    @torch.no_grad()
    def estimate(numbered: tuple[int, Tensor]) -> Tensor:
        number, x = numbered
        seed_here = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        source = torch.Generator(images.device).manual_seed(seed_here)
        mean, log_variance = encode(x[None])
        log_weights = []
        for done in range(0, samples, _SAMPLES_AT_ONCE):
            count = min(_SAMPLES_AT_ONCE, samples - done)
            noise = torch.randn(count, mean.shape[1], dtype=mean.dtype, device=mean.device, generator=source)
            z = mean + torch.exp(0.5 * log_variance) * noise
            # log p(z) - log q(z|x), where the constants of the two normal densities cancel
            ratio = 0.5 * (noise.square() - z.square() + log_variance).sum(dim=1, dtype=torch.float64)
            log_weights.append(log_likelihood(z, x).double() + ratio)
        return math.log(samples) - torch.cat(log_weights).logsumexp(dim=0)

    return torch.stack(on_one_thread_each(estimate, enumerate(images), images.device, progress)).cpu()


def bernoulli(decoder: Callable[[Tensor], Tensor]) -> LogLikelihood:
    """Return log p(x|z) of a decoder that maps z to one logit per pixel."""
    return lambda z, x: -reconstruction(decoder(z), x)


def over_images(values: Tensor) -> Estimate:
    """Return mean and standard error of one value per image: (images,)."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(values.mean().item(), error)
