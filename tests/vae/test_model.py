"""The VAE: reparameterization and seeding, and latents of the images that a user gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.model import VAE, build_model
from vae_tune.vae.pictures import posterior

SHAPE = (1, 5, 7)


def _inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.rand(batch, *SHAPE, generator=source), torch.randn(batch, 2, generator=source)


def test_forward_returns_the_likelihoods_parameters_mean_and_log_variance():
    model = build_model(TrialConfig(latent_size=2, hidden_width=3), SHAPE)
    x, noise = _inputs(4)
    output = model(x, noise)
    mean, log_variance = model.network.encode(x)
    assert torch.equal(output.mean, mean)
    assert torch.equal(output.log_variance, log_variance)
    assert torch.equal(output.parameters, model.network.decode(mean + (0.5 * log_variance).exp() * noise))


def test_decoded_latents_are_the_means_of_the_likelihood():
    model = build_model(TrialConfig(latent_size=2, hidden_width=3), SHAPE)
    z = _inputs(4)[1]
    assert torch.equal(model.decode(z), torch.sigmoid(model.network.decode(z)))
    assert not model.decode(z).requires_grad


def test_reparameterize_draws_from_the_posterior():
    draws = 200_000
    mean, log_variance = torch.tensor([[1.5, -2.0]]), torch.tensor([[math.log(4.0), math.log(0.25)]])
    noise = torch.randn(draws, 2, generator=torch.Generator().manual_seed(0))
    z = VAE.reparameterize(mean, log_variance, noise)
    torch.testing.assert_close(z.mean(dim=0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(dim=0), torch.tensor([4.0, 0.25]), atol=0, rtol=0.03)


def test_reparameterize_without_noise_is_the_mean():
    mean = torch.tensor([[1.5, -2.0]])
    assert torch.equal(VAE.reparameterize(mean, torch.ones(1, 2), torch.zeros(1, 2)), mean)


def test_every_parameter_gets_a_gradient():
    model = build_model(TrialConfig(latent_size=2, hidden_width=3), SHAPE)
    x, noise = _inputs(4)
    torch.cat([part.flatten() for part in model(x, noise)]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_weights():
    first, second = (build_model(TrialConfig(seed=3, hidden_width=5), SHAPE).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights():
    first, second = (build_model(TrialConfig(seed=seed, hidden_width=5), SHAPE).state_dict() for seed in (3, 4))
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_the_weights_do_not_depend_on_the_global_seed():
    torch.manual_seed(1)
    first = build_model(TrialConfig(hidden_width=5), SHAPE)
    torch.manual_seed(2)
    second = build_model(TrialConfig(hidden_width=5), SHAPE)
    assert torch.equal(first.network.encoder.mean.weight, second.network.encoder.mean.weight)


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(123)  # a state that building the model before cannot have left
    before = torch.get_rng_state()
    build_model(TrialConfig(hidden_width=5), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("channels", [(), (1,)])
@pytest.mark.parametrize("as_type", [np.asarray, torch.from_numpy])
def test_images_are_encoded_as_latent_means_whatever_they_are_given_as(channels, as_type):
    model = build_model(TrialConfig(latent_size=3, hidden_width=5), SHAPE)
    images = np.random.default_rng(0).integers(0, 256, (7, *channels, 5, 7), np.uint8)
    expected = model.network.encode(torch.from_numpy(images) / 255)[0]
    floats = (images / 255).astype(np.float32)
    foreign = floats.astype(floats.dtype.newbyteorder())
    for given in (*map(as_type, (images, images / 255, floats)), foreign):
        means = model.encode(given)
        assert (means.shape, means.requires_grad) == ((7, 3), False)
        assert torch.allclose(means, expected, atol=1e-6)


def test_more_images_than_are_taken_at_once_come_out_in_their_order():
    model = build_model(TrialConfig(latent_size=2, hidden_width=3), (1, 2, 2))
    images = np.random.default_rng(0).random((9000, 2, 2), np.float32)
    expected = model.network.encode(torch.from_numpy(images))[0]
    assert torch.allclose(model.encode(images), expected, atol=1e-5)
    assert model.encode(images[:0]).shape == (0, 2)


def test_of_the_mlp_4096_images_are_encoded_at_once_and_fewer_of_large_ones():
    model = build_model(TrialConfig(latent_size=2, hidden_width=3), (1, 28, 28))
    images = torch.rand(4097, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = [model.network.encode(part) for part in images.split(4096)]  # to the last bit as in version 0.1.0
    assert torch.equal(model.encode(images), torch.cat([mean for mean, _ in expected]))
    pixels = images.mul(255).round().to(torch.uint8)
    found = posterior(model, pixels.numpy())
    expected = [model.network.encode(part / 255) for part in pixels.split(4096)]
    assert all(map(torch.equal, found, map(torch.cat, zip(*expected, strict=True))))
    assert build_model(TrialConfig(latent_size=2, hidden_width=3), (3, 64, 64)).at_once == 1627


def test_images_in_black_and_white_may_be_truth_values():
    model = build_model(TrialConfig(latent_size=2, hidden_width=3), (1, 2, 2))
    white = np.array([[[True, False], [False, True]]])
    assert torch.equal(model.encode(white), model.encode(white.astype(np.uint8) * 255))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 7), np.uint8), r"must be \(n, 5, 7\) or \(n, 1, 5, 7\), but got the shape \(5, 7\)"),
        (np.zeros((2, 35), np.uint8), r"but got the shape \(2, 35\)"),
        (np.zeros((2, 3, 5, 7), np.uint8), r"but got the shape \(2, 3, 5, 7\)"),
        (np.zeros((2, 5, 7, 1), np.uint8), r"but got the shape \(2, 5, 7, 1\)"),
        (np.zeros((2, 5, 7), np.int64), "must be uint8 in 0..255 or floats in 0..1, but got torch.int64"),
        (np.full((2, 5, 7), 255.0), "must lie in 0..1, but got 255 to 255: divide by 255?"),
        (np.full((2, 5, 7), np.nan), "must lie in 0..1, but got nan to nan"),
        (["a picture"], "must be one array of numbers, but got list"),
        (None, "must be one array of numbers, but got NoneType"),
    ],
)
def test_what_are_no_images_of_the_model_is_refused(images, message):
    with pytest.raises(UsageError, match=message):
        build_model(TrialConfig(latent_size=2, hidden_width=3), SHAPE).encode(images)


def test_color_images_with_their_channels_last_are_refused():
    model = build_model(TrialConfig(latent_size=2, hidden_width=3), (3, 5, 7))
    assert model.encode(np.zeros((2, 3, 5, 7), np.uint8)).shape == (2, 2)
    with pytest.raises(UsageError, match=r"must be \(n, 3, 5, 7\), but got the shape \(2, 5, 7, 3\)"):
        model.encode(np.zeros((2, 5, 7, 3), np.uint8))
