"""The cost of any network, as PyTorch's own counters give it for one training step on two images.

The meta device would compute shapes alone, but its first use imports torch's compiler (4 s of CPU with torch 2.15), as
that of ``FlopCounterMode`` does, and a user's code may look at values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.autograd_step import AutogradStep
from vae_tune.vae.model import build_model
from vae_tune.vae.networks.registry import network_class

_IMAGES = 2
"""Enough for a network whose numbers depend on the batch, which one image may break."""


class ModelCost(NamedTuple):
    """The cost of a model for images of one shape."""

    parameters: int
    """Weights and biases, those of the likelihood included."""
    saved_bytes: int
    """Bytes per image that autograd keeps between the passes, parameters not included."""


def model_cost(config: TrialConfig, shape: Sequence[int]) -> ModelCost:
    """Return the cost of the model that ``config`` describes, for images of ``shape``; measured once a configuration.

    Raises:
        UsageError: the model is unknown, or a user's class that this process may not run.
    """
    channels, height, width = shape
    same = replace(config, learning_rate=1e-3, batch_size=_IMAGES, max_epochs=1, seed=0, precision="float32")
    return _measured(same, (channels, height, width), id(network_class(config.model)))


@cache
def _measured(config: TrialConfig, shape: tuple[int, int, int], _: int) -> ModelCost:
    """Return the cost; a user's class whose file has changed is another one, of the same name."""
    model = build_model(config, shape)
    x, noise = torch.zeros(_IMAGES, *shape), torch.zeros(_IMAGES * config.iwae_samples, config.latent_size)
    saved = _Saved(model)
    with saved_tensors_hooks(saved.keep, lambda tensor: tensor):
        AutogradStep(model, config)(x, noise)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(parameters, saved.bytes // _IMAGES)


class _Saved:
    """Adds up the memory of the tensors that autograd saves, each once."""

    def __init__(self, model: nn.Module):
        self.bytes = 0
        self._known = {StorageWeakRef(parameter.untyped_storage()) for parameter in model.parameters()}

    def keep(self, tensor: Tensor) -> Tensor:
        """Count ``tensor`` unless it is a view of one that was counted, and return it."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self._known:
            self._known.add(reference)
            self.bytes += storage.nbytes()
        return tensor
