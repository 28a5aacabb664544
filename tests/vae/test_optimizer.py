"""AdamW without the class of torch around it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from vae_tune.vae.optimizer import AdamW


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_takes_the_steps_of_torch_to_the_last_bit(weight_decay):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 1000)) for _ in range(2))
    optimizer = AdamW(ours, weight_decay)
    expected = torch.optim.AdamW([theirs], weight_decay=weight_decay, fused=True)
    for rate in (1e-3, 1e-2, 1e-4):
        ours.grad = theirs.grad = torch.randn(1000, generator=generator)
        expected.param_groups[0]["lr"] = rate
        expected.step()
        optimizer.step(rate)
        assert torch.equal(ours, theirs)
    assert all(torch.equal(optimizer.moments[name], tensor) for name, tensor in expected.state[theirs].items())


def test_it_goes_on_with_the_moments_of_another():
    first, second = (AdamW(nn.Parameter(torch.ones(3)), 0.0) for _ in range(2))
    first.parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    first.step(1e-3)
    second.load(first.moments)
    assert all(torch.equal(second.moments[name], tensor) for name, tensor in first.moments.items())
    with pytest.raises(KeyError):
        second.load({"step": first.moments["step"]})
    with pytest.raises(RuntimeError, match="size"):
        second.load({**first.moments, "exp_avg": torch.ones(4)})


def test_a_training_does_without_the_compiler_of_torch():
    code = """
import sys, numpy, torch
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae.training import fit
image = numpy.zeros((4, 1, 3, 3), numpy.uint8)
list(fit(TrialConfig(max_epochs=1), Images(image, image, image), torch.device("cpu")))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
