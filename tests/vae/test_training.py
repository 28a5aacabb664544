"""Training learns, repeats itself bit for bit, and stops where nothing is left to learn."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import loss_by_hand, without_noise
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images, to_tensor
from vae_tune.vae import training
from vae_tune.vae.checkpoint import read_checkpoint, read_midway, write_checkpoint, write_midway
from vae_tune.vae.fused_step import FusedStep
from vae_tune.vae.model import build_model
from vae_tune.vae.optimizer import AdamW
from vae_tune.vae.training import Diverged, EpochReport, TrainingState, fit, new_state

CPU = torch.device("cpu")
SMALL = TrialConfig(latent_size=3, hidden_width=8, batch_size=16, max_epochs=4, learning_rate=1e-2)


def _numbers(reports: list[EpochReport]) -> list[dict[str, Any]]:
    """Return the reports without what a clock decides."""
    clock = {"seconds", "images_per_second"}
    return [{key: value for key, value in asdict(report).items() if key not in clock} for report in reports]


def _weights(state: TrainingState) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


@pytest.fixture(scope="module")
def learned(mnist) -> list[EpochReport]:
    """Three epochs of a small model on MNIST."""
    return list(fit(TrialConfig(latent_size=4, hidden_width=32, batch_size=64, max_epochs=3), mnist, CPU))


def test_training_lowers_the_training_loss(learned):
    losses = [report.train_loss for report in learned]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.75 * losses[0]


def test_training_gives_the_losses_of_the_plain_loop(tiny):
    config = replace(SMALL, max_epochs=1, learning_rate=0.01)
    (report,) = fit(config, tiny, CPU)
    model = build_model(config, tiny.shape)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    shuffler, noise = (torch.Generator().manual_seed(training._epoch_seed(config.seed, 1)) for _ in range(2))
    images, total = to_tensor(tiny.train, CPU).float().div(255), 0.0
    for index in torch.randperm(len(images), generator=shuffler).split(config.batch_size):
        x = images[index]
        logits, mean, log_variance = model(x, torch.randn(len(x), config.latent_size, generator=noise))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = (loss - 0.5 * torch.sum(1 + log_variance - mean.square() - log_variance.exp())) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    assert report.train_loss == pytest.approx(total / len(images), rel=1e-5)


def test_training_lowers_the_validation_loss(learned):
    losses = [report.val_loss for report in learned]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


def test_the_losses_are_of_the_size_of_one_image(learned):
    assert all(150 < loss < 784 * math.log(2) for report in learned for loss in (report.train_loss, report.val_loss))


def test_there_is_one_report_an_epoch_counted_from_one(learned):
    assert [report.epoch for report in learned] == [1, 2, 3]


def test_the_parts_of_a_reported_loss_add_up(learned):
    for report in learned:
        assert report.val_loss == pytest.approx(report.val_reconstruction + report.val_kl, rel=1e-12)


def test_no_more_units_are_active_than_there_are(learned):
    assert all(0 <= report.active_units <= 4 for report in learned)


def test_images_scaled_beforehand_as_on_a_gpu_give_the_same_numbers_bit_for_bit(tiny, monkeypatch):
    step_by_step = _numbers(list(fit(SMALL, tiny, CPU)))
    monkeypatch.setattr(training, "training_images", lambda images, _: to_tensor(images, CPU).div(255.0))
    assert _numbers(list(fit(SMALL, tiny, CPU))) == step_by_step


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_numbers_bit_for_bit(tiny, precision):
    config = replace(SMALL, precision=precision, seed=5)
    assert _numbers(list(fit(config, tiny, CPU))) == _numbers(list(fit(config, tiny, CPU)))


def test_another_seed_gives_other_numbers(tiny):
    first, second = (_numbers(list(fit(replace(SMALL, seed=seed), tiny, CPU))) for seed in (5, 7))
    assert all(
        a["train_loss"] != b["train_loss"] and a["val_loss"] != b["val_loss"]
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("other", [6, 5 + 2**12, 5 + 2**20, 5 + 2**31])
def test_another_seed_draws_other_batches_and_noise_for_the_same_weights(tiny, other):
    """Seeds far apart too: torch's CPU generator looks only at the low 32 bits of what it is given."""
    losses = []
    for seed in (5, other):
        config = replace(SMALL, seed=seed, max_epochs=1)
        losses.append(next(fit(config, tiny, CPU, new_state(SMALL, tiny.shape, CPU))).train_loss)
    assert losses[0] != losses[1]


@pytest.fixture
def seen(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return a list that fills with the images and the noise of every training step."""
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Recorded(FusedStep):
        def __call__(self, x: torch.Tensor, noise: torch.Tensor, kl_weight: float = 1.0) -> torch.Tensor:
            steps.append((x.clone(), noise.clone()))
            return super().__call__(x, noise, kl_weight)

    monkeypatch.setattr("vae_tune.vae.training.FusedStep", Recorded)
    return steps


def test_every_epoch_draws_other_batches(tiny, seen):
    list(fit(SMALL, tiny, CPU))
    epochs = torch.cat([x for x, _ in seen]).reshape(SMALL.max_epochs, 60, 35)
    assert all(not torch.equal(first, second) for first, second in pairwise(epochs))


def test_every_epoch_draws_other_noise(tiny, seen):
    list(fit(SMALL, tiny, CPU))
    noise = torch.cat([drawn for _, drawn in seen])
    assert noise.shape == (SMALL.max_epochs * 60, SMALL.latent_size)
    assert len(noise.unique()) > 0.99 * noise.numel()
    assert noise.std().item() == pytest.approx(1, abs=0.1)


def test_the_global_seed_does_not_matter(tiny):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        runs.append(_numbers(list(fit(SMALL, tiny, CPU))))
    assert runs[0] == runs[1]


def test_training_leaves_the_global_random_state_alone(tiny):
    torch.manual_seed(123)  # a state that the training before cannot have left
    before = torch.get_rng_state()
    list(fit(SMALL, tiny, CPU))
    assert torch.equal(torch.get_rng_state(), before)


RICHER = [
    {"precision": "bfloat16"},
    {"hidden_layers": 2, "decoder_activation": "tanh"},
    {"lr_schedule": "cosine", "weight_decay": 0.1, "grad_clip": 1.0},
    {"kl_weight": 0.5, "kl_warmup_epochs": 2},
    {"free_bits": 0.5, "iwae_samples": 3},
]


class _Taken(Exception):
    """The machine is gone."""


@pytest.mark.parametrize("change", [{}, *RICHER], ids=lambda change: "+".join(change))
@pytest.mark.parametrize("epochs_before", [0, 2])
def test_a_training_taken_away_in_an_epoch_goes_on_there_as_if_nothing_had_happened(
    tiny, tmp_path, change, epochs_before
):
    config = replace(SMALL, **change)
    whole = new_state(config, tiny.shape, CPU)
    expected = _numbers(list(fit(config, tiny, CPU, whole)))

    def take_away(state):
        if (state.epoch, state.step) == (epochs_before, 2):
            write_midway(tmp_path, config, state)
            raise _Taken

    reports = []
    with pytest.raises(_Taken):
        reports.extend(fit(config, tiny, CPU, midway=take_away))
    state = read_midway(tmp_path, config, epochs_before, CPU)
    assert (state.epoch, state.step) == (epochs_before, 2)
    assert read_midway(tmp_path, config, epochs_before + 1, CPU) is None  # left behind by the epoch before
    assert read_midway(tmp_path, replace(config, seed=99), epochs_before, CPU) is None
    assert _numbers([*reports, *fit(config, tiny, CPU, state)]) == expected
    assert all(torch.equal(_weights(state)[name], tensor) for name, tensor in _weights(whole).items())


@pytest.mark.parametrize("change", [{}, *RICHER], ids=lambda change: "+".join(change))
@pytest.mark.parametrize("epochs_before", [1, 3])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tiny, tmp_path, change, epochs_before):
    config = replace(SMALL, **change)
    whole = new_state(config, tiny.shape, CPU)
    expected = _numbers(list(fit(config, tiny, CPU, whole)))

    interrupted = new_state(config, tiny.shape, CPU)
    training = fit(config, tiny, CPU, interrupted)
    reports = [next(training) for _ in range(epochs_before)]
    path = write_checkpoint(tmp_path, config, interrupted, reports[-1])
    del interrupted, training
    checkpoint = read_checkpoint(path, CPU)
    reports += fit(checkpoint.config, tiny, CPU, checkpoint.state)

    assert _numbers(reports) == expected
    continued = _weights(checkpoint.state)
    assert all(torch.equal(continued[name], tensor) for name, tensor in _weights(whole).items())


@pytest.mark.parametrize("change", [{name: value} for change in RICHER for name, value in change.items()], ids=str)
def test_every_setting_changes_what_is_learned(tiny, change):
    losses = [list(fit(config, tiny, CPU))[-1].val_loss for config in (SMALL, replace(SMALL, **change))]
    assert losses[0] != losses[1]


def test_dynamic_binarization_draws_the_training_images_anew_each_epoch_as_the_seed_says(tiny, monkeypatch):
    seen: list[torch.Tensor] = []
    learn = training.train_epoch

    def spy(config, images, *rest):
        seen.append(images)
        return learn(config, images, *rest)

    monkeypatch.setattr(training, "train_epoch", spy)
    for seed in (5, 5, 6):
        list(fit(replace(SMALL, max_epochs=2, seed=seed), replace(tiny, binarization="dynamic"), CPU))
    first, second, first_again, _, other_seed, _ = seen
    assert all(set(images.unique().tolist()) == {0, 255} for images in seen)
    assert torch.equal(first, first_again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other_seed)
    grey = torch.from_numpy(tiny.train.reshape(60, -1)).double()
    assert torch.corrcoef(torch.stack([first.flatten().double(), grey.flatten()]))[0, 1] > 0.4


def before_each_step(monkeypatch, action):
    step = AdamW.step
    monkeypatch.setattr(AdamW, "step", lambda optimizer, rate: (action(), step(optimizer, rate)))


def test_a_clipped_gradient_is_no_longer_than_allowed(tiny, monkeypatch):
    config = replace(SMALL, grad_clip=0.01, max_epochs=1)
    state = new_state(config, tiny.shape, CPU)
    norms: list[float] = []

    def note():
        gradients = [parameter.grad for parameter in state.model.parameters()]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    before_each_step(monkeypatch, note)
    list(fit(config, tiny, CPU, state))
    assert norms
    assert max(norms) <= 0.01 * 1.001


def test_a_finished_training_has_nothing_to_go_on_with(tiny):
    state = new_state(SMALL, tiny.shape, CPU)
    list(fit(SMALL, tiny, CPU, state))
    before = _weights(state)
    assert list(fit(SMALL, tiny, CPU, state)) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in _weights(state).items())


def test_more_epochs_can_be_asked_for_later(tiny):
    state = new_state(SMALL, tiny.shape, CPU)
    reports = [*fit(replace(SMALL, max_epochs=2), tiny, CPU, state), *fit(SMALL, tiny, CPU, state)]
    assert _numbers(reports) == _numbers(list(fit(SMALL, tiny, CPU)))


def test_the_state_is_at_the_epoch_of_its_report(tiny):
    state = new_state(SMALL, tiny.shape, CPU)
    for report in fit(SMALL, tiny, CPU, state):
        assert state.epoch == report.epoch


def test_the_training_loss_is_the_mean_over_images_not_over_batches(tiny):
    """60 images in batches of 16 end with a batch of 12, which must not count as much as the others."""
    dimmer = np.arange(1, 61, dtype=np.uint8)[:, None, None, None]
    bright = Images(train=tiny.train // dimmer, validation=tiny.train, test=tiny.test)
    config = replace(SMALL, learning_rate=1e-30, max_epochs=1)
    state = new_state(config, bright.shape, CPU)
    without_noise(state.model)
    report = next(fit(config, bright, CPU, state))
    assert report.train_loss == pytest.approx(sum(loss_by_hand(state.model, bright.train)), rel=1e-6)


def test_every_training_image_is_used_once_an_epoch(tiny, seen):
    next(fit(SMALL, tiny, CPU))
    grey = (torch.cat([x for x, _ in seen]) * 255).round().to(torch.uint8).flatten(1).tolist()
    assert [len(x) for x, _ in seen] == [16, 16, 16, 12]
    assert sorted(grey) == sorted(tiny.train.reshape(60, -1).tolist())
    assert grey != tiny.train.reshape(60, -1).tolist()


@pytest.mark.parametrize("learning_rate", [1e6, 1e30])
def test_a_learning_rate_out_of_reason_diverges_in_the_first_epoch(mnist, learning_rate):
    config = TrialConfig(latent_size=4, hidden_width=16, batch_size=64, learning_rate=learning_rate)
    with pytest.raises(Diverged, match=r"in epoch 1$") as caught:
        list(fit(config, mnist, CPU))
    assert caught.value.epoch == 1


def test_a_divergence_is_raised_before_the_epoch_is_over(mnist, monkeypatch):
    config = TrialConfig(latent_size=4, hidden_width=16, batch_size=64, learning_rate=1e6)
    state = new_state(config, mnist.shape, CPU)
    steps: list[None] = []
    before_each_step(monkeypatch, lambda: steps.append(None))
    with pytest.raises(Diverged) as caught:
        next(fit(config, mnist, CPU, state))
    assert len(steps) < 10 < len(mnist.train) / config.batch_size
    assert re.search(rf"at step {len(steps)} in epoch 1$", str(caught.value))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_weights_that_are_not_finite_diverge_in_the_epoch_where_they_are_met(tiny, value):
    state = new_state(SMALL, tiny.shape, CPU)
    training = fit(SMALL, tiny, CPU, state)
    next(training)
    torch.nn.init.constant_(state.model.network.decoder.logits.weight, value)
    with pytest.raises(Diverged, match=r"at step 1 in epoch 2$") as caught:
        next(training)
    assert (caught.value.epoch, state.epoch) == (2, 1)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_inputs_that_are_not_finite_diverge(tiny, value):
    broken = tiny.train.astype(np.float32)
    broken[-1, 0, 0, 0] = value
    with pytest.raises(Diverged, match=r"training loss at step [1-4] in epoch 1$"):
        list(fit(SMALL, Images(train=broken, validation=tiny.validation, test=tiny.test), CPU))  # type: ignore[arg-type]


def test_a_last_step_that_ruins_the_weights_is_found_by_the_validation(tiny):
    """With one batch an epoch the training loss is still the one before the step."""
    config = replace(SMALL, batch_size=60, learning_rate=1e30)
    with pytest.raises(Diverged, match=r"^diverged: non-finite validation loss in epoch 1$"):
        list(fit(config, tiny, CPU))


def test_training_leaves_the_images_as_they_were(tiny):
    before = [split.copy() for split in (tiny.train, tiny.validation, tiny.test)]
    list(fit(SMALL, tiny, CPU))
    for split, copy in zip((tiny.train, tiny.validation, tiny.test), before, strict=True):
        np.testing.assert_array_equal(split, copy)


def test_read_only_images_are_trained_on_without_a_warning(tiny):
    for split in (tiny.train, tiny.validation, tiny.test):
        split.flags.writeable = False
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # torch warns of such an array only once a process, perhaps in an earlier test
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(list(fit(SMALL, tiny, CPU))) == SMALL.max_epochs
    finally:
        torch.set_warn_always(always)


def test_the_test_images_are_never_looked_at(tiny):
    unusable = Images(train=tiny.train, validation=tiny.validation, test=np.zeros((0, 1, 1, 1), np.uint8))
    assert _numbers(list(fit(SMALL, unusable, CPU))) == _numbers(list(fit(SMALL, tiny, CPU)))
