"""Estimate the memory of a training before it begins; tests compare the estimate with measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.evaluation_batch import decoder_outputs, evaluation_batch
from vae_tune.vae.likelihoods.registry import likelihood_facts

if TYPE_CHECKING:
    from vae_tune.vae.model_cost import ModelCost

_BY_FORMULA = "mlp"
"""The model whose cost is computed by formulas, without torch; that of any other is measured."""
_FLOAT = 4
PROCESS = 400_000_000
"""Private bytes of a worker before it trains, without the code of the libraries, which is in memory once."""
_TRAINED = 4
"""Numbers per parameter: itself, its gradient, and Adam's two moments."""
_WRITTEN = 7
"""Numbers per parameter while a checkpoint is written or read: parameter and moments, as tensors and as a file."""


def parameter_count(config: TrialConfig, shape: Sequence[int]) -> int:
    """Return the number of weights and biases of the model for images of ``shape``.

    Raises:
        UsageError: the model is unknown, or a user's class that this process may not run.
    """
    if config.model != _BY_FORMULA:
        return _measured(config, shape).parameters
    pixels, outputs = math.prod(shape), decoder_outputs(config, shape)
    width, latents = config.hidden_width, config.latent_size
    between = (config.hidden_layers - 1) * (width + 1) * width
    encoder = (pixels + 1) * width + between + 2 * (width + 1) * latents
    decoder = (latents + 1) * width + between + (width + 1) * outputs
    scales = shape[0] * likelihood_facts(config, shape[0]).own_parameters
    return encoder + decoder + scales


def training_bytes(config: TrialConfig, shape: Sequence[int], evaluated: int, *, on_gpu: bool = False) -> int:
    """Return the bytes of main memory that training ``config`` takes, in addition to the process and the data set.

    These are the parameters with gradients and moments, a minibatch, and for a while either a checkpoint or an
    evaluation, of so many images. With a GPU only the checkpoints are in main memory.
    """
    written = _FLOAT * _WRITTEN * parameter_count(config, shape)
    if on_gpu:
        return written
    evaluation = evaluation_bytes(config, shape, evaluated)
    if _needs_autograd(config, shape):  # its minibatch is free again when the evaluation begins
        return _weights(config, shape) + written + max(_minibatch(config, shape), evaluation)
    return _weights(config, shape) + _minibatch(config, shape) + max(written, evaluation)


def gpu_bytes(config: TrialConfig, shape: Sequence[int], evaluated: int) -> int:
    """Return the bytes of a GPU's memory that training ``config`` takes, without the data set."""
    trained = _weights(config, shape) + _minibatch(config, shape)
    return trained + evaluation_bytes(config, shape, evaluated)


def evaluation_bytes(config: TrialConfig, shape: Sequence[int], evaluated: int) -> int:
    """Return the bytes that evaluating a model on ``evaluated`` images takes, without the model and the images."""
    rows = evaluation_batch(config, shape)
    if config.model != _BY_FORMULA:  # without gradients a layer's values are free once the next has taken them
        return 16 * evaluated * config.latent_size + rows * _measured(config, shape).saved_bytes // 4
    return _FLOAT * (4 * evaluated * config.latent_size + _activations(config, shape, rows))


def refuse_too_much(what: str, needed: int, there: int | None, remedy: str) -> None:
    """Raise UsageError if work needs more memory than is free; do nothing if the free memory is unknown."""
    if there is not None and needed > there:
        raise UsageError(f"{what} needs about {in_words(needed)} of memory, but {in_words(there)} are free.\n{remedy}")


def in_words(count: float) -> str:
    """Return a number of bytes in GB, as 1.2 GB."""
    return f"{count / 1e9:,.1f} GB"


def _needs_autograd(config: TrialConfig, shape: Sequence[int]) -> bool:
    """Whether a training takes the generic step, which holds what autograd keeps of a minibatch."""
    if config.model != _BY_FORMULA:
        return True
    return config.iwae_samples > 1 or config.free_bits > 0 or not likelihood_facts(config, shape[0]).is_fused


def _measured(config: TrialConfig, shape: Sequence[int]) -> ModelCost:
    """Return the cost of another model than the MLP, whose formulas need no torch."""
    from vae_tune.vae.model_cost import model_cost

    return model_cost(config, shape)


def _weights(config: TrialConfig, shape: Sequence[int]) -> int:
    """Return the bytes of parameters, gradients and moments."""
    numbers = _TRAINED + _needs_autograd(config, shape)
    numbers += 3 * (config.precision == "bfloat16")  # copies in bfloat16, and products of them
    return _FLOAT * numbers * parameter_count(config, shape)


def _minibatch(config: TrialConfig, shape: Sequence[int]) -> int:
    """Return the bytes of a minibatch and of all that is computed from it."""
    if config.model != _BY_FORMULA:
        return config.batch_size * _measured(config, shape).saved_bytes
    numbers = _activations(config, shape, config.batch_size * config.iwae_samples)
    return _FLOAT * numbers * (2 if _needs_autograd(config, shape) else 1)


def _activations(config: TrialConfig, shape: Sequence[int], rows: int) -> int:
    """Return the numbers that a pass over ``rows`` images holds: of images and logits, hidden layers, and latents."""
    pixels = math.prod(shape) + likelihood_facts(config, shape[0]).copies * decoder_outputs(config, shape)
    return rows * (pixels + 4 * config.hidden_layers * config.hidden_width + 7 * config.latent_size)
