"""The terms of the loss against independent references, in nats per image."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.model import build_model
from vae_tune.vae.objective import kl


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_the_divergence_of_two_normal_distributions():
    mean, log_variance = _draw(50, 7, seed=1) * 3, _draw(50, 7, seed=2) * 2
    posterior = Normal(mean, (0.5 * log_variance).exp())
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(kl(mean, log_variance), kl_divergence(posterior, prior).sum(dim=1))


def test_kl_is_zero_where_the_posterior_is_the_prior():
    assert kl(torch.zeros(3, 4), torch.zeros(3, 4)).tolist() == [0, 0, 0]


def test_kl_is_never_negative():
    assert (kl(_draw(1000, 5, seed=1), _draw(1000, 5, seed=2)) >= 0).all()


def test_kl_is_per_image_and_an_image_does_not_change_that_of_another():
    mean, log_variance = _draw(6, 3, seed=1), _draw(6, 3, seed=2)
    assert kl(mean, log_variance).shape == (6,)
    torch.testing.assert_close(kl(mean, log_variance)[2:3], kl(mean[2:3], log_variance[2:3]))


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_the_gradients_of_the_whole_loss_are_right(activation):
    config = TrialConfig(hidden_width=4, latent_size=2, encoder_activation=activation)
    model = build_model(config, (1, 2, 3)).double()
    x, noise = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(9)).double(), _draw(3, 2)
    names, weights = zip(*model.named_parameters(), strict=True)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        output = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x, noise))
        return model.likelihood.nats(output.parameters, x) + kl(output.mean, output.log_variance)

    assert torch.autograd.gradcheck(loss, tuple(weight.detach().requires_grad_() for weight in weights))
