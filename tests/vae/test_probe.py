"""What the probe refuses about a network, each with its own sentence."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.networks.registry import BUILT_IN, BuiltIn
from vae_tune.vae.probe import count_parameters, probe

SHAPE = (1, 4, 3)


class Sound(nn.Module):
    """A network with batch norm and dropout, against which there is nothing."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, latent_size: int):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(12), nn.Dropout(0.5)
        self.inner, self.outer = nn.Linear(12, 2 * latent_size), nn.Linear(latent_size, outputs * 12)
        self.more()

    def more(self):
        """Change the modules."""

    def encode(self, x: Tensor):
        return self.inner(self.drop(self.norm(x.flatten(1)))).chunk(2, dim=1)

    def decode(self, z: Tensor):
        return self.outer(z).view(-1, 1, 4, 3)


class ThreeParts(Sound):
    def encode(self, x):
        return *super().encode(x), torch.zeros(())


class NoLatents(Sound):
    def encode(self, x):
        mean, log_variance = super().encode(x)
        return mean[:, :1], log_variance


class Flat(Sound):
    def decode(self, z):
        return self.outer(z)


class Infinite(Sound):
    def decode(self, z):
        return super().decode(z) / 0


class SteepGradient(Sound):
    def decode(self, z):
        return super().decode(z) + (0 * self.outer.bias).abs().sqrt().sum()


class Idle(Sound):
    def more(self):
        self.idle = nn.Linear(2, 2)


class Frozen(Sound):
    def more(self):
        self.inner.weight.requires_grad_(False)


class Shared(Sound):
    def more(self):
        self.again = nn.Linear(12, 2)
        self.again.weight = nn.Parameter(self.outer.weight.detach().view(-1)[:24].view(2, 12))


class Tied(Sound):
    def more(self):
        self.again = self.outer


class Half(Sound):
    def more(self):
        self.inner.double()


class Lazy(Sound):
    def more(self):
        self.inner = nn.LazyLinear(6)


class Fragile(Sound):
    def decode(self, z):
        return self.outer(z[:, :1]).view(-1, 1, 4, 3)


class OfItsBatch(Sound):
    def encode(self, x):
        mean, log_variance = super().encode(x)
        return mean - mean.mean(dim=0), log_variance


class AlwaysDropping(Sound):
    def encode(self, x):
        return self.inner(nn.functional.dropout(self.norm(x.flatten(1)))).chunk(2, dim=1)


class DrawsWithNumpy(Sound):
    def encode(self, x):
        np.random.rand()
        return super().encode(x)


class DrawsWithPython(Sound):
    def encode(self, x):
        random.random()
        return super().encode(x)


class Counts(Sound):
    calls = 0

    def encode(self, x):
        self.calls += 1
        mean, log_variance = super().encode(x)
        return mean + self.calls, log_variance


class LosesABuffer(Sound):
    def more(self):
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def encode(self, x):
        self.seen += len(x)
        return super().encode(x)


class Sigmoid(Sound):
    def decode(self, z):
        return super().decode(z).sigmoid()


class Empty(Sound):
    def more(self):
        del self.norm, self.inner, self.outer


def probed(cls, monkeypatch, **config):
    monkeypatch.setitem(BUILT_IN, "own", BuiltIn(__name__, cls.__name__))
    return probe(TrialConfig(model="own", latent_size=3, **config), SHAPE)


def test_a_sound_network_passes_and_its_parameters_are_counted(monkeypatch):
    before = torch.get_rng_state()
    count = probed(Sound, monkeypatch)
    assert count == 24 + 13 * 6 + 4 * 12
    assert count_parameters(TrialConfig(model="own", latent_size=3), SHAPE) == count
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (
            ThreeParts,
            r"must return mean and log-variance from encode, but returns 3 values\.\nLosses of its own",
        ),
        (NoLatents, r"gives encode's mean the shape \(2, 1\), but it must be \(2, 3\)\.$"),
        (Flat, r"gives decode's result the shape \(2, 12\), but it must be \(2, 1, 4, 3\)\.$"),
        (Infinite, r"gives decode's result values that are not finite\.$"),
        (SteepGradient, r"gives a gradient of outer\.bias that is not finite\.$"),
        (Idle, r"has the parameter idle\.weight and 1 more without a gradient: the loss does not depend on it\.$"),
        (Frozen, r"has the frozen parameter inner\.weight: make it a buffer\.$"),
        (Shared, r"shares one tensor between outer\.weight and again\.weight: give each its own\.$"),
        (Tied, r"shares one tensor between outer\.weight and again\.weight: give each its own\.$"),
        (Half, r"has the parameter inner\.weight of torch\.float64, but must have float32\.$"),
        (Lazy, r"has the parameter inner\.weight without a size: lazy modules are not supported\.$"),
        (Empty, r"has no parameters to train\.$"),
        (Fragile, r"fails to decode two latent codes: RuntimeError: .*mat1 and mat2 shapes cannot be multiplied"),
        (OfItsBatch, r"gives an image another mean in eval mode beside other images of its batch\.$"),
        (AlwaysDropping, r"draws random numbers of its own in eval mode"),
        (DrawsWithNumpy, r"draws random numbers of its own in eval mode"),
        (DrawsWithPython, r"draws random numbers of its own in eval mode"),
        (Counts, r"gives another mean for the same images in eval mode, from call to call\.$"),
        (Sigmoid, r"decodes to values between 0 and 1 only, but .*\n.*leave out the sigmoid at the end of decode\.$"),
        (LosesABuffer, r"changes the buffer seen, which is not persistent: a resume would lose it\.$"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_refused_has_a_sentence_of_its_own(cls, message, monkeypatch):
    with pytest.raises(UsageError, match=f"^model own {message}") as caught:
        probed(cls, monkeypatch)
    assert str(caught.value).count("\n") <= 1


def test_the_mean_of_a_gaussian_may_end_in_a_sigmoid(monkeypatch):
    assert probed(Sigmoid, monkeypatch, likelihood="gaussian") > 0
