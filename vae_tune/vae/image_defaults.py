"""The settings of a trial whose defaults depend on its images."""

from __future__ import annotations

from dataclasses import replace

from vae_tune.config.names import ENCODER_ACTIVATION, LIKELIHOOD
from vae_tune.config.settings import Activation, TrialConfig
from vae_tune.vae.likelihoods.registry import likelihood_name

SETTINGS = (LIKELIHOOD, ENCODER_ACTIVATION)
"""Their names."""


def encoder_activation(config: TrialConfig, channels: int) -> Activation:
    """Return the non-linearity of the encoder's hidden layers for images with ``channels`` channels."""
    return config.encoder_activation or ("linear" if channels == 1 else "relu")


def with_image_defaults(config: TrialConfig, channels: int) -> TrialConfig:
    """Return ``config`` with a value for everything that it leaves to its images, which have ``channels`` channels."""
    return replace(
        config,
        likelihood=likelihood_name(config, channels),
        encoder_activation=encoder_activation(config, channels),
    )
