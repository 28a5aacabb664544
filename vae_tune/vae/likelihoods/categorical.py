"""The categorical likelihood: any distribution over the 256 levels, with 256 parameters per pixel and channel."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_tune.vae.likelihoods.likelihood import LEVELS

_LEVELS = 256


class Categorical:
    """See :class:`vae_tune.vae.likelihoods.likelihood.Likelihood`. Parameters: a logit per level and value."""

    kinds = LEVELS

    def outputs(self, channels: int) -> int:
        """Return a logit per level and channel."""
        return _LEVELS * channels

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) of each image, (batch,)."""
        logits = parameters.unflatten(1, (-1, _LEVELS))
        levels = (x * 255).round().long().unsqueeze(2).expand(len(logits), -1, -1, -1, -1)
        chosen = logits.gather(2, levels).squeeze(2)
        nats: Tensor = (logits.logsumexp(dim=2) - chosen).flatten(1).sum(dim=1)
        return nats

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected level of each pixel, in [0, 1]."""
        probabilities = parameters.unflatten(1, (-1, _LEVELS)).softmax(dim=2)
        levels = torch.linspace(0, 1, _LEVELS, device=parameters.device, dtype=parameters.dtype)
        mean: Tensor = torch.einsum("bclhw,l->bchw", probabilities, levels)
        return mean
