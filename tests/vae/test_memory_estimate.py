"""What a training takes is known beforehand: counted, and measured in processes of their own."""

import subprocess
import sys
from dataclasses import replace

import pytest

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.evaluation_batch import evaluation_batch
from vae_tune.vae.memory_estimate import gpu_bytes, parameter_count, refuse_too_much, training_bytes
from vae_tune.vae.model import build_model

SHAPE, EVALUATED = (1, 28, 28), 2000
PLAIN = TrialConfig(max_epochs=1)
MEASURE = """
import os, resource, sys, tempfile
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from vae_tune.vae.checkpoint import newest_checkpoint, write_checkpoint
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae.training import fit, new_state

torch.set_num_threads(1)
cpu = torch.device("cpu")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def train(config, shape, trained, evaluated):
    train, validation = (np.zeros((count, *shape), np.uint8) for count in (trained, evaluated))
    state = new_state(config, shape, cpu)
    with tempfile.TemporaryDirectory() as folder:
        for report in fit(config, Images(train, validation, validation), cpu, state):
            write_checkpoint(Path(folder), config, state, report)
        del state
        newest_checkpoint(Path(folder), cpu)

def growth(config, shape, evaluated):
    # A small training first: the code of libraries that it maps is shared, and how much of it depends on the disk.
    train(replace(config, latent_size=2, hidden_width=8), (shape[0], 8, 8), 4, 4)
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew with what is held now
    before = peak()
    train(config, shape, 128, evaluated)
    return peak() - before

for line in sys.stdin:  # a fork need not import anew
    if not os.fork():
        print(growth(*eval(line)), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def measure():
    """Train in a process of its own and return by how many bytes its memory grew at most."""
    command = [sys.executable, "-c", MEASURE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def measured(*arguments):
            print(repr(arguments), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield measured


@pytest.mark.parametrize(
    "config",
    [
        TrialConfig(),
        TrialConfig(latent_size=3, hidden_width=7, hidden_layers=1),
        TrialConfig(latent_size=50, hidden_width=9, hidden_layers=4),
        TrialConfig(latent_size=3, hidden_width=7, encoder_activation="relu", hidden_layers=3),
        TrialConfig(latent_size=3, hidden_width=7, likelihood="logistic-mixture", mixture_components=4),
        TrialConfig(latent_size=3, hidden_width=7, likelihood="categorical"),
        TrialConfig(latent_size=3, hidden_width=7, likelihood="gaussian"),
        TrialConfig(latent_size=3, model="conv", model_options={"channels": 4, "residual_blocks": 1}),
    ],
)
@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 8, 8)])
def test_the_parameters_are_those_of_the_model(config, shape):
    there = sum(parameter.numel() for parameter in build_model(config, shape).parameters())
    assert parameter_count(config, shape) == there


@pytest.mark.parametrize(
    "config",
    [
        TrialConfig(max_epochs=1, hidden_width=3000, hidden_layers=2),
        TrialConfig(max_epochs=1, latent_size=10_000, hidden_width=300),
        TrialConfig(max_epochs=1, model="conv", batch_size=128, model_options={"channels": 64, "residual_blocks": 2}),
    ],
    ids=["wide", "many latents", "conv"],
)
def test_a_training_takes_about_the_memory_that_is_estimated(config, measure):
    taken = measure(config, SHAPE, EVALUATED)
    assert taken > 300_000_000
    assert 0.85 * taken < training_bytes(config, SHAPE, EVALUATED) < 1.6 * taken


@pytest.mark.parametrize(
    ("likelihood", "shape"),
    [
        ("logistic", (3, 64, 64)),
        ("logistic-mixture", (3, 32, 32)),
        ("categorical", (3, 12, 12)),
        ("continuous-bernoulli", (3, 64, 64)),
        ("gaussian", (3, 96, 96)),
    ],
)
@pytest.mark.parametrize("width", [10, 400])
def test_the_estimate_knows_what_each_likelihood_takes_on_color_images(likelihood, shape, width, measure):
    config = replace(PLAIN, likelihood=likelihood, hidden_width=width)
    taken = measure(config, shape, 200)
    assert 0.85 * taken < training_bytes(config, shape, 200) < 1.6 * taken


def test_fewer_images_are_evaluated_at_once_where_pixels_have_many_parameters():
    assert evaluation_batch(PLAIN, SHAPE) == 500
    assert evaluation_batch(PLAIN, (3, 32, 32)) == 500
    assert evaluation_batch(replace(PLAIN, likelihood="categorical"), (3, 32, 32)) == 5
    assert evaluation_batch(replace(PLAIN, likelihood="categorical"), (3, 512, 512)) == 1


def test_with_a_gpu_a_training_takes_less_main_memory():
    config = TrialConfig(hidden_width=4000)
    assert training_bytes(config, SHAPE, EVALUATED, on_gpu=True) < training_bytes(config, SHAPE, EVALUATED)
    assert gpu_bytes(config, SHAPE, EVALUATED) > 16 * parameter_count(config, SHAPE)


def test_what_needs_more_than_there_is_is_refused_with_both_numbers():
    expected = "This needs about 3.2 GB of memory, but 1.5 GB are free.\nTake less."
    with pytest.raises(UsageError) as caught:
        refuse_too_much("This", 3_200_000_000, 1_500_000_000, "Take less.")
    assert str(caught.value) == expected


@pytest.mark.parametrize("there", [None, 3_200_000_000])
def test_what_fits_or_cannot_be_known_is_not_refused(there):
    refuse_too_much("This", 3_200_000_000, there, "Take less.")
