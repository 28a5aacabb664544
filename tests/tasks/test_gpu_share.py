"""How many trials share a GPU, by what the largest of them needs."""

from __future__ import annotations

import numpy as np
import pytest

from vae_tune.cluster.gpus import Gpu
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import DEFAULT_SPACE, load_space
from vae_tune.images.datasets import Images
from vae_tune.tasks.gpu_share import largest_trial, trials_per_gpu
from vae_tune.tasks.model_code import signature_of_named
from vae_tune.vae.memory_estimate import gpu_bytes

GB = 10**9


@pytest.fixture(scope="module")
def images():
    blank = np.zeros((40, 1, 28, 28), np.uint8)
    return Images(blank, blank[:10], blank[:10])


def of(images, **fields):
    return gpu_bytes(TrialConfig(**fields), images.shape, len(images.validation))


def test_the_largest_trial_is_that_at_the_ends_of_the_ranges(images):
    def largest(space):
        return largest_trial(TrialConfig(), space, images)

    fixed = largest(load_space({"learning_rate": {"type": "float", "low": 0.1, "high": 0.2}}, TrialConfig()))
    default = largest(DEFAULT_SPACE)
    assert default - fixed == of(images, latent_size=64, hidden_width=1024) - of(images)
    choices = {"batch_size": {"type": "categorical", "choices": [64, 4096, 128]}}
    assert largest(load_space(choices, TrialConfig())) - fixed == of(images, batch_size=4096) - of(images)
    small = {"hidden_width": {"type": "int", "low": 8, "high": 16}}  # the reference is larger
    assert largest(load_space(small, TrialConfig())) == fixed


def test_each_model_of_a_space_counts(images):
    models = {"model": {"type": "categorical", "choices": ["mlp", "conv"]}}
    both = load_space(models, TrialConfig(), signature_of_named)
    one = load_space({"seed": {"type": "int", "low": 0, "high": 9}}, TrialConfig(), signature_of_named)
    more = largest_trial(TrialConfig(), both, images) - largest_trial(TrialConfig(), one, images)
    assert more == of(images, model="conv") - of(images) > 0


def test_the_images_count_once_a_trial(images):
    twice = Images(np.concatenate([images.train] * 2), images.validation, images.test)
    more = largest_trial(TrialConfig(), DEFAULT_SPACE, twice) - largest_trial(TrialConfig(), DEFAULT_SPACE, images)
    assert more == 5 * images.train.nbytes


def test_trials_share_the_memory_that_is_free_and_8_at_most_a_gpu(images):
    def share(*free):
        gpus = [Gpu(str(number), f"GPU {number}", int(each * GB), 80 * GB, 0) for number, each in enumerate(free)]
        return trials_per_gpu(gpus, TrialConfig(), DEFAULT_SPACE, images, said.append)

    said: list[str] = []
    assert share() == 8
    assert share(80, 80) == 8
    assert 1 < share(80, 2) < 8
    assert said == []
    assert share(0.1) == 1
    assert "is tried once more, alone" in said[0]
