"""The parameters of a likelihood are part of a checkpoint, and of a model."""

from __future__ import annotations

import numpy as np
import torch

from vae_tune import load_model
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae.checkpoint import checkpoint_bytes, model_from_bytes, read_checkpoint, write_checkpoint, write_model
from vae_tune.vae.training import fit, new_state

CPU = torch.device("cpu")
CONFIG = TrialConfig(
    likelihood="gaussian", latent_size=2, hidden_width=8, max_epochs=3, batch_size=16, learning_rate=0.05
)


def test_the_scales_of_a_gaussian_are_trained_on_after_a_resume_and_kept_with_the_model(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (130, 1, 4, 4)).astype(np.uint8)
    images = Images(*np.split(pixels, [70, 100]))
    state = new_state(CONFIG, images.shape, CPU)
    reports = fit(CONFIG, images, CPU, state)
    first = next(reports)
    path = write_checkpoint(tmp_path, CONFIG, state, first)
    scale = state.model.likelihood.log_scale.detach().clone()
    assert not torch.equal(scale, new_state(CONFIG, images.shape, CPU).model.likelihood.log_scale)
    in_file, _ = model_from_bytes(checkpoint_bytes(CONFIG, state, first))
    write_model(tmp_path / "best", state.model, CONFIG)
    whole = [report.val_loss for report in reports]
    found = read_checkpoint(path, CPU).state
    assert [report.val_loss for report in fit(CONFIG, images, CPU, found)] == whole
    for model in (in_file, load_model(tmp_path / "best")):
        assert torch.equal(model.likelihood.log_scale, scale)
