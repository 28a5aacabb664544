"""Estimate the memory of a training before it begins; tests compare the estimate with measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig

_FLOAT = 4
PROCESS = 400_000_000
"""Private bytes of a worker before it trains, without the code of the libraries, which is in memory once."""
_TRAINED = 4
"""Numbers per parameter: itself, its gradient, and Adam's two moments."""
_WRITTEN = 7
"""Numbers per parameter while a checkpoint is written or read: parameter and moments, as tensors and as a file."""
_EVALUATED_AT_ONCE = 500


def parameter_count(config: TrialConfig, shape: Sequence[int]) -> int:
    """Return the number of weights and biases of the model for images of ``shape``."""
    pixels = math.prod(shape)
    width, latents = config.hidden_width, config.latent_size
    between = (config.hidden_layers - 1) * (width + 1) * width
    encoder = (pixels + 1) * width + between + 2 * (width + 1) * latents
    decoder = (latents + 1) * width + between + (width + 1) * pixels
    return encoder + decoder


def training_bytes(config: TrialConfig, shape: Sequence[int], evaluated: int, *, on_gpu: bool = False) -> int:
    """Return the bytes of main memory that training ``config`` takes, in addition to the process and the data set.

    These are the parameters with gradients and moments, a minibatch, and for a while either a checkpoint or an
    evaluation, of so many images. With a GPU only the checkpoints are in main memory.
    """
    written = _FLOAT * _WRITTEN * parameter_count(config, shape)
    if on_gpu:
        return written
    return _trained(config, shape) + max(written, evaluation_bytes(config, shape, evaluated))


def gpu_bytes(config: TrialConfig, shape: Sequence[int], evaluated: int) -> int:
    """Return the bytes of a GPU's memory that training ``config`` takes, without the data set."""
    return _trained(config, shape) + evaluation_bytes(config, shape, evaluated)


def evaluation_bytes(config: TrialConfig, shape: Sequence[int], evaluated: int) -> int:
    """Return the bytes that evaluating a model on ``evaluated`` images takes, without the model and the images."""
    return _FLOAT * (4 * evaluated * config.latent_size + _activations(config, shape, _EVALUATED_AT_ONCE))


def refuse_too_much(what: str, needed: int, there: int | None, remedy: str) -> None:
    """Raise UsageError if work needs more memory than is free; do nothing if the free memory is unknown."""
    if there is not None and needed > there:
        raise UsageError(f"{what} needs about {in_words(needed)} of memory, but {in_words(there)} are free.\n{remedy}")


def in_words(count: float) -> str:
    """Return a number of bytes in GB, as 1.2 GB."""
    return f"{count / 1e9:,.1f} GB"


def _trained(config: TrialConfig, shape: Sequence[int]) -> int:
    """Return the bytes of parameters, gradients, moments and a minibatch."""
    autograd = config.iwae_samples > 1 or config.free_bits > 0
    numbers = _TRAINED + autograd + 3 * (config.precision == "bfloat16")  # copies in bfloat16, and products of them
    minibatch = _activations(config, shape, config.batch_size * config.iwae_samples) * (2 if autograd else 1)
    return _FLOAT * (numbers * parameter_count(config, shape) + minibatch)


def _activations(config: TrialConfig, shape: Sequence[int], rows: int) -> int:
    """Return the numbers that a pass over ``rows`` images holds: of images and logits, hidden layers, and latents."""
    return rows * (3 * math.prod(shape) + 4 * config.hidden_layers * config.hidden_width + 7 * config.latent_size)
