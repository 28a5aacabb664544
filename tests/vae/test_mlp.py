"""The fully connected network: shapes, activations, and its encoder as one layer."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from vae_tune.config.settings import Activation, TrialConfig
from vae_tune.vae.model import build_model
from vae_tune.vae.networks.mlp import MLP, Encoder


def _network(**fields: object) -> MLP:
    network = build_model(TrialConfig(latent_size=2, **{"hidden_width": 16, **fields}), (1, 5, 7)).network
    assert isinstance(network, MLP)
    return network


def _images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 35, generator=torch.Generator().manual_seed(seed))


def _latents(count: int) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("batch", "shape", "outputs", "width", "latent_size"),
    [(1, (1, 5, 7), 1, 3, 1), (5, (3, 5, 7), 3, 3, 2), (2, (1, 28, 28), 2, 400, 20), (1, (1, 1, 1), 1, 1, 1)],
)
def test_the_shapes_follow_the_sizes(batch, shape, outputs, width, latent_size):
    network = MLP(shape, outputs, TrialConfig(hidden_width=width, latent_size=latent_size))
    mean, log_variance = network.encode(torch.rand(batch, *shape))
    assert mean.shape == log_variance.shape == (batch, latent_size)
    assert network.decode(mean).shape == (batch, outputs, *shape[1:])


def test_the_two_heads_are_different():
    mean, log_variance = _network().encode(_images(4))
    assert not torch.allclose(mean, log_variance)


def _additivity_gap(activation: str) -> float:
    """Return how far f(a) + f(b) - f(0) is from f(a + b): nothing for an affine f."""
    encoder = _network(encoder_activation=activation).double().encoder
    a, b = _images(8).double(), _images(8, seed=1).double()
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
    encoder = _network(encoder_activation=activation).encoder
    x = _images(4) * 4 - 2
    reference = {"relu": torch.nn.ReLU(), "gelu": torch.nn.GELU(), "tanh": torch.nn.Tanh(), "elu": torch.nn.ELU()}
    hidden = reference[activation](encoder.hidden[0](x))
    torch.testing.assert_close(encoder(x)[0], encoder.mean(hidden))


@pytest.mark.parametrize(("rows", "as_one"), [(200, True), (4, False)])
def test_a_linear_encoder_is_taken_as_one_layer_where_that_is_less_work_and_nothing_else_changes(rows, as_one):
    encoder = _network().double().encoder
    x = _images(rows).double()
    hidden = encoder.hidden[0](x)
    assert encoder._is_less_as_one_layer(*x.shape) == as_one
    torch.testing.assert_close(encoder(x), (encoder.mean(hidden), encoder.log_variance(hidden)))
    found, expected = (
        torch.autograd.grad(sum((part**2).sum() for part in parts), list(encoder.parameters()))
        for parts in (encoder(x), (encoder.mean(hidden), encoder.log_variance(hidden)))
    )
    torch.testing.assert_close(found, expected)


def test_one_layer_in_place_of_two_is_rounded_to_bfloat16_once():
    encoder = _network().encoder
    x = _images(200)
    exact = encoder(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded, twice = encoder(x)[0], encoder.mean(encoder.hidden[0](x))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < (twice.float() - exact).norm()


def test_the_decoder_has_a_relu():
    decoder = _network().decoder
    z = _latents(4)
    torch.testing.assert_close(decoder(z), decoder.logits(torch.relu(decoder.hidden[0](z))))


@pytest.mark.parametrize(("shape", "width", "latent_size"), [((1, 28, 28), 400, 20), ((3, 5, 7), 3, 1)])
def test_the_number_of_parameters_follows_the_sizes(shape, width, latent_size):
    network = MLP(shape, shape[0], TrialConfig(hidden_width=width, latent_size=latent_size))
    pixels = np.prod(shape)
    encoder = (pixels + 1) * width + 2 * (width + 1) * latent_size
    decoder = (latent_size + 1) * width + (width + 1) * pixels
    assert sum(parameter.numel() for parameter in network.parameters()) == encoder + decoder


@pytest.mark.parametrize("activation", get_args(Activation))
def test_the_sizes_and_the_activations_are_those_of_the_configuration(activation):
    config = TrialConfig(latent_size=3, hidden_width=5, encoder_activation=activation, hidden_layers=2)
    encoder = MLP((1, 5, 7), 1, config).encoder
    assert [layer.weight.shape for layer in encoder.hidden] == [(5, 35), (5, 5)]
    assert encoder.mean.weight.shape == (3, 5)
    assert encoder.activation is Encoder(35, config, activation).activation


@pytest.mark.parametrize(("channels", "activation"), [(1, "linear"), (3, "relu")])
def test_the_encoder_is_linear_by_default_for_gray_images_and_has_a_relu_for_color(channels, activation):
    config = TrialConfig(latent_size=3, hidden_width=5)
    for given in (config, replace(config, encoder_activation="tanh")):
        named = replace(given, encoder_activation=given.encoder_activation or activation)
        encoders = [build_model(each, (channels, 5, 7)).network.encoder for each in (given, named)]
        assert len({encoder.activation for encoder in encoders}) == 1
        assert [encoder.activation_name for encoder in encoders] == [named.encoder_activation] * 2


@pytest.mark.parametrize("activation", get_args(Activation))
def test_a_model_can_be_saved_whole_and_copied(activation):
    config = TrialConfig(latent_size=2, hidden_width=3, encoder_activation=activation, decoder_activation=activation)
    model = build_model(config, (1, 5, 7))
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7), np.uint8)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for copied in (torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert torch.equal(copied.encode(images), model.encode(images))
        assert torch.equal(copied.decode(torch.ones(1, 2)), model.decode(torch.ones(1, 2)))
