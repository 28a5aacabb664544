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

from vae_tune.vae.threads import on_one_thread_each

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps one image, (1, ...), to mean and log-variance of q(z|x): (1, latent_size) each."""
LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""Maps z: (samples, latent_size) and one image, (1, ...), to log p(x|z): (samples,)."""

SAMPLES_AT_ONCE = 1_000
"""With 784 pixels these are 3 MB of logits, which stay in the cache."""


@dataclass(frozen=True)
class Estimate:
    """A mean over images, in nats per image."""

    mean: float
    standard_error: float | None
    """Of the mean, over images; None for one image. The bias that more samples would remove is not in it."""


def negative_log_likelihoods(
    images: Tensor,
    encode: Encode,
    log_likelihood: LogLikelihood,
    samples: int,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
    at_once: int = SAMPLES_AT_ONCE,
) -> Tensor:
    """Return the estimate of each image's ``-log p(x)``: (images,), float64; the prior of z is N(0, 1).

    Each thread works on one image at a time, ``at_once`` samples together: memory does not grow with the number of
    images, and by 8 bytes with each sample. An image's noise depends on ``seed`` and its index alone, so the first
    images of a longer tensor have the same estimates. The number of threads changes no bit.

    ``images`` are (images, ...), as ``encode`` and ``log_likelihood`` take them, which are called from several threads
    at once; ``samples`` is K, of which ``at_once`` are decoded together; ``progress`` is called after each
    image.
    """

    @torch.no_grad()
    def estimate(numbered: tuple[int, Tensor]) -> Tensor:
        number, x = numbered[0], numbered[1][None]
        seed_here = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        source = torch.Generator(images.device).manual_seed(seed_here)
        mean, log_variance = encode(x)
        log_weights = []
        for done in range(0, samples, at_once):
            count = min(at_once, samples - done)
            noise = torch.randn(count, mean.shape[1], dtype=mean.dtype, device=mean.device, generator=source)
            z = mean + torch.exp(0.5 * log_variance) * noise
            # log p(z) - log q(z|x), where the constants of the two normal densities cancel
            ratio = 0.5 * (noise.square() - z.square() + log_variance).sum(dim=1, dtype=torch.float64)
            log_weights.append(log_likelihood(z, x).double() + ratio)
        return math.log(samples) - torch.cat(log_weights).logsumexp(dim=0)

    return torch.stack(on_one_thread_each(estimate, enumerate(images), images.device, progress)).cpu()


def over_images(values: Tensor) -> Estimate:
    """Return mean and standard error of one value per image: (images,)."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(values.mean().item(), error)
