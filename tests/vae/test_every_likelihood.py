"""All objectives hold for every likelihood: IWAE, free bits, warm-up, NLL, active units, bfloat16, a good start."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vae_tune.config.settings import LikelihoodName, TrialConfig
from vae_tune.images.datasets import Images, to_tensor
from vae_tune.vae import fused_step, training
from vae_tune.vae.autograd_step import AutogradStep
from vae_tune.vae.flat_parameters import flatten_parameters
from vae_tune.vae.fused_step import FusedStep
from vae_tune.vae.likelihoods.discretized_logistic import DiscretizedLogistic
from vae_tune.vae.model import build_model
from vae_tune.vae.nll import negative_log_likelihoods
from vae_tune.vae.training import evaluate, fit, make_step

CPU = torch.device("cpu")
SHAPE = (3, 6, 5)
NAMES = get_args(LikelihoodName)
CONFIG = TrialConfig(latent_size=3, hidden_width=12, batch_size=32, encoder_activation="relu", mixture_components=3)


def pictures(count, seed=0):
    """Smooth pictures in color that a few latents can tell apart."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : SHAPE[1], 0 : SHAPE[2]]
    level, slope = random.uniform(0.2, 0.8, (2, count, 3, 1, 1))
    values = level + 0.1 * slope * (rows - columns) + random.normal(0, 0.02, (count, *SHAPE))
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def images():
    return Images(pictures(320, 1), pictures(100, 2), pictures(100, 3))


@pytest.fixture(params=NAMES)
def config(request):
    return replace(CONFIG, likelihood=request.param)


def batch(samples=1, size=6):
    x = torch.from_numpy(pictures(size, 4)).double() / 255
    return x, torch.randn(size * samples, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model_of(config):
    model = build_model(config, SHAPE).double()
    flatten_parameters(model)
    return model


def test_the_step_gives_the_elbo_and_its_gradient(config):
    (x, noise), model = batch(), model_of(config)
    parameters, mean, log_variance = model(x, noise)
    divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    rec = model.likelihood.nats(parameters, x).mean()
    expected = torch.autograd.grad(rec + 0.3 * divergence, list(model.parameters()))
    torch.testing.assert_close(AutogradStep(model, config)(x, noise, 0.3), (rec + divergence).detach())
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], list(expected))


def test_the_importance_bound_is_that_of_burda_et_al(config):
    (x, noise), model = batch(samples=4), model_of(config)
    mean, log_variance = (part.repeat_interleave(4, dim=0) for part in model.network.encode(x))
    deviation = (0.5 * log_variance).exp()
    z = mean + deviation * noise
    likely = -model.likelihood.nats(model.network.decode(z), x.repeat_interleave(4, dim=0))
    ratio = (Normal(0.0, 1.0).log_prob(z) - Normal(mean, deviation).log_prob(z)).sum(dim=1)
    expected = -((likely + ratio).view(6, 4).logsumexp(dim=1) - math.log(4)).mean().detach()
    torch.testing.assert_close(AutogradStep(model, replace(config, iwae_samples=4))(x, noise), expected)


def test_more_importance_samples_come_nearer_to_the_likelihood(config, images):
    model = build_model(config, SHAPE)
    x = to_tensor(images.test[:20], CPU)
    few, many = (
        negative_log_likelihoods(x / 255, model.network.encode, model.log_likelihood, samples).mean()
        for samples in (1, 500)
    )
    assert float(few) == pytest.approx(evaluate(model, x, config).negative_elbo, rel=0.2, abs=3)
    assert many < few
    parts = [
        negative_log_likelihoods(x / 255, model.network.encode, model.log_likelihood, 500, at_once=at_once).mean()
        for at_once in (7, 1000)
    ]
    assert float(parts[0]) == pytest.approx(float(parts[1]), abs=2)  # other noise, the same number


@pytest.mark.parametrize(
    "objective", [{}, {"iwae_samples": 3}, {"free_bits": 0.2}, {"kl_warmup_epochs": 2}, {"precision": "bfloat16"}]
)
def test_a_training_improves_with_every_objective(config, images, objective):
    reports = list(fit(replace(config, max_epochs=6, learning_rate=3e-3, **objective), images, CPU))
    assert all(math.isfinite(report.val_loss) for report in reports)
    assert reports[-1].val_loss < reports[0].val_loss
    assert reports[-1].val_loss == pytest.approx(reports[-1].val_reconstruction + reports[-1].val_kl)
    assert 0 <= reports[-1].active_units <= 3


def test_a_collapsed_model_has_no_active_unit_and_free_bits_are_not_taken_from_it(config, images):
    heavy = replace(config, max_epochs=8, learning_rate=1e-2, kl_weight=1e4)
    free = replace(heavy, free_bits=0.5)
    collapsed, kept = (list(fit(each, images, CPU))[-1] for each in (heavy, free))
    assert collapsed.active_units == 0
    assert kept.val_kl > 2 * collapsed.val_kl


def test_a_rate_of_a_hundredth_diverges_with_no_likelihood(config, images):
    reports = list(fit(replace(config, max_epochs=4, learning_rate=1e-2), images, CPU))
    assert all(math.isfinite(report.val_loss) for report in reports)


@pytest.mark.parametrize("name", ["logistic", "logistic-mixture", "categorical"])
def test_levels_begin_near_8_bits_per_dimension_and_fall_below_at_once(name, images):
    config = replace(CONFIG, likelihood=name, learning_rate=3e-3, max_epochs=10)
    bits = math.prod(SHAPE) * math.log(2)
    start = evaluate(build_model(config, SHAPE), to_tensor(images.validation, CPU), config).negative_elbo / bits
    assert 7.5 < start < 9.2
    assert list(fit(config, images, CPU))[-1].val_loss / bits < min(start, 7.95)


def test_under_bfloat16_a_likelihood_gets_float32_and_gives_what_float32_gives(config, images, monkeypatch):
    rounded = replace(config, precision="bfloat16")
    model, seen = build_model(rounded, SHAPE), []
    nats = type(model.likelihood).nats

    def spied(likelihood, parameters, x):
        result = nats(likelihood, parameters, x)
        assert parameters.dtype == x.dtype == result.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        seen.append((parameters.detach(), x, result.detach()))
        return result

    monkeypatch.setattr(type(model.likelihood), "nats", spied)
    flatten_parameters(model)
    x = torch.from_numpy(images.train[:8]) / np.float32(255)
    AutogradStep(model, rounded)(x, torch.zeros(8, 3))
    evaluate(model, to_tensor(images.validation, CPU), rounded)
    monkeypatch.undo()
    assert len(seen) >= 2
    for parameters, x, found in seen:
        exact = nats(model.likelihood, parameters.double(), x.double())
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-3)


def test_under_autocast_a_discretized_logistic_of_float32_parameters_is_that_of_float32():
    x = torch.from_numpy(pictures(16)) / np.float32(255)
    parameters = torch.randn(16, 6, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) - 2
    expected = DiscretizedLogistic().nats(parameters, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(DiscretizedLogistic().nats(parameters, x), expected)


def test_the_fused_step_is_for_bernoulli_alone(config):
    step = make_step(model_of(config), config)
    assert isinstance(step, FusedStep if config.likelihood == "bernoulli" else AutogradStep)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_a_training_by_the_generic_step_is_one_by_the_fused_step(images, monkeypatch, activation):
    config = replace(CONFIG, likelihood="bernoulli", encoder_activation=activation, max_epochs=3)
    grey = Images(*(part[:, :1] for part in (images.train, images.validation, images.test)))
    for given in (images, grey):
        fused = list(fit(config, given, CPU))
        with monkeypatch.context() as patched:
            patched.setattr(fused_step, "fits", lambda *_: False)
            assert isinstance(training.make_step(build_model(config, given.shape), config), AutogradStep)
            generic = list(fit(config, given, CPU))
        for one, other in zip(fused, generic, strict=True):
            assert (one.train_loss, one.val_loss) == pytest.approx((other.train_loss, other.val_loss), rel=1e-4)
