"""The validation loss is right, and the same whenever and however it is computed."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from tests.models import loss_by_hand, without_noise
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import to_tensor
from vae_tune.vae.model import build_model
from vae_tune.vae.threads import cpu_threads
from vae_tune.vae.training import evaluate

CPU = torch.device("cpu")
SMALL = TrialConfig(latent_size=3, hidden_width=8)


def test_evaluating_twice_gives_the_same_number(tiny):
    model, images = build_model(SMALL, tiny.shape), to_tensor(tiny.validation, CPU)
    assert evaluate(model, images, SMALL) == evaluate(model, images, SMALL)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("latent_size", [3, 5, 20])
def test_the_number_of_threads_changes_no_bit(mnist, latent_size, precision):
    config = replace(SMALL, latent_size=latent_size, hidden_width=100, precision=precision)
    model, images, found = build_model(config, mnist.shape), to_tensor(mnist.validation, CPU), set()
    for threads in (1, 2, 3, 4):
        with cpu_threads(threads):
            found.add(evaluate(model, images, config))
    assert len(found) == 1


def test_the_validation_noise_depends_on_no_seed(tiny):
    model, images = build_model(SMALL, tiny.shape), to_tensor(tiny.validation, CPU)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(evaluate(model, images, replace(SMALL, seed=seed)))
    assert results[0] == results[1]


def test_every_image_gets_noise_of_its_own(tiny):
    """Latents are pure noise here, so equal noise would give equal losses and no spread of the logits."""
    model, seen = build_model(SMALL, tiny.shape), []
    model.network.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for head in (model.network.encoder.mean, model.network.encoder.log_variance):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    evaluate(model, to_tensor(tiny.validation, CPU), SMALL)
    z = torch.cat(seen)
    assert len(z.unique()) == z.numel() == 40 * SMALL.latent_size
    assert z.std().item() == pytest.approx(1, abs=0.2)


def test_the_parts_of_an_evaluation_add_up(mnist):
    result = evaluate(build_model(SMALL, mnist.shape), to_tensor(mnist.validation, CPU), SMALL)
    assert result.negative_elbo == pytest.approx(result.reconstruction + result.kl, rel=1e-12)


def test_an_evaluation_is_the_mean_of_the_loss_over_the_images(mnist):
    model = without_noise(build_model(SMALL, mnist.shape))
    expected = loss_by_hand(model, mnist.validation[:4321])
    result = evaluate(model, to_tensor(mnist.validation[:4321], CPU), SMALL)
    assert (result.reconstruction, result.kl) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 40, 1000])
def test_an_evaluation_does_not_depend_on_how_images_are_batched(tiny, monkeypatch, batch):
    model, images = build_model(SMALL, tiny.shape), to_tensor(tiny.validation, CPU)
    expected = evaluate(model, images, SMALL)
    monkeypatch.setattr("vae_tune.vae.training.evaluation_batch", lambda *_: batch)  # nothing public changes it
    result = evaluate(model, images, SMALL)
    assert asdict(result) == pytest.approx(asdict(expected), abs=1e-4)


def test_an_evaluation_changes_no_weight(tiny):
    model = build_model(SMALL, tiny.shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, to_tensor(tiny.validation, CPU), SMALL)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_ignores_its_input_has_no_active_unit(tiny):
    model = build_model(SMALL, tiny.shape)
    torch.nn.init.zeros_(model.network.encoder.mean.weight)
    assert evaluate(model, to_tensor(tiny.validation, CPU), SMALL).active_units == 0


def test_a_unit_is_active_where_its_mean_varies_by_more_than_a_hundredth():
    """One pixel is 0 or 1 with variance 1/4; the means are that pixel times a factor each."""
    images = np.zeros((100, 2, 3), np.uint8)
    images[::2, 0, 0] = 255
    model = build_model(SMALL, (1, 2, 3))
    hidden, mean = model.network.encoder.hidden[0], model.network.encoder.mean
    for tensor in (hidden.weight, hidden.bias, mean.weight, mean.bias):
        torch.nn.init.zeros_(tensor)
    with torch.no_grad():
        hidden.weight[0, 0] = 1
        mean.weight[:, 0] = torch.tensor([0.01005, 0.00995, 0.5]).mul(4).sqrt()
    assert evaluate(model, to_tensor(images, CPU), SMALL).active_units == 2
