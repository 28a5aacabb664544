"""The arithmetic of the matrix products, as configured: which numbers it gives, and when it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vae_tune.config.settings import TrialConfig
from vae_tune.vae import training
from vae_tune.vae.training import fit, new_state

CPU = torch.device("cpu")
SMALL = TrialConfig(latent_size=3, hidden_width=8, batch_size=16, max_epochs=4, learning_rate=1e-2)


def test_bfloat16_changes_the_numbers_but_only_a_little(tiny):
    full, half = (list(fit(replace(SMALL, precision=precision), tiny, CPU)) for precision in ("float32", "bfloat16"))
    assert full[-1].val_loss != half[-1].val_loss
    assert full[-1].val_loss == pytest.approx(half[-1].val_loss, rel=0.02)


@pytest.mark.parametrize(("precision", "during"), [("float32", "none"), ("tf32", "tf32")])
def test_a_gpu_takes_tf32_while_a_model_is_trained_and_evaluated_and_at_no_other_time(
    tiny, monkeypatch, precision, during
):
    config, told = replace(SMALL, precision=precision), []
    state = new_state(config, tiny.shape, CPU)
    products = torch.backends.cuda.matmul
    state.model.register_forward_pre_hook(lambda *_: told.append(products.fp32_precision))
    whole = training.train_epoch

    def spied(*arguments):
        told.append(products.fp32_precision)
        return whole(*arguments)

    monkeypatch.setattr(training, "train_epoch", spied)
    for _ in fit(config, tiny, CPU, state):
        assert products.fp32_precision == "none"
    assert len(told) >= 2 * SMALL.max_epochs
    assert set(told) == {during}


@pytest.mark.parametrize("objective", [{}, {"free_bits": 0.5}])
def test_a_cpu_takes_tf32_for_float32(tiny, objective):
    config = replace(SMALL, **objective)
    full, tf32 = (
        [(report.train_loss, report.val_loss) for report in fit(replace(config, precision=precision), tiny, CPU)]
        for precision in ("float32", "tf32")
    )
    assert full == tf32


def test_the_weights_stay_float32_in_bfloat16(tiny):
    state = new_state(SMALL, tiny.shape, CPU)
    list(fit(replace(SMALL, precision="bfloat16"), tiny, CPU, state))
    assert {parameter.dtype for parameter in state.model.parameters()} == {torch.float32}
