"""What a training takes is known beforehand: counted, and measured in processes of their own."""

import subprocess
import sys

import pytest

from vae_tune.config import TrialConfig, UsageError
from vae_tune.memory import gpu_bytes, parameter_count, refuse_too_much, training_bytes
from vae_tune.model import build

PIXELS, EVALUATED = 784, 2000
MEASURED = """
import os, resource, sys, tempfile
from pathlib import Path
import numpy as np, torch
from vae_tune.checkpoint import take_up, write_checkpoint
from vae_tune.config import TrialConfig
from vae_tune.data import Images
from vae_tune.training import fit, new_state

cpu = torch.device("cpu")
torch.set_num_threads(1)
train, validation = (np.zeros((count, 28, 28), np.uint8) for count in (128, int(sys.argv[1])))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def train_and_resume(config):
    before = peak()
    state = new_state(config, 784, cpu)
    with tempfile.TemporaryDirectory() as folder:
        for report in fit(config, Images(train, validation, validation), cpu, state):
            write_checkpoint(Path(folder), config, state, report)
        del state
        take_up(Path(folder), cpu)
    print(peak() - before, flush=True)


for config in map(eval, sys.argv[2:]):  # a fork has a peak of its own, and need not import anew
    if not (pid := os.fork()):
        train_and_resume(config)
        os._exit(0)
    os.waitpid(pid, 0)
"""
TRAINED = {
    "wide": TrialConfig(max_epochs=1, hidden_width=2000, hidden_layers=2),
    "many latents": TrialConfig(max_epochs=1, latent_size=6000, hidden_width=300),
}


@pytest.mark.parametrize(
    "config",
    [
        TrialConfig(),
        TrialConfig(latent_size=3, hidden_width=7, hidden_layers=1),
        TrialConfig(latent_size=50, hidden_width=9, hidden_layers=4),
    ],
)
@pytest.mark.parametrize("pixels", [35, 784])
def test_the_parameters_are_those_of_the_model(config, pixels):
    there = sum(parameter.numel() for parameter in build(config, pixels).parameters())
    assert parameter_count(config, pixels) == there


@pytest.fixture(scope="module")
def measured():
    """The bytes that each training took at its peak, by name."""
    # by a shell's child: at exec a process keeps the peak of the one that forked it, here of all tests so far
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", MEASURED, str(EVALUATED)]
    done = subprocess.run([*command, *map(repr, TRAINED.values())], capture_output=True, text=True, check=True)
    return dict(zip(TRAINED, map(int, done.stdout.split()), strict=True))


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_takes_about_the_memory_that_is_foretold(measured, name):
    assert measured[name] > 300_000_000
    assert 0.85 * measured[name] < training_bytes(TRAINED[name], PIXELS, EVALUATED) < 1.6 * measured[name]


def test_with_a_gpu_a_training_takes_less_main_memory():
    config = TrialConfig(hidden_width=4000)
    assert training_bytes(config, PIXELS, EVALUATED, on_gpu=True) < training_bytes(config, PIXELS, EVALUATED)
    assert gpu_bytes(config, PIXELS, EVALUATED) > 16 * parameter_count(config, PIXELS)


def test_what_needs_more_than_there_is_is_refused_with_both_numbers():
    expected = "This needs about 3.2 GB of memory, but 1.5 GB are free.\nTake less."
    with pytest.raises(UsageError) as caught:
        refuse_too_much("This", 3_200_000_000, 1_500_000_000, "Take less.")
    assert str(caught.value) == expected


@pytest.mark.parametrize("there", [None, 3_200_000_000])
def test_what_fits_or_cannot_be_known_is_not_refused(there):
    refuse_too_much("This", 3_200_000_000, there, "Take less.")
