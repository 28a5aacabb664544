"""Shapes, sampling and seeding of the VAE."""

from __future__ import annotations

import copy
import io
import math
from typing import get_args

import numpy as np
import pytest
import torch

from vae_tune.config.settings import Activation, TrialConfig, UsageError
from vae_tune.vae.model import VAE, Encoder, build


def _inputs(batch: int, pixels: int, latent_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.rand(batch, pixels, generator=source), torch.randn(batch, latent_size, generator=source)


@pytest.mark.parametrize(
    ("batch", "pixels", "width", "latent_size"), [(1, 35, 3, 1), (5, 35, 3, 2), (2, 784, 400, 20), (1, 1, 1, 1)]
)
def test_the_shapes_follow_the_sizes(batch, pixels, width, latent_size):
    x, noise = _inputs(batch, pixels, latent_size)
    logits, mean, log_variance = VAE(pixels, width, latent_size)(x, noise)
    assert logits.shape == (batch, pixels)
    assert mean.shape == log_variance.shape == (batch, latent_size)


def test_forward_returns_logits_mean_and_log_variance():
    model = build(TrialConfig(latent_size=2, hidden_width=3), pixels=35)
    x, noise = _inputs(4, 35, 2)
    output = model(x, noise)
    mean, log_variance = model.encoder(x)
    assert torch.equal(output.mean, mean)
    assert torch.equal(output.log_variance, log_variance)
    assert torch.equal(output.logits, model.decoder(mean + (0.5 * log_variance).exp() * noise))


def test_the_two_heads_are_different():
    mean, log_variance = Encoder(35, 3, 2)(_inputs(4, 35, 2)[0])
    assert not torch.allclose(mean, log_variance)


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


def _additivity_gap(activation: str) -> float:
    """Return how far f(a) + f(b) - f(0) is from f(a + b): nothing for an affine f."""
    encoder = build(TrialConfig(latent_size=2, hidden_width=16, encoder_activation=activation), 35).double().encoder
    a, b = _inputs(8, 35, 2)[0].double(), torch.rand(8, 35, generator=torch.Generator().manual_seed(1)).double()
    gaps = [
        fa + fb - zero - together
        for fa, fb, zero, together in zip(
            encoder(a), encoder(b), encoder(torch.zeros_like(a)), encoder(a + b), strict=True
        )
    ]
    return max(gap.abs().max().item() for gap in gaps)


def test_the_linear_encoder_is_affine():
    assert _additivity_gap("linear") < 1e-12


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "elu"])
def test_the_other_encoders_are_not_affine(activation):
    assert _additivity_gap(activation) > 1e-4


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "elu"])
def test_an_activation_is_the_one_of_its_name(activation):
    encoder = build(TrialConfig(latent_size=2, hidden_width=16, encoder_activation=activation), 35).encoder
    x = _inputs(4, 35, 2)[0] * 4 - 2
    reference = {"relu": torch.nn.ReLU(), "gelu": torch.nn.GELU(), "tanh": torch.nn.Tanh(), "elu": torch.nn.ELU()}
    hidden = reference[activation](encoder.hidden[0](x))
    torch.testing.assert_close(encoder(x)[0], encoder.mean(hidden))


@pytest.mark.parametrize(("rows", "as_one"), [(200, True), (4, False)])
def test_a_linear_encoder_is_taken_as_one_layer_where_that_is_less_work_and_nothing_else_changes(rows, as_one):
    encoder = build(TrialConfig(latent_size=2, hidden_width=16), 35).double().encoder
    x = _inputs(rows, 35, 2)[0].double()
    hidden = encoder.hidden[0](x)
    assert encoder._is_less_as_one_layer(*x.shape) == as_one
    torch.testing.assert_close(encoder(x), (encoder.mean(hidden), encoder.log_variance(hidden)))
    found, expected = (
        torch.autograd.grad(sum((part**2).sum() for part in parts), list(encoder.parameters()))
        for parts in (encoder(x), (encoder.mean(hidden), encoder.log_variance(hidden)))
    )
    torch.testing.assert_close(found, expected)


def test_one_layer_in_place_of_two_is_rounded_to_bfloat16_once():
    encoder = build(TrialConfig(latent_size=2, hidden_width=16), 35).encoder
    x = _inputs(200, 35, 2)[0]
    exact = encoder(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded, twice = encoder(x)[0], encoder.mean(encoder.hidden[0](x))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < (twice.float() - exact).norm()


def test_the_decoder_has_a_relu():
    decoder = build(TrialConfig(latent_size=2, hidden_width=16), 35).decoder
    z = _inputs(4, 35, 2)[1]
    torch.testing.assert_close(decoder(z), decoder.logits(torch.relu(decoder.hidden[0](z))))


def test_probabilities_are_the_sigmoid_of_the_logits():
    decoder = build(TrialConfig(latent_size=2, hidden_width=3), 35).decoder
    z = _inputs(4, 35, 2)[1]
    torch.testing.assert_close(decoder.probabilities(z), 1 / (1 + (-decoder(z)).exp()))


@pytest.mark.parametrize(("pixels", "width", "latent_size"), [(784, 400, 20), (35, 3, 1)])
def test_the_number_of_parameters_follows_the_sizes(pixels, width, latent_size):
    model = VAE(pixels, width, latent_size)
    encoder = (pixels + 1) * width + 2 * (width + 1) * latent_size
    decoder = (latent_size + 1) * width + (width + 1) * pixels
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder


def test_every_parameter_gets_a_gradient():
    model = build(TrialConfig(latent_size=2, hidden_width=3), 35)
    x, noise = _inputs(4, 35, 2)
    torch.cat([part.flatten() for part in model(x, noise)]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_weights():
    first, second = (build(TrialConfig(seed=3, hidden_width=5), 35).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights():
    first, second = (build(TrialConfig(seed=seed, hidden_width=5), 35).state_dict() for seed in (3, 4))
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_the_weights_do_not_depend_on_the_global_seed():
    torch.manual_seed(1)
    first = build(TrialConfig(hidden_width=5), 35)
    torch.manual_seed(2)
    second = build(TrialConfig(hidden_width=5), 35)
    assert torch.equal(first.encoder.hidden[0].weight, second.encoder.hidden[0].weight)


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(123)  # a state that building the model before cannot have left
    before = torch.get_rng_state()
    build(TrialConfig(hidden_width=5), 35)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("activation", ["linear", "relu", "gelu", "tanh", "elu"])
def test_build_uses_the_sizes_and_the_activation_of_the_configuration(activation):
    config = TrialConfig(latent_size=3, hidden_width=5, encoder_activation=activation)
    model = build(config, pixels=35)
    assert model.latent_size == 3
    assert model.encoder.hidden[0].weight.shape == (5, 35)
    assert model.encoder.activation is Encoder(35, 5, 3, activation).activation


@pytest.mark.parametrize("channels", [(), (1,)])
@pytest.mark.parametrize("as_type", [np.asarray, torch.from_numpy])
def test_images_are_encoded_as_latent_means_whatever_they_are_given_as(channels, as_type):
    model = build(TrialConfig(latent_size=3, hidden_width=5), pixels=35)
    images = np.random.default_rng(0).integers(0, 256, (7, *channels, 5, 7), np.uint8)
    expected = model.encoder(torch.from_numpy(images.reshape(7, 35)) / 255)[0]
    floats = (images / 255).astype(np.float32)
    foreign = floats.astype(floats.dtype.newbyteorder())
    for given in (*map(as_type, (images, images / 255, floats)), foreign):
        means = model.encode(given)
        assert (means.shape, means.requires_grad) == ((7, 3), False)
        assert torch.allclose(means, expected, atol=1e-6)


def test_more_images_than_are_taken_at_once_come_out_in_their_order():
    model = build(TrialConfig(latent_size=2, hidden_width=3), pixels=4)
    images = np.random.default_rng(0).random((9000, 2, 2), np.float32)
    expected = model.encoder(torch.from_numpy(images.reshape(9000, 4)))[0]
    assert torch.allclose(model.encode(images), expected, atol=1e-5)
    assert model.encode(images[:0]).shape == (0, 2)


def test_images_in_black_and_white_may_be_truth_values():
    model = build(TrialConfig(latent_size=2, hidden_width=3), pixels=4)
    white = np.array([[[True, False], [False, True]]])
    assert torch.equal(model.encode(white), model.encode(white.astype(np.uint8) * 255))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 7), np.uint8), r"must be \(n, height, width\) or .* 35 pixels an image, but got .* \(5, 7\)"),
        (np.zeros((2, 35), np.uint8), r"but got the shape \(2, 35\)"),
        (np.zeros((2, 3, 5, 7), np.uint8), r"but got the shape \(2, 3, 5, 7\)"),
        (np.zeros((2, 5, 7), np.int64), "must be uint8 in 0..255 or floats in 0..1, but got torch.int64"),
        (np.full((2, 5, 7), 255.0), "must lie in 0..1, but got 255 to 255: divide by 255?"),
        (np.full((2, 5, 7), np.nan), "must lie in 0..1, but got nan to nan"),
        (["a picture"], "must be one array of numbers, but got list"),
        (None, "must be one array of numbers, but got NoneType"),
    ],
)
def test_what_are_no_images_of_the_model_is_refused(images, message):
    with pytest.raises(UsageError, match=message):
        build(TrialConfig(latent_size=2, hidden_width=3), pixels=35).encode(images)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_a_model_can_be_saved_whole_and_copied(activation):
    config = TrialConfig(latent_size=2, hidden_width=3, encoder_activation=activation, decoder_activation=activation)
    model = build(config, pixels=35)
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7), np.uint8)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for copied in (torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert torch.equal(copied.encode(images), model.encode(images))
        assert torch.equal(copied.decoder(torch.ones(1, 2)), model.decoder(torch.ones(1, 2)))
