"""All parameters of a model in one tensor, and all gradients in another, so that the optimizer has one to update."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

os.environ.setdefault("DISABLE_ADDMM_CUDA_LT", "1")
"""Compute a product and its bias in two kernels on a GPU: cuBLASLt, which does both in one, may take a kernel that
expects a bias at a multiple of 16 bytes and faults on another (https://github.com/pytorch/pytorch/pull/194497), and
here a bias lies wherever the parameters before it end. Torch reads this once, at the first such product."""


def flatten_parameters(model: nn.Module) -> nn.Parameter:
    """Move the parameters of ``model`` into one tensor, (elements,), and return it; each becomes a view of its part.

    The same holds for the gradients, zero at first: what is written into one is seen in the other. Weights come before
    biases, so that two layers of which one follows the other can be used as one (see :func:`stacked`). A parameter in
    channels_last stays so: an optimizer that updates the one tensor, whose moments have the same order, cannot pair
    a weight with the moments of another.
    """
    parameters = _in_order(model)
    flat = nn.Parameter(parameters[0].new_empty(sum(parameter.numel() for parameter in parameters)))
    flat.grad = torch.zeros_like(flat)
    parts = zip(parameters, _parts(flat.detach(), parameters), _parts(flat.grad, parameters), strict=True)
    for parameter, part, grad in parts:
        part.copy_(parameter.detach())
        parameter.data = part
        parameter.grad = grad
    return flat


def row_major(flat: Tensor, model: nn.Module) -> Tensor:
    """Return the elements of ``flat``, (elements,), in an order that is the same for all memory formats.

    ``flat`` is in the order of the tensor that :func:`flatten_parameters` made of the parameters of ``model``; a
    scalar is returned as it is.
    """
    parameters = _in_order(model)
    if flat.ndim != 1 or all(parameter.is_contiguous() for parameter in parameters):
        return flat
    return torch.cat([part.flatten() for part in _parts(flat, parameters)])


def from_row_major(values: Tensor, model: nn.Module) -> Tensor:
    """Return what :func:`row_major` was called with; raise RuntimeError if ``values`` have another size."""
    parameters = _in_order(model)
    if values.ndim != 1 or all(parameter.is_contiguous() for parameter in parameters):
        return values
    flat = torch.empty_like(values)
    sources = values.split([parameter.numel() for parameter in parameters])
    for part, source in zip(_parts(flat, parameters), sources, strict=True):
        part.copy_(source.view(part.shape))
    return flat


def _in_order(model: nn.Module) -> list[nn.Parameter]:
    return sorted(model.parameters(), key=lambda parameter: -parameter.ndim)


def _parts(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the part of ``flat`` that each parameter has, in the shape and memory format of the parameter."""
    sizes = [parameter.numel() for parameter in parameters]
    return [_formatted(part, parameter) for part, parameter in zip(flat.split(sizes), parameters, strict=True)]


def _formatted(part: Tensor, parameter: Tensor) -> Tensor:
    """Return ``part``, (elements,), as a view in the shape of ``parameter``, and in channels_last if that is."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        outputs, inputs, height, width = parameter.shape
        return part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    return part.view(parameter.shape)


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
