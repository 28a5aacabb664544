"""Objectives beyond the plain ELBO: their values and gradients against independent references."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.autograd_step import AutogradStep
from vae_tune.vae.flat_parameters import flatten_parameters
from vae_tune.vae.fused_step import FusedStep
from vae_tune.vae.model import build_model
from vae_tune.vae.objective import importance_bound, kl_by_latent, missing_bits

SHAPE = (1, 5, 7)
CONFIG = TrialConfig(latent_size=3, hidden_width=9, encoder_activation="tanh")


def batch(size, samples=1):
    source = torch.Generator().manual_seed(0)
    x = torch.rand(size, *SHAPE, generator=source, dtype=torch.float64)
    return x, torch.randn(size * samples, 3, generator=source, dtype=torch.float64)


def model(config=CONFIG):
    vae = build_model(config, SHAPE).double()
    for parameter in vae.parameters():
        parameter.data.mul_(2)
    flatten_parameters(vae)
    return vae


def gradients(vae):
    return [parameter.grad for parameter in vae.parameters()]


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_with_one_sample_it_is_the_plain_step(weight):
    (x, noise), plain, other = batch(8), model(), model()
    expected = FusedStep(plain, CONFIG)(x, noise, weight)
    torch.testing.assert_close(AutogradStep(other, CONFIG)(x, noise, weight), expected)
    torch.testing.assert_close(gradients(other), gradients(plain))


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_plain_step_weights_the_kl_in_the_gradient_alone(weight):
    (x, noise), vae = batch(8), model()
    logits, mean, log_variance = vae(x, noise)
    rec = -Bernoulli(logits=logits, validate_args=False).log_prob(x).flatten(1).sum(dim=1).mean()
    divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    expected = torch.autograd.grad(rec + weight * divergence, list(vae.parameters()))
    torch.testing.assert_close(FusedStep(vae, CONFIG)(x, noise, weight), (rec + divergence).detach())
    torch.testing.assert_close(gradients(vae), list(expected))


def test_the_importance_bound_and_its_gradient_are_those_of_burda_et_al():
    """Equation 8, and equation 14: the gradient is that of the log-weights, weighted by the normalized weights."""
    config = replace(CONFIG, iwae_samples=4)
    (x, noise), vae = batch(6, samples=4), model()
    mean, log_variance = (part.repeat_interleave(4, dim=0) for part in vae.network.encode(x))
    deviation = (0.5 * log_variance).exp()
    z = mean + deviation * noise
    likelihood = Bernoulli(logits=vae.network.decode(z), validate_args=False).log_prob(x.repeat_interleave(4, dim=0))
    prior, posterior = Normal(0.0, 1.0).log_prob(z), Normal(mean, deviation).log_prob(z)
    log_weights = (likelihood.flatten(1).sum(dim=1) + prior.sum(dim=1) - posterior.sum(dim=1)).view(6, 4)
    expected = torch.autograd.grad(
        -(log_weights.softmax(dim=1).detach() * log_weights).sum(dim=1).mean(), list(vae.parameters())
    )
    bound = AutogradStep(vae, config)(x, noise)
    torch.testing.assert_close(bound, -log_weights.exp().mean(dim=1).log().mean().detach())
    torch.testing.assert_close(gradients(vae), list(expected))


def test_the_importance_bound_falls_with_the_samples_it_is_given():
    weights = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)) * 2
    means = [importance_bound(weights[:, :count]).mean().item() for count in (1, 2, 4, 16)]
    assert means == sorted(means, reverse=True)


def test_free_bits_make_up_for_what_a_latent_carries_less():
    mean = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.2, 0.0]])
    log_variance = torch.zeros(2, 3)
    by_latent = kl_by_latent(mean, log_variance).mean(dim=0)
    torch.testing.assert_close(by_latent, torch.tensor([0.5, 0.01, 1.0]))
    torch.testing.assert_close(by_latent.sum() + missing_bits(mean, log_variance, 0.6), by_latent.clamp(min=0.6).sum())


def test_a_latent_below_its_free_bits_is_not_pushed_further_down():
    (x, _), free, plain = batch(8), model(), model()
    noise = torch.zeros(8, 3, dtype=torch.float64)
    for vae in (free, plain):
        torch.nn.init.zeros_(vae.network.decoder.hidden[0].weight)  # no reason left to carry anything
    AutogradStep(free, replace(CONFIG, free_bits=1e6))(x, noise)
    AutogradStep(plain, CONFIG)(x, noise)
    assert free.network.encoder.mean.weight.grad.abs().max() < 1e-12
    assert plain.network.encoder.mean.weight.grad.abs().max() > 1e-3


def test_bfloat16_changes_the_bound_but_only_a_little():
    vae, (x, noise) = model().float(), (part.float() for part in batch(8))
    exact = AutogradStep(vae, CONFIG)(x, noise)
    rounded = AutogradStep(vae, replace(CONFIG, precision="bfloat16"))(x, noise)
    assert exact != rounded
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
