"""The loss against independent references, in nats per image."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from vae_tune.vae.model import VAE
from vae_tune.vae.objective import _in_few_kernels, bernoulli, kl, negative_elbo, reconstruction


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _grey(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_kl_is_the_divergence_of_two_normal_distributions():
    mean, log_variance = _draw(50, 7, seed=1) * 3, _draw(50, 7, seed=2) * 2
    posterior = Normal(mean, (0.5 * log_variance).exp())
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(kl(mean, log_variance), kl_divergence(posterior, prior).sum(dim=1))


def test_kl_is_zero_where_the_posterior_is_the_prior():
    assert kl(torch.zeros(3, 4), torch.zeros(3, 4)).tolist() == [0, 0, 0]


def test_kl_is_never_negative():
    assert (kl(_draw(1000, 5, seed=1), _draw(1000, 5, seed=2)) >= 0).all()


@pytest.mark.parametrize("binary", [False, True], ids=["grey", "binary"])
def test_reconstruction_is_the_bernoulli_cross_entropy(binary):
    logits, x = _draw(20, 35) * 4, _grey(20, 35)
    x = x.round() if binary else x
    p = torch.sigmoid(logits)
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).sum(dim=1)
    torch.testing.assert_close(reconstruction(logits, x), expected)


@pytest.mark.parametrize(
    ("logit", "x", "nats"),
    [(1000.0, 0.0, 1000.0), (-1000.0, 1.0, 1000.0), (1000.0, 1.0, 0.0), (-1000.0, 0.0, 0.0), (1000.0, 0.25, 750.0)],
)
def test_reconstruction_is_right_where_a_sigmoid_would_round(logit, x, nats):
    assert reconstruction(torch.tensor([[logit]]), torch.tensor([[x]])).item() == nats


def test_reconstruction_has_finite_gradients_at_extreme_logits():
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    reconstruction(logits, torch.tensor([[0.0, 1.0]])).sum().backward()
    assert logits.grad.tolist() == [[1.0, -1.0]]


def test_negative_elbo_is_the_sum_of_its_parts_at_weight_one():
    logits, x, mean, log_variance = _draw(6, 35), _grey(6, 35), _draw(6, 3, seed=1), _draw(6, 3, seed=2)
    expected = reconstruction(logits, x) + kl(mean, log_variance)
    assert torch.equal(negative_elbo(logits, x, mean, log_variance), expected)


@pytest.mark.parametrize("batch", [1, 6])
def test_every_loss_is_per_image(batch):
    logits, x, mean, log_variance = _draw(batch, 35), _grey(batch, 35), _draw(batch, 3), _draw(batch, 3)
    assert reconstruction(logits, x).shape == (batch,)
    assert kl(mean, log_variance).shape == (batch,)
    assert negative_elbo(logits, x, mean, log_variance).shape == (batch,)


def test_an_image_does_not_change_the_loss_of_another():
    logits, x, mean, log_variance = _draw(6, 35), _grey(6, 35), _draw(6, 3, seed=1), _draw(6, 3, seed=2)
    alone = negative_elbo(logits[2:3], x[2:3], mean[2:3], log_variance[2:3])
    torch.testing.assert_close(negative_elbo(logits, x, mean, log_variance)[2:3], alone)


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_the_gradients_of_the_whole_loss_are_right(activation):
    torch.manual_seed(0)
    model = VAE(pixels=6, hidden_width=4, latent_size=2, encoder_activation=activation).double()
    x, noise = _grey(3, 6), _draw(3, 2)
    names, weights = zip(*model.named_parameters(), strict=True)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, values, strict=True))
        output = torch.func.functional_call(model, parameters, (x, noise))
        return negative_elbo(output.logits, x, output.mean, output.log_variance)

    assert torch.autograd.gradcheck(loss, tuple(weight.detach().requires_grad_() for weight in weights))


@pytest.mark.parametrize("given", [False, True])
def test_a_batch_too_large_for_the_cache_is_worked_through_in_parts_without_a_change(given):
    logits, x = torch.randn(600, 784, dtype=torch.float64), torch.rand(600, 784, dtype=torch.float64)
    buffers = torch.full((2, 600, 784), torch.nan, dtype=torch.float64) if given else ()
    nats, gradient = bernoulli(logits, x, *buffers)
    assert not given or gradient.data_ptr() == buffers[0].data_ptr()
    expected = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=-1)
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(gradient, torch.sigmoid(logits) - x)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_gpu_gets_the_same_by_fewer_kernels(in_place):
    logits = torch.cat([_draw(20, 35) * 4, torch.tensor([[1000.0, -1000.0, 50.0, -50.0, 0.0]]).repeat(1, 7)])
    x = torch.cat([_grey(20, 35), torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.5]]).repeat(1, 7)])
    nats, gradient = bernoulli(logits, x)
    written = logits if in_place else torch.full_like(logits, torch.nan)
    torch.testing.assert_close(_in_few_kernels(logits, x, written, torch.full_like(logits, torch.nan)), nats)
    torch.testing.assert_close(written, gradient)
