"""The gradient that is written out equals the one that autograd finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.flat_parameters import flatten_parameters
from vae_tune.vae.fused_step import FusedStep, saves_products
from vae_tune.vae.model import VAE, build_model

SHAPE = (1, 5, 7)
CONFIG = TrialConfig(latent_size=3, hidden_width=9, batch_size=16)


def _batch(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randn(size, CONFIG.latent_size, generator=generator, dtype=torch.float64)


def _model(config: TrialConfig) -> VAE:
    """Return a model in float64, with weights large enough for the activations to bend."""
    model = build_model(config, SHAPE).double()
    for parameter in model.parameters():
        parameter.data.mul_(2)
    flatten_parameters(model)
    return model


def _by_autograd(model: VAE, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the loss by torch.distributions, and its gradients."""
    logits, mean, log_variance = model(x, noise)
    likelihood = Bernoulli(logits=logits, validate_args=False).log_prob(x).flatten(1).sum(dim=1)
    posterior, prior = Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(()), torch.ones(()))
    loss = (kl_divergence(posterior, prior).sum(dim=-1) - likelihood).mean()
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def _gradients(model: VAE) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("activation", ["linear", "relu", "gelu", "tanh", "elu"])
@pytest.mark.parametrize("hidden_layers", [1, 3])
@pytest.mark.parametrize("part", ["encoder_activation", "decoder_activation"])
def test_loss_and_gradient_are_those_of_autograd(activation, hidden_layers, part):
    config = replace(CONFIG, hidden_layers=hidden_layers, **{part: activation})
    model, (x, noise) = _model(config), _batch(16)
    loss, gradients = _by_autograd(model, x, noise)
    torch.testing.assert_close(FusedStep(model, config)(x, noise), loss)
    torch.testing.assert_close(_gradients(model), gradients)


def test_the_default_activation_of_color_images_is_followed():
    config = replace(CONFIG, likelihood="bernoulli", latent_size=1)  # a linear encoder would be taken as one layer
    model = build_model(config, (3, 5, 7)).double()
    flatten_parameters(model)
    x, noise = torch.rand(16, 3, 5, 7, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64)
    assert not saves_products(model.network, config, batch=16)
    loss, gradients = _by_autograd(model, x, noise)
    torch.testing.assert_close(FusedStep(model, config)(x, noise), loss)
    torch.testing.assert_close(_gradients(model), gradients)


@pytest.mark.parametrize(("latent_size", "joint"), [(1, True), (9, False)])
def test_a_linear_encoder_is_taken_as_one_layer_where_that_is_less_work_and_nothing_else_changes(latent_size, joint):
    config = replace(CONFIG, latent_size=latent_size)
    model, (x, _) = _model(config), _batch(16)
    noise = torch.randn(16, latent_size, dtype=torch.float64)
    assert saves_products(model.network, config, batch=16) == joint
    loss, gradients = _by_autograd(model, x, noise)
    torch.testing.assert_close(FusedStep(model, config)(x, noise), loss)
    torch.testing.assert_close(_gradients(model), gradients)


@pytest.mark.parametrize(("precision", "joint"), [("float32", True), ("bfloat16", False)])
def test_layers_that_bfloat16_makes_twice_as_fast_are_taken_one_by_one(precision, joint):
    """Together they take 0.7 times as many multiplications here, but in float32."""
    config = replace(CONFIG, latent_size=2, precision=precision)
    assert saves_products(build_model(config, SHAPE).network, config, batch=16) == joint


def test_a_smaller_batch_after_a_larger_one_leaves_nothing_of_it():
    model, (x, noise) = _model(CONFIG), _batch(5, seed=1)
    step = FusedStep(model, CONFIG)
    step(*_batch(16))
    loss, gradients = _by_autograd(model, x, noise)
    torch.testing.assert_close(step(x, noise), loss)
    torch.testing.assert_close(_gradients(model), gradients)


def test_a_step_leaves_its_inputs_as_they_were():
    x, noise = _batch(16)
    FusedStep(_model(CONFIG), CONFIG)(x, noise)
    assert torch.equal(x, _batch(16)[0])
    assert torch.equal(noise, _batch(16)[1])


def test_bfloat16_rounds_the_gradient_but_keeps_its_direction():
    config = replace(CONFIG, precision="bfloat16")
    model, (x, noise) = _model(config).float(), (part.float() for part in _batch(16))
    flatten_parameters(model)
    _, gradients = _by_autograd(model, x, noise)
    FusedStep(model, config)(x, noise)
    for rounded, exact in zip(_gradients(model), gradients, strict=True):
        assert not torch.equal(rounded, exact)
        assert torch.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0) > 0.999
