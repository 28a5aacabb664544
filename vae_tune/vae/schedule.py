"""Learning rate and KL weight, as functions of the epoch alone: a resumed training needs no other state."""

from __future__ import annotations

import math
from dataclasses import replace

from vae_tune.config.settings import TrialConfig

_LAST_STAGE = 7


def learning_rate(config: TrialConfig, epoch: int) -> float:
    """Return Adam's step size in ``epoch``, counted from 1.

    ``staged`` is Burda et al.'s (2016, section 5): 3^i epochs at ``learning_rate`` * 10^(-i/7), i = 0..7, which are
    3,280 epochs in all; later epochs stay at the last stage.
    """
    if config.lr_schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.max_epochs))
    if config.lr_schedule == "staged":
        stage = next((i for i in range(_LAST_STAGE) if epoch <= (3 ** (i + 1) - 1) // 2), _LAST_STAGE)
        return float(config.learning_rate * 10 ** (-stage / _LAST_STAGE))
    return config.learning_rate


def kl_weight(config: TrialConfig, epoch: int) -> float:
    """Return the weight of the KL term in ``epoch``: it grows in equal steps and is complete after the warm-up."""
    return config.kl_weight * min(1.0, epoch / (config.kl_warmup_epochs + 1))


def depends_on_end(config: TrialConfig) -> bool:
    """Return whether a later last epoch changes the epochs before it."""
    return config.lr_schedule == "cosine"


def continues(before: TrialConfig, now: TrialConfig) -> bool:
    """Return whether a training of ``before`` goes on as one of ``now``: the same, or with another last epoch."""
    return before == now or (not depends_on_end(now) and replace(before, max_epochs=now.max_epochs) == now)
