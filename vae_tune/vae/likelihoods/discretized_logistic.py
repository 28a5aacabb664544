"""The discretized logistic likelihood of the 256 levels, and mixtures of it (arXiv:1701.05517, section 2.1).

Levels 0..255 are placed at -1..1, 2/255 apart. The probability of a level is that of the interval around it. The
first and the last level include the tails.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae_tune.vae.likelihoods.likelihood import LEVELS

_STEP = 2 / 255
_MIN_LOG_SCALE = -7.0


class DiscretizedLogistic:
    """See :class:`vae_tune.vae.likelihoods.likelihood.Likelihood`. Parameters: a mean and a log-scale per value."""

    kinds = LEVELS

    def outputs(self, channels: int) -> int:
        """Return a mean and a log-scale per channel."""
        return 2 * channels

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) of each image, (batch,)."""
        mean, log_scale = _by_channel(parameters, 2).unbind(2)
        return -log_probability(mean, log_scale, x).flatten(1).sum(dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected level of each pixel, in [0, 1]."""
        mean, log_scale = _by_channel(parameters, 2).unbind(2)
        return expectation(mean, log_scale)


class LogisticMixture:
    """A mixture of discretized logistics. Parameters: weight, mean and log-scale per value and component."""

    kinds = LEVELS

    def __init__(self, components: int):
        self._components = components

    def outputs(self, channels: int) -> int:
        """Return three parameters per component and channel."""
        return 3 * self._components * channels

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) of each image, (batch,)."""
        log_weight, mean, log_scale = self._parts(parameters)
        log_p = log_weight + log_probability(mean, log_scale, x.unsqueeze(2))
        return -log_p.logsumexp(dim=2).flatten(1).sum(dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected level of each pixel, in [0, 1]."""
        log_weight, mean, log_scale = self._parts(parameters)
        return (log_weight.exp() * expectation(mean, log_scale)).sum(dim=2)

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights, means and log-scales, (batch, channels, components, height, width) each.

        The means of the components start spread over the levels, because equal components would stay equal.
        """
        logits, mean, log_scale = _by_channel(parameters, 3 * self._components).chunk(3, dim=2)
        count = self._components
        spread = (torch.arange(count, device=mean.device, dtype=mean.dtype) + 0.5) / count * 2 - 1
        return logits.log_softmax(dim=2), mean + spread.view(-1, 1, 1), log_scale


def log_probability(mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """Return the log-probability of each level ``x``, in [0, 1], under a discretized logistic, in nats.

    With a and b as the ends of the level's interval in units of the scale, sigmoid(a) - sigmoid(b) =
    sigmoid(a) sigmoid(-b) (1 - exp(b - a)). The logarithm of the product keeps all digits; the difference loses them.
    """
    inverse_scale = torch.exp(-log_scale.clamp(min=_MIN_LOG_SCALE))
    center = 2 * x - 1 - mean
    upper = nn.functional.softplus(-(center + _STEP / 2) * inverse_scale)
    lower = nn.functional.softplus((center - _STEP / 2) * inverse_scale)
    inside = torch.log(-torch.expm1(-_STEP * inverse_scale)) - upper - lower
    return torch.where(x < 0.5 / 255, -upper, torch.where(x > 254.5 / 255, -lower, inside))


def expectation(mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the expected level, in [0, 1]: the sum over all thresholds of the probability of being above."""
    inverse_scale = torch.exp(-log_scale.clamp(min=_MIN_LOG_SCALE))
    total = torch.zeros_like(mean)
    for level in range(255):
        threshold = (level + 0.5) * _STEP - 1
        total += torch.sigmoid((mean - threshold) * inverse_scale)
    return total / 255


def _by_channel(parameters: Tensor, count: int) -> Tensor:
    """Reshape (batch, channels * count, height, width) to (batch, channels, count, height, width)."""
    parts: Tensor = parameters.unflatten(1, (-1, count))
    return parts
