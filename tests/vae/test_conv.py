"""The convolutional network: sizes, what a number depends on, and a training that goes on as if never interrupted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae import training
from vae_tune.vae.checkpoint import newest_checkpoint, read_midway, write_checkpoint, write_midway
from vae_tune.vae.flat_parameters import flatten_parameters, gradient
from vae_tune.vae.likelihoods.bernoulli import Bernoulli
from vae_tune.vae.model import VAE
from vae_tune.vae.networks import conv
from vae_tune.vae.networks.conv import Conv, Doubling, Halving
from vae_tune.vae.training import fit, make_step, new_state

SHAPE = (1, 9, 8)
CONFIG = TrialConfig(latent_size=3, batch_size=16, max_epochs=3)
CPU = torch.device("cpu")


def model_of(config: TrialConfig = CONFIG, shape: tuple[int, int, int] = SHAPE) -> VAE:
    torch.manual_seed(config.seed)
    network = Conv(shape, shape[0], config.latent_size, channels=4, residual_blocks=1)
    return VAE(network, Bernoulli(), shape, config.latent_size)


@pytest.fixture
def images() -> Images:
    values = np.random.default_rng(0).integers(0, 256, (80, *SHAPE)).astype(np.uint8)
    return Images(*np.split(values, [48, 64]))


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 25, 25), (1, 28, 28), (3, 32, 32), (2, 136, 128), (1, 8, 40)], ids=str
)
def test_every_size_from_8_on_is_encoded_and_decoded_with_a_gradient_in_every_parameter(shape, blocks):
    torch.manual_seed(0)
    network = Conv(shape, 2 * shape[0], 5, channels=2, residual_blocks=blocks)
    mean, log_variance = network.encode(torch.rand(3, *shape))
    assert mean.shape == log_variance.shape == (3, 5)
    parameters = network.decode(mean + log_variance)
    assert parameters.shape == (3, 2 * shape[0], *shape[1:])
    parameters.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert not [
        name for name, grad in gradients.items() if grad is None or not grad.isfinite().all() or not grad.any()
    ]


def test_the_stages_have_c_2c_and_4c_channels_down_to_at_most_4_pixels_of_the_smaller_side():
    network = Conv((1, 136, 128), 1, 5, channels=2)
    assert [stage[0].out_channels for stage in network.down] == [2, 4, 8, 8, 8]
    assert [stage[0].out_channels for stage in network.up] == [8, 8, 4, 2, 2]
    assert network.heads.in_features == 8 * 5 * 4


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 7, 28), {}, "8x8 pixels or more, but got 28x7"),
        (SHAPE, {"channels": 0}, "channels must be >= 1, but got 0"),
        (SHAPE, {"residual_blocks": -1}, "residual_blocks must be >= 0, but got -1"),
    ],
)
def test_what_no_network_can_be_built_for_is_refused(shape, options, message):
    with pytest.raises(UsageError, match=message):
        Conv(shape, 1, 5, **options)


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (7, 7)])
def test_doubling_is_nearest_upsampling_a_convolution_and_a_cut(size):
    torch.manual_seed(0)
    layer = Doubling(5, 3, size).double()
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    doubled = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    expected = doubled[..., : size[0], : size[1]]
    found = layer(x)
    torch.testing.assert_close(found, expected)
    grad, inputs = torch.randn_like(expected), (x, layer.weight, layer.bias)
    torch.testing.assert_close(*(torch.autograd.grad(result, inputs, grad) for result in (found, expected)))


@pytest.mark.parametrize("size", [(8, 9), (9, 8), (25, 25)])
def test_halving_rounds_up_and_sees_every_pixel(size):
    x = torch.zeros(1, 2, *size, requires_grad=True)
    layer = Halving(2, 3, size)
    nn.init.ones_(layer.weight)
    halved = layer(x)
    assert halved.shape[2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)
    (seen,) = torch.autograd.grad(halved.sum(), x)
    assert seen.all()


def test_an_images_numbers_do_not_depend_on_its_batch(monkeypatch):
    network, x = model_of().network, torch.rand(7, *SHAPE)

    def numbers(x: Tensor) -> tuple[Tensor, ...]:
        mean, log_variance = network.encode(x)
        return mean, log_variance, network.decode(mean)

    together = numbers(x)
    for number in range(7):
        torch.testing.assert_close(
            numbers(x[number : number + 1]), tuple(part[number : number + 1] for part in together)
        )
    monkeypatch.setattr(network, "_at_once", 3)
    sizes: list[int] = []
    network.stem.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    with torch.no_grad():
        torch.testing.assert_close(numbers(x), together)
    assert sizes == [3, 3, 1]
    assert conv._NUMBERS_AT_ONCE // Conv(SHAPE, 1, 2, channels=32)._at_once == pytest.approx(32 * 72, rel=0.01)


def test_the_weights_are_those_of_the_seed_and_keep_the_spread_of_what_passes():
    one, same, other = (model_of(replace(CONFIG, seed=seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["network.stem.weight"], other["network.stem.weight"])
    torch.manual_seed(0)
    network = Conv((1, 64, 64), 1, 16, channels=16)
    assert 0.1 < network.decode(torch.randn(4, 16)).std() < 10


def test_trained_by_the_one_tensor_it_stays_in_channels_last():
    model = model_of()
    flatten_parameters(model)
    network = model.network
    for parameter in (network.down[0][0].weight, network.up[0][0].weight, gradient(network.down[0][0].weight)):
        assert parameter.is_contiguous(memory_format=torch.channels_last)
        assert not parameter.is_contiguous()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_from_a_checkpoint_gives_the_losses_of_an_unbroken_one_to_the_last_bit(
    images, tmp_path, monkeypatch, precision
):
    monkeypatch.setattr(training, "build_model", model_of)
    config = replace(CONFIG, precision=precision)
    unbroken = list(fit(config, images, CPU))
    state = new_state(config, SHAPE, CPU)
    write_checkpoint(tmp_path, config, state, next(fit(config, images, CPU, state)))
    checkpoint = newest_checkpoint(tmp_path, CPU)
    assert checkpoint is not None
    second, third = fit(config, images, CPU, checkpoint.state)
    assert (second.train_loss, second.val_loss) == (unbroken[1].train_loss, unbroken[1].val_loss)
    assert (third.train_loss, third.val_loss) == (unbroken[2].train_loss, unbroken[2].val_loss)


def test_a_checkpoint_is_read_by_a_network_of_another_memory_format(images, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "build_model", model_of)
    written = new_state(CONFIG, SHAPE, CPU)
    next(fit(CONFIG, images, CPU, written))
    write_midway(tmp_path, CONFIG, written)
    with monkeypatch.context() as patch:
        patch.setattr(Conv, "to", lambda *_, **__: None)
        read = read_midway(tmp_path, CONFIG, 1, CPU)
    assert read is not None
    assert read.model.network.down[0][0].weight.is_contiguous()
    x, noise = torch.rand(4, *SHAPE), torch.randn(4, 3)
    for state in (written, read):  # a step shows whether each weight has its own moments
        make_step(state.model, CONFIG)(x, noise)
        state.optimizer.step(0.1)
    there, here = (dict(state.model.named_parameters()) for state in (written, read))
    torch.testing.assert_close({name: here[name] for name in there}, there)
