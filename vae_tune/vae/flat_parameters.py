"""All parameters of a model in one tensor, and all gradients in another, so that the optimizer has one to update."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

os.environ.setdefault("DISABLE_ADDMM_CUDA_LT", "1")
"""Compute a product and its bias in two kernels on a GPU: cuBLASLt, which does both in one, may take a kernel that
expects a bias at a multiple of 16 bytes and faults on another (https://github.com/pytorch/pytorch/pull/194497), and
here a bias lies wherever the parameters before it end. Torch reads this once, at the first such product."""


def flatten_parameters(model: nn.Module) -> nn.Parameter:
    """Move the parameters of ``model`` into one tensor, (elements,), and return it; each becomes a view of its part.

    The same holds for the gradients, zero at first: what is written into one is seen in the other. Weights come before
    biases, so that two layers of which one follows the other can be used as one (see :func:`stacked`).
    """
    parameters = sorted(model.parameters(), key=lambda parameter: -parameter.ndim)
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part, grad in zip(parameters, flat.detach().split(sizes), flat.grad.split(sizes), strict=True):
        parameter.data = part.view_as(parameter)
        parameter.grad = grad.view_as(parameter)
    return flat


def stacked(first: Tensor, second: Tensor) -> Tensor:
    """Return a view of two tensors that follow each other in a flat one: the rows of ``first``, then of ``second``.

    Raises ValueError if they do not.
    """
    if second.storage_offset() != first.storage_offset() + first.numel():
        raise ValueError("These tensors do not follow each other: flatten their model's parameters first.")
    return first.detach().as_strided((len(first) + len(second), *first.shape[1:]), first.stride())


def gradient(parameter: Tensor) -> Tensor:
    """Return the tensor that holds the gradient of ``parameter``, to be written into."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
