"""The importance-weighted likelihood against exact values: a closed form, and quadrature over the latents."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.model import build_model
from vae_tune.vae.nll import negative_log_likelihoods, over_images
from vae_tune.vae.objective import kl
from vae_tune.vae.threads import cpu_threads


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class LinearGaussian:
    """x = W z + noise of variance 0.25; W has 2 columns, orthogonal, so that the true q(z|x) is diagonal."""

    variance = 0.25

    def __init__(self):
        self.weight = torch.linalg.qr(drawn(5, 2))[0] * torch.tensor([2.0, 0.5])

    def images(self, count):
        return drawn(count, 2, seed=1) @ self.weight.T + 0.5 * drawn(count, 5, seed=2)

    def log_likelihood(self, z, x):
        return Normal(z @ self.weight.T, math.sqrt(self.variance)).log_prob(x).sum(dim=1)

    def posterior(self, x):
        precision = 1 + self.weight.square().sum(dim=0) / self.variance
        mean = x @ self.weight / self.variance / precision
        return mean, -precision.log().expand_as(mean)

    def rough_posterior(self, x):
        mean, log_variance = self.posterior(x)
        return mean + 0.2, log_variance + 0.5

    def exact(self, images):
        covariance = self.weight @ self.weight.T + self.variance * torch.eye(5)
        return -MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance.double()).log_prob(images)


LINEAR = LinearGaussian()


@pytest.mark.parametrize("samples", [1, 7])
def test_with_the_true_posterior_every_sample_gives_the_exact_value(samples):
    images = LINEAR.images(20)
    found = negative_log_likelihoods(images, LINEAR.posterior, LINEAR.log_likelihood, samples)
    torch.testing.assert_close(found, LINEAR.exact(images), rtol=0, atol=1e-9)


def test_with_another_posterior_many_samples_come_close_to_the_exact_value():
    images = LINEAR.images(20)
    found = negative_log_likelihoods(images, LINEAR.rough_posterior, LINEAR.log_likelihood, 20_000)
    torch.testing.assert_close(found, LINEAR.exact(images), rtol=0, atol=0.03)


def test_the_estimate_falls_with_the_samples_and_stays_above_the_exact_value():
    images = LINEAR.images(400)
    means = [
        negative_log_likelihoods(images, LINEAR.rough_posterior, LINEAR.log_likelihood, samples).mean().item()
        for samples in (1, 3, 10, 100)
    ]
    exact = LINEAR.exact(images).mean().item()
    assert means[0] > means[1] + 0.05 > means[2] + 0.1
    assert means[2] > means[3] > exact - 0.01


def vae():
    config = TrialConfig(hidden_width=8, latent_size=2, encoder_activation="tanh", seed=3)
    return build_model(config, (1, 2, 3)).double()


def estimate(model, images, samples):
    return negative_log_likelihoods(images, model.network.encode, model.log_likelihood, samples)


def pixels(*rows):
    return torch.tensor(rows, dtype=torch.float64).view(-1, 1, 2, 3)


def test_a_bernoulli_vae_agrees_with_quadrature_over_its_two_latents():
    model, images = vae(), pixels([1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1])
    for weight in model.network.decoder.parameters():  # far from the initial weights, which ignore z
        weight.data *= 4
    model.network.encoder.log_variance.bias.data += 1  # wide enough to reach where p(x, z) is
    axis = torch.linspace(-8, 8, 201, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    prior = Normal(0, 1).log_prob(z).sum(dim=1)
    cell = 2 * math.log((axis[1] - axis[0]).item())
    exact = [
        -(prior + Bernoulli(logits=model.network.decode(z)).log_prob(x).flatten(1).sum(dim=1) + cell)
        .logsumexp(dim=0)
        .item()
        for x in images
    ]
    assert estimate(model, images, 50_000).tolist() == pytest.approx(exact, abs=0.01)


def test_one_sample_gives_the_negative_elbo_on_average():
    model, image = vae(), pixels([1, 0, 1, 1, 0, 0])
    found = estimate(model, image.expand(4000, -1, -1, -1), 1)
    mean, log_variance = model.network.encode(image)
    z = mean + (0.5 * log_variance).exp() * drawn(4000, 2, seed=5)
    expected = kl(mean, log_variance) - model.log_likelihood(z, image).mean()
    assert found.mean().item() == pytest.approx(expected.item(), abs=0.05)


def test_weights_thousands_of_nats_apart_neither_vanish_nor_overflow():
    def extreme(z, x):
        return torch.where(torch.arange(len(z)) == 3, -20_000.0, -30_000.0)

    found = negative_log_likelihoods(
        torch.zeros(1, 4), lambda x: (torch.zeros(1, 2), torch.zeros(1, 2)), extreme, samples=10
    )
    assert found.item() == pytest.approx(20_000 + math.log(10), abs=1e-6)


def test_the_number_of_threads_changes_no_bit_of_an_estimate():
    model = build_model(TrialConfig(hidden_width=50, latent_size=3), (1, 28, 28))
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    found = []
    for threads in (1, 2, 4):
        with cpu_threads(threads):
            found.append(estimate(model, images, 1500))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_an_estimate_that_is_interrupted_takes_up_no_further_image():
    taken = []

    def interrupt():
        raise KeyboardInterrupt

    with cpu_threads(2), pytest.raises(KeyboardInterrupt):
        negative_log_likelihoods(
            torch.zeros(1000, 4),
            lambda x: taken.append(1) or (torch.zeros(1, 2), torch.zeros(1, 2)),
            lambda z, x: torch.zeros(len(z)),
            samples=500,
            progress=interrupt,
        )
    assert len(taken) < 500


def test_no_more_than_a_thousand_samples_are_decoded_at_once():
    sizes = []

    def spy(z, x):
        sizes.append(len(z))
        return LINEAR.log_likelihood(z, x)

    negative_log_likelihoods(LINEAR.images(2), LINEAR.posterior, spy, 2300)
    assert sizes == [1000, 1000, 300] * 2


def rough(images, **options):
    return negative_log_likelihoods(images, LINEAR.rough_posterior, LINEAR.log_likelihood, 5, **options)


def test_the_first_images_of_more_have_the_same_estimates():
    assert torch.equal(rough(LINEAR.images(20)[:7]), rough(LINEAR.images(20))[:7])


def test_equal_images_get_noise_of_their_own():
    assert len(rough(LINEAR.images(1).expand(5, -1)).unique()) == 5


def test_the_seed_alone_decides_the_noise():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = rough(LINEAR.images(3), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, rough(LINEAR.images(3), seed=4))
    assert not torch.equal(first, rough(LINEAR.images(3), seed=5))


def test_progress_is_told_of_every_image():
    done = []
    rough(LINEAR.images(6), progress=lambda: done.append(1))
    assert len(done) == 6


def test_the_standard_error_is_that_of_the_mean_over_images():
    values = drawn(50)
    estimate = over_images(values)
    assert estimate.mean == pytest.approx(values.numpy().mean())
    assert estimate.standard_error == pytest.approx(np.std(values.numpy(), ddof=1) / math.sqrt(50))


def test_one_image_has_no_standard_error():
    assert over_images(drawn(1)).standard_error is None
