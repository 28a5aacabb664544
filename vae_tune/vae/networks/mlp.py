"""The fully connected network of Kingma & Welling (arXiv:1312.6114) in the form this project started from.

Legend: ``batch`` images, ``pixels`` per image, ``hidden_width`` units, ``latent_size`` latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_tune.config.settings import Activation, TrialConfig
from vae_tune.vae.image_defaults import encoder_activation
from vae_tune.vae.networks.network import Network


def _identity(x: Tensor) -> Tensor:
    """Return ``x``: a function with a name, as ``torch.save`` needs."""
    return x


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _identity,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "elu": F.elu,
}


class MLP(Network):
    """Hidden layers to both sides of the latents; by default the encoder of gray images is linear, the rest ReLU."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, config: TrialConfig):
        super().__init__()
        self._outputs = outputs, *shape[1:]
        self.encoder = Encoder(math.prod(shape), config, encoder_activation(config, shape[0]))
        self.decoder = Decoder(math.prod(self._outputs), config)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``: (batch, channels, height, width) to mean and log-variance: (batch, latent_size) each."""
        mean, log_variance = self.encoder(x.flatten(1))
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Map ``z``: (batch, latent_size) to the likelihood's parameters: (batch, outputs, height, width)."""
        parameters: Tensor = self.decoder(z).unflatten(1, self._outputs)
        return parameters


class Encoder(nn.Module):
    """q(z|x): hidden layers, then one linear head for the mean and one for the log-variance."""

    def __init__(self, pixels: int, config: TrialConfig, activation: Activation):
        super().__init__()
        self.hidden = _layers(pixels, config)
        self.mean = nn.Linear(config.hidden_width, config.latent_size)
        self.log_variance = nn.Linear(config.hidden_width, config.latent_size)
        self.activation_name: Activation = activation
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``: (batch, pixels) in [0, 1] to mean and log-variance: (batch, latent_size) each."""
        if self._is_less_as_one_layer(*x.shape):
            mean, log_variance = self._as_one_layer(x).chunk(2, dim=-1)
            return mean, log_variance
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.mean(x), self.log_variance(x)

    def _is_less_as_one_layer(self, rows: int, pixels: int) -> bool:
        """Whether the layers are linear and their product, computed once for all rows, saves multiplications."""
        if self.activation is not _ACTIVATIONS["linear"] or len(self.hidden) > 1:
            return False
        latents, width = self.mean.weight.shape
        return 2 * latents * pixels * (width + rows) < rows * width * (pixels + 2 * latents)

    def _as_one_layer(self, x: Tensor) -> Tensor:
        """Compute U (W x + b) + c as (U W) x + (U b + c), with both heads in U and U W in the weights' own precision.

        U W is computed as (W'U')', so that its sums do not depend on the number of threads.
        """
        (hidden,) = self.hidden
        assert isinstance(hidden, nn.Linear)
        with torch.autocast(x.device.type, enabled=False):
            heads = torch.cat([self.mean.weight, self.log_variance.weight])
            bias = torch.cat([self.mean.bias, self.log_variance.bias])
            weight, bias = (hidden.weight.t() @ heads.t()).t(), torch.addmv(bias, heads, hidden.bias)
        return F.linear(x, weight, bias)


class Decoder(nn.Module):
    """p(x|z): hidden layers, then one linear layer for the likelihood's parameters."""

    def __init__(self, outputs: int, config: TrialConfig):
        super().__init__()
        self.hidden = _layers(config.latent_size, config)
        self.logits = nn.Linear(config.hidden_width, outputs)
        self.activation = _ACTIVATIONS[config.decoder_activation]

    def forward(self, z: Tensor) -> Tensor:
        """Map ``z``: (batch, latent_size) to the likelihood's parameters: (batch, outputs * pixels)."""
        for layer in self.hidden:
            z = self.activation(layer(z))
        parameters: Tensor = self.logits(z)
        return parameters


def _layers(size: int, config: TrialConfig) -> nn.ModuleList:
    width = config.hidden_width
    return nn.ModuleList(nn.Linear(width if layer else size, width) for layer in range(config.hidden_layers))
