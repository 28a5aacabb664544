"""One training step by autograd: any network, any likelihood, and the objectives beyond the plain ELBO."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.flat_parameters import gradient
from vae_tune.vae.model import VAE
from vae_tune.vae.objective import importance_bound, kl, missing_bits


class AutogradStep:
    """Computes the bound of a minibatch and leaves the gradient of the objective in the model's parameters."""

    def __init__(self, model: VAE, config: TrialConfig):
        self._model = model
        self._samples = config.iwae_samples
        self._free_bits = config.free_bits
        self._rounds = config.precision == "bfloat16"

    def __call__(self, x: Tensor, noise: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Return the mean bound in nats per image, at KL weight 1; every parameter's ``grad`` is overwritten.

        ``x`` is (batch, channels, height, width) in [0, 1], ``noise`` (batch * iwae_samples, latent_size), from
        N(0, 1). With one sample the bound is the negative ELBO. With more, each z has the weight
        p(x|z) (p(z) / q(z|x))^kl_weight (Burda et al. 2016, arXiv:1509.00519).
        """
        network, likelihood = self._model.network, self._model.likelihood
        with torch.autocast(x.device.type, torch.bfloat16) if self._rounds else nullcontext():
            mean, log_variance = (part.to(x.dtype) for part in network.encode(x))
            noise = noise.view(len(x), self._samples, -1)
            z = self._model.reparameterize(mean[:, None], log_variance[:, None], noise)
            parameters = network.decode(z.flatten(end_dim=1)).to(x.dtype)
        rec = likelihood.nats(parameters, x.repeat_interleave(self._samples, dim=0)).view(len(x), -1)
        if self._samples == 1:
            divergence = kl(mean, log_variance)
            objective, bound = (rec[:, 0] + weight * divergence for weight in (kl_weight, 1.0))
        else:
            # log p(z) - log q(z|x), where the constants of the two normal densities cancel
            ratio = 0.5 * (noise.square() - z.square() + log_variance[:, None]).sum(dim=-1)
            objective, bound = (importance_bound(weight * ratio - rec) for weight in (kl_weight, 1.0))
        loss = objective.mean()
        if self._free_bits:
            loss = loss + kl_weight * missing_bits(mean, log_variance, self._free_bits)
        weights = list(self._model.parameters())
        for weight, found in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            gradient(weight).copy_(found)
        return bound.mean().detach()
