"""The discretized logistic likelihood of the 256 levels, and mixtures of it (arXiv:1701.05517, section 2.1).

Levels 0..255 are placed at -1..1, 2/255 apart. The probability of a level is that of the interval around it. The
first and the last level include the tails.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vae_tune.vae.likelihoods.likelihood import LEVELS

_STEP = 2 / 255
_MIN_LOG_SCALE = -7.0
_AT_ONCE = 65_536
"""Values that fit into a processor's cache with all that is computed from them."""


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
    """Return the log-probability of each level under a discretized logistic, in nats, of the shape of ``mean``.

    Args:
        mean: (batch, ...).
        log_scale: of the same shape.
        x: the levels, in [0, 1]; it broadcasts to this shape.
    """
    log_p: Tensor = _LogProbability.apply(mean, log_scale, x)
    return log_p


class _LogProbability(torch.autograd.Function):
    """:func:`log_probability` with its gradient written out: autograd takes twice the time."""

    @staticmethod
    def forward(context: Any, mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
        rows = max(1, _AT_ONCE // mean[0].numel()) if mean.device.type == "cpu" else len(mean)
        levels = x.split(rows) if len(x) == len(mean) else repeat(x)
        differentiate = any(context.needs_input_grad)
        parts = zip(mean.split(rows), log_scale.split(rows), levels, strict=False)
        log_p, *gradients = map(torch.cat, zip(*(_terms(*part, differentiate) for part in parts), strict=True))
        context.save_for_backward(*gradients)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_mean, grad_log_scale = context.saved_tensors
        return grad * grad_mean, grad * grad_log_scale, None


def _terms(mean: Tensor, log_scale: Tensor, x: Tensor, differentiate: bool) -> tuple[Tensor, ...]:
    """Return log-probabilities, and if asked their gradients in ``mean`` and ``log_scale``.

    Let t be the distance of level and mean, q half a level, both in units of the scale, and s = sigmoid(t). The
    difference of two sigmoids is sinh q / (cosh q + cosh t), which is 2 sinh(q) exp(-t) s^2 / (1 + (2 cosh q - 2) p)
    with p = s (1 - s): one logarithm, which loses no digits where the difference would. At the ends, where t is the
    distance by which the interval's edge misses the mean, and may be negative, the probability is sigmoid(-t). The
    ends are told apart by factors of 0 and 1, because a CPU multiplies faster than it selects.
    """
    inner = (x - 0.5).abs_().mul_(-510).add_(255).clamp_(max=1)  # 1; 0 at the ends
    outer = inner - 1  # 0; -1 at the ends
    level = (x * 2).sub_(1)
    end = level * outer  # 0; 1 at the lower end and -1 at the upper
    inverse_scale = log_scale.clamp(min=_MIN_LOG_SCALE).neg_().exp_()
    excess = mean - level
    t = excess.abs().mul_(inner).addcmul_(end, excess).add_(outer, alpha=_STEP / 2).mul_(inverse_scale)
    q = inverse_scale * (_STEP / 2)
    exp_q_less_1 = torch.expm1(q)
    part = exp_q_less_1 / (exp_q_less_1 + 1)
    two_sinh, two_cosh_less_2 = exp_q_less_1 + part, exp_q_less_1.mul_(part)
    s = torch.sigmoid(t.abs())
    p = torch.addcmul(s, s, s, value=-1)
    denominator = two_cosh_less_2.mul(p).add_(1)
    log_p = (two_sinh * s).div_(denominator).mul_(inner).sub_(outer).mul_(s).log_().sub_(t.clamp(min=0))
    if not differentiate:
        return (log_p,)
    at_end = torch.sigmoid(t)
    slope = s.mul_(2).sub_(1).div_(denominator).sub_(at_end).mul_(inner).add_(at_end)  # -d log p / dt
    grad_mean = excess.sign_().mul_(inner).add_(end).mul_(slope).mul_(inverse_scale).neg_()
    coth = two_cosh_less_2.add_(2).div_(two_sinh)
    slope_in_q = p.mul_(two_sinh).div_(denominator).neg_().add_(coth).mul_(inner)
    grad_log_scale = slope.mul_(t).sub_(slope_in_q.mul_(q))
    return log_p, grad_mean, torch.ops.aten.threshold_backward(grad_log_scale, log_scale, _MIN_LOG_SCALE)


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
