"""One tensor holds all parameters, another all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vae_tune.vae.flat_parameters import flatten_parameters, gradient, stacked


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_flattening_changes_no_value():
    expected = [parameter.detach().clone() for parameter in _model().parameters()]
    model = _model()
    flat = flatten_parameters(model)
    torch.testing.assert_close(list(map(torch.detach, model.parameters())), expected)
    weights_first = [expected[number].flatten() for number in (0, 2, 1, 3)]
    assert torch.equal(flat.detach(), torch.cat(weights_first))


def test_what_is_done_to_the_flat_tensor_is_done_to_each_parameter():
    model = _model()
    flat = flatten_parameters(model)
    with torch.no_grad():
        flat.fill_(7)
    assert all((parameter == 7).all() for parameter in model.parameters())


def test_gradients_written_into_parameters_are_those_of_the_flat_tensor():
    model = _model()
    flat = flatten_parameters(model)
    for number, parameter in enumerate(model.parameters()):
        gradient(parameter).fill_(number)
    assert flat.grad is not None
    assert flat.grad.tolist() == [0] * 12 + [2] * 8 + [1] * 4 + [3] * 2


def test_two_layers_that_follow_each_other_can_be_taken_as_one():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2))
    flatten_parameters(model)
    first, second = (layer.weight for layer in model.children())
    both = stacked(first, second)
    torch.testing.assert_close(both, torch.cat([first, second]).detach())
    both.fill_(7)
    assert (first == 7).all()
    assert (second == 7).all()
    gradients = stacked(gradient(model[0].bias), gradient(model[1].bias))
    gradients.copy_(torch.arange(6))
    assert gradient(model[1].bias).tolist() == [4, 5]


def test_layers_that_lie_apart_are_not_taken_as_one():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="flatten"):
        stacked(model[0].weight, model[1].weight)
    flatten_parameters(model)
    with pytest.raises(ValueError, match="flatten"):
        stacked(model[1].weight, model[0].weight)


def test_a_parameter_on_its_own_gets_a_gradient_to_write_into():
    parameter = nn.Parameter(torch.ones(2))
    gradient(parameter).add_(5)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [5, 5]
