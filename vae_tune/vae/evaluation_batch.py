"""The number of images that a model takes at once where no gradient is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.likelihoods.registry import likelihood_facts

_IMAGES_AT_ONCE, _OUTPUTS_AT_ONCE = 500, 4_000_000
"""Images, and parameters of their pixels, that are evaluated at once: few enough for a processor's cache."""


def evaluation_batch(config: TrialConfig, shape: Sequence[int]) -> int:
    """Return how many images are evaluated at once: fewer where the likelihood has many parameters per pixel."""
    return min(_IMAGES_AT_ONCE, max(1, _OUTPUTS_AT_ONCE // decoder_outputs(config, shape)))


def decoder_outputs(config: TrialConfig, shape: Sequence[int]) -> int:
    """Return the outputs of the decoder for an image."""
    return likelihood_facts(config, shape[0]).outputs(config) * math.prod(shape)
