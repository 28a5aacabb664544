"""All parameters of a model in one tensor, and all gradients in another, so that the optimizer has one to update."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

os.environ.setdefault("DISABLE_ADDMM_CUDA_LT", "1")
"""A product and its bias are two kernels on a GPU: cuBLASLt, which makes them one, may take one that expects a bias at
a multiple of 16 bytes and faults on another (https://github.com/pytorch/pytorch/pull/194497), and here it lies
wherever the parameters before it end. Torch reads this once, at the first such product."""


def join(model: nn.Module) -> nn.Parameter:
    """Move the parameters of ``model`` into one tensor, (elements,), and return it; each becomes a view of its part.

    The same holds for the gradients, zero at first: what is written into one is seen in the other. Weights come before
    biases, so that two layers of which one follows the other can be taken as one (see :func:`stack`).
    """
    parameters = sorted(model.parameters(), key=lambda parameter: -parameter.ndim)
    joint = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    joint.grad = torch.zeros_like(joint)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part, grad in zip(parameters, joint.detach().split(sizes), joint.grad.split(sizes), strict=True):
        parameter.data = part.view_as(parameter)
        parameter.grad = grad.view_as(parameter)
    return joint


def stack(first: Tensor, second: Tensor) -> Tensor:
    """Return a view of two tensors that follow each other in a joint one: the rows of ``first``, then of ``second``.

    Raises:
        ValueError: they do not.
    """
    if second.storage_offset() != first.storage_offset() + first.numel():
        raise ValueError("These tensors do not follow each other: join their model's parameters first.")
    return first.detach().as_strided((len(first) + len(second), *first.shape[1:]), first.stride())


def gradient(parameter: Tensor) -> Tensor:
    """Return the tensor that holds the gradient of ``parameter``, to be written into."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
