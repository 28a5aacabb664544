"""Training on a GPU: the numbers of a CPU within tolerance, and bit for bit those of the same GPU."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import to_tensor
from vae_tune.vae.checkpoint import newest_checkpoint, write_checkpoint
from vae_tune.vae.training import Diverged, evaluate, fit, make_step, new_state, train_epoch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = TrialConfig(hidden_width=64, latent_size=4, max_epochs=4, batch_size=32)


def losses(images, device, state=None, config=CONFIG):
    return [(report.train_loss, report.val_loss) for report in fit(config, images, device, state)]


def test_a_model_is_evaluated_as_on_a_cpu(tiny):
    state = new_state(CONFIG, tiny.shape, CPU)
    there = evaluate(state.model, to_tensor(tiny.validation, CPU), CONFIG)
    here = evaluate(state.model.to(CUDA), to_tensor(tiny.validation, CUDA), CONFIG)
    assert here.negative_elbo == pytest.approx(there.negative_elbo, rel=0.03)  # a GPU draws other noise
    assert here.active_units == there.active_units


@pytest.mark.parametrize(
    "fields",
    [
        *({"encoder_activation": activation} for activation in ("linear", "relu", "gelu", "tanh", "elu")),
        {"hidden_width": 37, "latent_size": 3},  # four of its five biases lie at no multiple of 16 bytes
        {"hidden_layers": 2, "encoder_activation": "relu"},
        {"iwae_samples": 3},
        {"free_bits": 0.1},
        {"grad_clip": 1.0},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_the_losses_of_a_training_are_near_those_of_a_cpu(tiny, fields):
    config = replace(CONFIG, **fields)
    for here, there in zip(losses(tiny, CUDA, config=config), losses(tiny, CPU, config=config), strict=True):
        assert here == pytest.approx(there, rel=0.03)  # a GPU draws other noise


def test_the_losses_in_tf32_are_near_those_in_float32(tiny):
    for tf32, full in zip(
        losses(tiny, CUDA, config=replace(CONFIG, precision="tf32")), losses(tiny, CUDA), strict=True
    ):
        assert tf32 == pytest.approx(full, rel=0.02)


def test_a_training_repeats_to_the_last_bit(tiny):
    assert losses(tiny, CUDA) == losses(tiny, CUDA)


def test_a_training_goes_on_from_a_checkpoint_to_the_last_bit(tiny, tmp_path):
    whole = losses(tiny, CUDA)
    state = new_state(CONFIG, tiny.shape, CUDA)
    training = fit(CONFIG, tiny, CUDA, state)
    reports = [next(training), next(training)]
    write_checkpoint(tmp_path, CONFIG, state, reports[-1], reports[:-1])
    checkpoint = newest_checkpoint(tmp_path, CUDA)
    assert checkpoint is not None
    assert losses(tiny, CUDA, checkpoint.state) == whole[2:]


def test_an_epoch_waits_for_the_gpu_no_more_often_than_one_step(tiny):
    """Torch warns where the host waits: before the first step, for their order, and after the last, for the loss."""
    state = new_state(CONFIG, tiny.shape, CUDA)
    step, train = make_step(state.model, CONFIG), to_tensor(tiny.train, CUDA)
    train_epoch(CONFIG, train, state, step, epoch=1)  # what is set up once may wait
    waits = []
    for images in (train[: CONFIG.batch_size], train.repeat(100, 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                train_epoch(CONFIG, images, state, step, epoch=2, midway=lambda state: None)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("called a synchronizing" in str(warning.message) for warning in caught))
    assert 1 <= waits[0] == waits[1]


def test_a_diverging_training_ends_with_its_epoch(tiny):
    with pytest.raises(Diverged, match="epoch 1"):
        losses(tiny, CUDA, config=replace(CONFIG, learning_rate=1e30))


def test_the_images_are_brought_to_the_gpu_once(tiny):
    images = tiny.train.copy()
    images.setflags(write=False)
    assert to_tensor(images, CUDA) is to_tensor(images[:], CUDA)
