"""A user's class with dropout and batch norm: exact resume, one checkpoint format, and code that is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vae_tune import load_model
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae import checkpoint
from vae_tune.vae.checkpoint import read_midway, write_checkpoint, write_midway, write_model
from vae_tune.vae.networks import registry
from vae_tune.vae.networks.code import read_code
from vae_tune.vae.networks.registry import admit
from vae_tune.vae.pictures import reconstructions
from vae_tune.vae.probe import probe
from vae_tune.vae.training import fit, new_state

CPU = torch.device("cpu")
MODEL = "my_vae.py:MyVAE"
TEXT = """
import torch
from torch import nn


class MyVAE(nn.Module):
    def __init__(self, shape, outputs, latent_size, *, width: int = 8):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.BatchNorm1d(width), nn.Dropout(0.3))
        self.heads, self.outer = nn.Linear(width, 2 * latent_size), nn.Linear(latent_size, outputs * 12)

    def encode(self, x):
        return self.heads(self.inner(x)).chunk(2, dim=1)

    def decode(self, z):
        return self.outer(z).view(-1, 1, 4, 3)
"""


class Killed(Exception):
    """The process ends here."""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_ADMITTED", {})
    (tmp_path / "my_vae.py").write_text(TEXT)
    admit(read_code(MODEL))
    return TrialConfig(model=MODEL, model_options={"width": 6}, latent_size=2, batch_size=16, max_epochs=4, seed=3)


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (130, 1, 4, 3)).astype(np.uint8)
    return Images(*np.split(pixels, [70, 100]))


def losses(reports):
    return [(report.train_loss, report.val_loss) for report in reports]


@pytest.mark.parametrize("step", [1, 3])
def test_a_training_that_was_killed_goes_on_with_the_same_losses(tmp_path, config, images, step):
    whole = losses(fit(config, images, CPU))
    assert len(set(whole)) == 4
    state = new_state(config, images.shape, CPU)

    def kill(now):
        if (now.epoch, now.step) == (2, step):
            write_midway(tmp_path, config, now)
            raise Killed

    with pytest.raises(Killed):
        list(fit(config, images, CPU, state, kill))
    torch.manual_seed(99)  # as in another process
    found = read_midway(tmp_path, config, 2, CPU)
    assert losses(fit(config, images, CPU, found)) == whole[2:]


def test_a_checkpoint_has_the_buffers_of_batch_norm(tmp_path, config, images):
    state = new_state(config, images.shape, CPU)
    first = next(iter(fit(config, images, CPU, state)))
    path = write_checkpoint(tmp_path, config, state, first)
    found = checkpoint.read_checkpoint(path, CPU).state
    norm, again = (one.model.network.inner[2] for one in (state, found))
    assert not torch.equal(norm.running_mean, torch.zeros(6))
    assert torch.equal(norm.running_mean, again.running_mean)
    assert losses(fit(config, images, CPU, found)) == losses(fit(config, images, CPU, state))


def test_dropout_differs_from_step_to_step_and_by_the_seed(config, images):
    drops = []

    def watch(state):
        drops.append(torch.get_rng_state().numpy().tobytes())

    list(fit(replace(config, max_epochs=2), images, CPU, midway=watch))
    assert len(set(drops)) == len(drops) == 10


def test_it_is_evaluated_in_eval_mode_and_trained_in_training_mode(config, images):
    modes = []
    state = new_state(config, images.shape, CPU)
    norm = state.model.network.inner[2]
    norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    list(fit(replace(config, max_epochs=1), images, CPU, state))
    assert modes == [True] * 5 + [False]
    assert state.model.training


def test_it_is_given_as_many_images_at_once_as_in_an_evaluation(config, images, monkeypatch):
    monkeypatch.setattr("vae_tune.vae.model.evaluation_batch", lambda *_: 40)
    model, given = new_state(config, images.shape, CPU).model.eval(), []
    for name in ("encode", "decode"):
        plain = getattr(model.network, name)
        monkeypatch.setattr(model.network, name, lambda x, plain=plain: given.append(len(x)) or plain(x))
    expected = model.network.encode(torch.from_numpy(images.train) / 255)[0]
    assert torch.allclose(model.encode(images.train), expected, atol=1e-6)
    assert reconstructions(model, images.train).shape == images.train.shape
    assert given == [70, *[40, 30] * 3]


def test_the_probe_finds_nothing_against_it(config):
    assert probe(config, (1, 4, 3)) > 0


def test_a_model_is_loaded_with_the_code_that_is_named_and_no_other(tmp_path, config, images, monkeypatch):
    model = new_state(config, images.shape, CPU).model
    write_model(tmp_path / "best", model, config)
    assert (tmp_path / "best" / "code" / "my_vae.py.txt").read_text() == TEXT
    monkeypatch.setattr(registry, "_ADMITTED", {})  # as in another process
    with pytest.raises(
        UsageError, match=r"my_vae\.py:MyVAE, code of yours, which runs only from a file that you name"
    ):
        load_model(tmp_path / "best")
    (tmp_path / "moved.py").write_text(f"# a comment\n{TEXT}")
    loaded = load_model(tmp_path / "best", model="moved.py:MyVAE")
    assert torch.equal(loaded.network.outer.weight, model.network.outer.weight)
    assert not loaded.training
    (tmp_path / "my_vae.py").write_text(TEXT.replace("0.3", "0.4"))
    monkeypatch.setattr(registry, "_ADMITTED", {})
    with pytest.raises(UsageError, match=r"The code of my_vae\.py:MyVAE is not that of .*: only comments and "):
        load_model(tmp_path / "best", model=MODEL)
