"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2) on the one tensor that holds a model's parameters.

The update is torch's own fused kernel. ``torch.optim.AdamW`` would import torch's compiler, a second of CPU in each
worker before its first step, and group its one tensor by device and dtype in every step. A test compares the two
to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vae_tune.config.compat.torch import fused_adamw
from vae_tune.vae.flat_parameters import gradient

_FIXED: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}


class AdamW:
    """Updates a parameter by its gradient."""

    def __init__(self, parameter: nn.Parameter, weight_decay: float):
        self.parameter = parameter
        self._values = parameter.detach()
        self._weight_decay = weight_decay
        self.moments: dict[str, Tensor] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
        """Its state: the number of steps, and the running means of the gradient and of its square."""

    def step(self, learning_rate: float) -> None:
        """Take one step along the parameter's gradient."""
        step, mean, square = ([tensor] for tensor in self.moments.values())
        step[0].add_(1)
        values, gradients = [self._values], [gradient(self.parameter)]
        fused_adamw(
            values, gradients, mean, square, [], step, lr=learning_rate, weight_decay=self._weight_decay, **_FIXED
        )

    def load(self, moments: dict[str, Tensor]) -> None:
        """Copy another's ``moments``; raise KeyError if one is missing, RuntimeError if it has another shape."""
        for name, tensor in self.moments.items():
            tensor.copy_(moments[name])
