"""Training on a GPU: the numbers of a CPU within tolerance, and bit for bit those of the same GPU."""

from __future__ import annotations

import pytest
import torch

from vae_tune.checkpoint import read_newest, write_checkpoint
from vae_tune.config import TrialConfig
from vae_tune.data import to_tensor
from vae_tune.training import evaluate, fit, new_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = TrialConfig(hidden_width=64, latent_size=4, max_epochs=4, batch_size=32)


def losses(images, device, state=None, config=CONFIG):
    return [(report.train_loss, report.val_loss) for report in fit(config, images, device, state)]


def test_a_model_is_evaluated_as_on_a_cpu(tiny):
    state = new_state(CONFIG, tiny.pixels, CPU)
    there = evaluate(state.model, to_tensor(tiny.validation, CPU), CONFIG)
    here = evaluate(state.model.to(CUDA), to_tensor(tiny.validation, CUDA), CONFIG)
    assert here.negative_elbo == pytest.approx(there.negative_elbo, rel=0.03)  # a GPU draws other noise
    assert here.active_units == there.active_units


@pytest.mark.parametrize("activation", ["linear", "relu", "gelu"])
def test_the_losses_of_a_training_are_near_those_of_a_cpu(tiny, activation):
    config = TrialConfig(**{**vars(CONFIG), "encoder_activation": activation})
    for here, there in zip(losses(tiny, CUDA, config=config), losses(tiny, CPU, config=config), strict=True):
        assert here == pytest.approx(there, rel=0.03)  # a GPU draws other noise


def test_a_training_repeats_to_the_last_bit(tiny):
    assert losses(tiny, CUDA) == losses(tiny, CUDA)


def test_a_training_goes_on_from_a_checkpoint_to_the_last_bit(tiny, tmp_path):
    whole = losses(tiny, CUDA)
    state = new_state(CONFIG, tiny.pixels, CUDA)
    training = fit(CONFIG, tiny, CUDA, state)
    reports = [next(training), next(training)]
    write_checkpoint(tmp_path, CONFIG, state, reports[-1], reports[:-1])
    checkpoint = read_newest(tmp_path, CUDA)
    assert checkpoint is not None
    assert losses(tiny, CUDA, checkpoint.state) == whole[2:]


def test_a_step_is_taken_without_waiting_for_the_gpu(tiny):
    """Torch raises where the host waits: between the reads of the loss, each 64 steps, nothing may."""
    from vae_tune.training import make_step, train_epoch

    state = new_state(CONFIG, tiny.pixels, CUDA)
    step = make_step(state.model, CONFIG, CONFIG.batch_size)
    x = torch.rand(CONFIG.batch_size, tiny.pixels, device=CUDA)
    noise = torch.randn(CONFIG.batch_size, CONFIG.latent_size, device=CUDA)
    train_epoch(CONFIG, to_tensor(tiny.train, CUDA), state, step, epoch=1)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, noise)
        state.optimizer.step(1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
