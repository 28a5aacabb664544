"""One tensor holds all parameters, another all gradients."""

from __future__ import annotations

import torch
from torch import nn

from vae_tune.parameters import gradient, join


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_joining_changes_no_value():
    expected = [parameter.detach().clone() for parameter in _model().parameters()]
    model = _model()
    joint = join(model)
    torch.testing.assert_close(list(map(torch.detach, model.parameters())), expected)
    assert torch.equal(joint.detach(), torch.cat([part.flatten() for part in expected]))


def test_what_is_done_to_the_joint_tensor_is_done_to_each_parameter():
    model = _model()
    joint = join(model)
    with torch.no_grad():
        joint.fill_(7)
    assert all((parameter == 7).all() for parameter in model.parameters())


def test_gradients_written_into_parameters_are_those_of_the_joint_tensor():
    model = _model()
    joint = join(model)
    for number, parameter in enumerate(model.parameters()):
        gradient(parameter).fill_(number)
    assert joint.grad is not None
    assert joint.grad.tolist() == [0] * 12 + [1] * 4 + [2] * 8 + [3] * 2


def test_a_parameter_on_its_own_gets_a_gradient_to_write_into():
    parameter = nn.Parameter(torch.ones(2))
    gradient(parameter).add_(5)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [5, 5]
