"""The continuous Bernoulli density on [0, 1] (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae_tune.vae.likelihoods.likelihood import DENSITY

_SMALL = 0.5
"""Logits of smaller magnitude use a power series, because the closed forms are 0 / 0 at 0."""


class ContinuousBernoulli:
    """See :class:`vae_tune.vae.likelihoods.likelihood.Likelihood`. Parameters: one logit per pixel and channel."""

    kinds = DENSITY

    def outputs(self, channels: int) -> int:
        """Return one logit per channel."""
        return channels

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) of each image, (batch,). It may be negative, because p is a density."""
        terms = nn.functional.softplus(parameters) - x * parameters - log_normalizer(parameters)
        return terms.flatten(1).sum(dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected value of each pixel, in [0, 1]."""
        return expectation(parameters)


def log_normalizer(logits: Tensor) -> Tensor:
    """Return log C, where C = l / tanh(l / 2) for a logit l, 2 at 0 (equation 7 with lambda = sigmoid(l))."""
    small = logits.abs() < _SMALL
    half = torch.where(small, torch.ones_like(logits), logits).abs() / 2
    closed = torch.log(half) - torch.log(torch.tanh(half))
    square = torch.where(small, logits, torch.zeros_like(logits)).square() / 4
    series = square * (1 / 3 - square * (7 / 90 - square * (62 / 2835 - square * (127 / 18900))))
    return math.log(2) + torch.where(small, series, closed)


def expectation(logits: Tensor) -> Tensor:
    """Return the mean, 1 / (1 - exp(-l)) - 1 / l (equation 8), which is (1 + 1 / tanh(l / 2)) / 2 - 1 / l."""
    small = logits.abs() < _SMALL
    large = torch.where(small, torch.ones_like(logits), logits)
    closed = 0.5 + 0.5 / torch.tanh(large / 2) - 1 / large
    square = torch.where(small, logits, torch.zeros_like(logits)).square()
    series = 0.5 + logits / 12 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40)))
    return torch.where(small, series, closed)
