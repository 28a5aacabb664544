"""Another network and another likelihood, on images in color, go the whole way; the fused step leaves them alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal, kl_divergence

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import LikelihoodName, TrialConfig
from vae_tune.images.datasets import Images, to_tensor
from vae_tune.vae import training
from vae_tune.vae.autograd_step import AutogradStep
from vae_tune.vae.fused_step import FusedStep
from vae_tune.vae.likelihoods.bernoulli import Bernoulli
from vae_tune.vae.likelihoods.likelihood import DENSITY, Kind
from vae_tune.vae.likelihoods.registry import LIKELIHOODS, Facts, build_likelihood, kind_named, kind_of
from vae_tune.vae.model import VAE, build_model
from vae_tune.vae.networks.mlp import MLP
from vae_tune.vae.networks.network import Network
from vae_tune.vae.nll import negative_log_likelihoods
from vae_tune.vae.pictures import grid, reconstructions, samples
from vae_tune.vae.training import evaluate, fit, make_step

SHAPE = (3, 6, 4)
CONFIG = TrialConfig(latent_size=2, hidden_width=8, batch_size=16, max_epochs=6, learning_rate=1e-2)
CPU = torch.device("cpu")


class Convolution(Network):
    """Two convolutions and a linear layer to each side, which need the images' shape."""

    def __init__(self, outputs: int):
        super().__init__()
        self.down, self.up = nn.Conv2d(SHAPE[0], 4, 3, padding=1), nn.Conv2d(4, outputs, 3, padding=1)
        self.heads, self.spread = nn.Linear(4 * 24, 4), nn.Linear(2, 4 * 24)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.heads(torch.relu(self.down(x)).flatten(1)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        return self.up(torch.relu(self.spread(z)).view(-1, 4, *SHAPE[1:]))


class TwoSided:
    """A Laplace distribution of each value: location and log-scale."""

    kinds = DENSITY

    def outputs(self, channels: int) -> int:
        return 2 * channels

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        location, log_scale = parameters.chunk(2, dim=1)
        return (math.log(2) + log_scale + (x - location).abs() / log_scale.exp()).flatten(1).sum(dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters.chunk(2, dim=1)[0].clamp(0, 1)


def other(config: TrialConfig = CONFIG, shape: tuple[int, int, int] = SHAPE) -> VAE:
    torch.manual_seed(config.seed)
    likelihood = TwoSided()
    return VAE(Convolution(likelihood.outputs(shape[0])), likelihood, shape, config.latent_size)


@pytest.fixture
def colors() -> Images:
    """Images of one color each, with a little noise."""
    random = np.random.default_rng(0)
    values = random.integers(0, 200, (200, 3, 1, 1)) + random.integers(0, 20, (200, *SHAPE))
    return Images(*np.split(values.astype(np.uint8), [120, 160]))


@pytest.mark.parametrize("more", [{}, {"iwae_samples": 3}, {"free_bits": 0.1}, {"precision": "bfloat16"}], ids=str)
def test_they_are_trained_and_evaluated(colors, monkeypatch, more):
    monkeypatch.setattr(training, "build_model", other)
    first, *_, last = fit(replace(CONFIG, **more), colors, CPU)
    assert last.val_loss < first.val_loss - 1
    assert last.val_loss == pytest.approx(last.val_reconstruction + last.val_kl)


def test_an_evaluation_is_that_of_torchs_own_distributions(colors):
    model, images = other(), to_tensor(colors.test, CPU)
    x = images / 255
    noise = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(training._EVALUATION_SEED))
    with torch.no_grad():
        parameters, mean, log_variance = model(x, noise)
    location, log_scale = parameters.chunk(2, dim=1)
    nats = -Laplace(location, log_scale.exp()).log_prob(x).flatten(1).sum(dim=1)
    divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1)
    found = evaluate(model, images, CONFIG)
    assert (found.reconstruction, found.kl) == pytest.approx((nats.mean().item(), divergence.mean().item()), rel=1e-5)


def test_their_pictures_and_likelihoods_have_the_shape_of_the_images(colors):
    model = other()
    assert samples(model, 5).shape == (5, *SHAPE)
    assert grid(reconstructions(model, colors.test[:4]), columns=2, gap=0).shape == (12, 8, 3)
    assert model.encode(colors.test).shape == (40, 2)
    x = to_tensor(colors.test[:3], CPU) / 255
    assert negative_log_likelihoods(x, model.network.encode, model.log_likelihood, 10).shape == (3,)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", get_args(LikelihoodName))
def test_what_is_known_of_a_likelihood_without_torch_is_what_its_class_says(name, channels):
    config, facts = replace(CONFIG, likelihood=name, mixture_components=4), LIKELIHOODS[name]
    likelihood = build_likelihood(config, channels)
    assert likelihood.kinds is facts.kinds
    assert likelihood.outputs(channels) == channels * facts.outputs(config)
    own = likelihood.parameters() if isinstance(likelihood, nn.Module) else []
    assert sum(parameter.numel() for parameter in own) == channels * facts.own_parameters
    step = make_step(VAE(MLP(SHAPE, likelihood.outputs(3), CONFIG), build_likelihood(config, 3), SHAPE, 2), CONFIG)
    assert isinstance(step, FusedStep if facts.is_fused else AutogradStep)
    assert all(kind_named(kind.name) == kind for kind in facts.kinds.values())


def test_the_kind_of_another_likelihood_is_known_by_its_entry(monkeypatch):
    laplace = Kind("laplace", "pixel densities around a median")
    monkeypatch.setitem(LIKELIHOODS, "gaussian", Facts("module:Laplace", {"grey": laplace}, copies=3))
    config = replace(CONFIG, likelihood="gaussian")
    assert (kind_of(config, 3, "grey"), kind_named("laplace")) == (laplace, laplace)
    with pytest.raises(UsageError, match=r"must be bernoulli for black and white pixels \(static\), but got"):
        kind_of(config, 3, "static")


def test_the_fused_step_computes_only_the_elbo_of_the_mlp_with_the_bernoulli_likelihood():
    mlp = build_model(replace(CONFIG, likelihood="bernoulli"), SHAPE)
    network, likelihood = Convolution(3), TwoSided()
    wide = MLP(SHAPE, likelihood.outputs(3), CONFIG)
    assert isinstance(make_step(mlp, CONFIG), FusedStep)
    for model in (VAE(network, Bernoulli(), SHAPE, 2), VAE(wide, likelihood, SHAPE, 2)):
        assert isinstance(make_step(model, CONFIG), AutogradStep)
    for more in ({"iwae_samples": 2}, {"free_bits": 0.1}):
        assert isinstance(make_step(mlp, replace(CONFIG, **more)), AutogradStep)
