"""Train one VAE, without Ray or Optuna: a generator that yields one report per epoch.

All randomness of an epoch is a function of (seed, epoch), and that of a step in a user's network, such as dropout, of
(seed, epoch, step): a training that goes on from a checkpoint draws the same as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images, binarize, to_tensor
from vae_tune.vae import fused_step
from vae_tune.vae.allocation import keep_freed_memory
from vae_tune.vae.autograd_step import AutogradStep
from vae_tune.vae.evaluation_batch import evaluation_batch
from vae_tune.vae.flat_parameters import flatten_parameters
from vae_tune.vae.fused_step import FusedStep
from vae_tune.vae.model import VAE, Shape, build_model
from vae_tune.vae.networks.code import is_own
from vae_tune.vae.networks.mlp import MLP
from vae_tune.vae.objective import kl
from vae_tune.vae.optimizer import AdamW
from vae_tune.vae.schedule import kl_weight, learning_rate
from vae_tune.vae.threads import cpu_threads, on_one_thread_each

ACTIVE_UNIT_THRESHOLD = 0.01
"""A latent dimension counts as active where Var_x(E[z|x]) exceeds this (Burda et al. 2016, section 5.2)."""

_EVALUATION_SEED = 13_126_114  # the same noise for every trial and epoch


@dataclass(frozen=True)
class EpochReport:
    """The numbers of one epoch. Losses are nats per image."""

    epoch: int
    """1-based."""
    train_loss: float
    """Mean over the epoch's images, while the weights changed: negative ELBO, or with iwae_samples that bound."""
    val_loss: float
    """Validation negative ELBO at KL weight 1, the number that ranks trials."""
    val_reconstruction: float
    val_kl: float
    active_units: int
    """Latent dimensions that carry information (see ``ACTIVE_UNIT_THRESHOLD``)."""
    seconds: float
    """The whole epoch, validation included."""
    images_per_second: float
    """Training images over the seconds spent training."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The values of a user's metric on the validation images, by name; none without."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by name; ``metrics`` only where there are any."""
        return {name: value for name, value in asdict(self).items() if name != "metrics" or value}


@dataclass(frozen=True)
class Evaluation:
    """Negative ELBO of a model on a set of images and its two parts, in nats per image."""

    negative_elbo: float
    reconstruction: float
    kl: float
    active_units: int


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the weights are useless."""

    def __init__(self, epoch: int, where: str):
        super().__init__(f"diverged: non-finite {where} in epoch {epoch}")
        self.epoch = epoch


@dataclass
class TrainingState:
    """All that training changes, and so the content of a checkpoint."""

    model: VAE
    optimizer: AdamW
    loss: Tensor
    """Sum of the losses over the images of the current epoch, nats: float64, (), on the model's device."""
    epoch: int = 0
    """Completed epochs."""
    step: int = 0
    """Completed minibatches of the current epoch; 0 between epochs, when ``loss`` is that of the last one."""
    seconds: float = 0.0
    """Seconds that these minibatches took."""


def new_state(config: TrialConfig, shape: Shape, device: torch.device) -> TrainingState:
    """Return the state before the first epoch, its weights drawn from the configuration's seed."""
    model = build_model(config, shape).to(device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    return TrainingState(model, AdamW(flatten_parameters(model), config.weight_decay), loss)


def fit(
    config: TrialConfig,
    images: Images,
    device: torch.device,
    state: TrainingState | None = None,
    midway: Callable[[TrainingState], None] | None = None,
    metric: Callable[[VAE, Tensor], Mapping[str, float]] | None = None,
) -> Iterator[EpochReport]:
    """Train up to ``config.max_epochs`` and yield a report after each epoch.

    Pass a ``state`` to checkpoint it between reports, or to go on from one. ``midway`` is called with the state after
    every step. It may checkpoint it too, and a training that goes on from there gives the same numbers; or it may end
    the training by an exception. ``metric`` is called with the model and the validation images in [0, 1] after every
    epoch, and its values are reported.

    Raises Diverged as soon as a loss is not finite (on a GPU at the end of the epoch).
    """
    train, validation = training_images(images.train, device), to_tensor(images.validation, device)
    if state is None:
        state = new_state(config, images.shape, device)
    state.model.train()
    step = make_step(state.model, config)
    if device.type == "cpu" and not isinstance(state.model.network, MLP):  # whose tensors are few
        keep_freed_memory()
    for epoch in range(state.epoch + 1, config.max_epochs + 1):
        start = time.perf_counter()
        if images.binarization == "dynamic":
            train = training_images(binarize(images.train, (config.seed, epoch)), device)
        start -= state.seconds
        with _tf32(config):
            train_loss = train_epoch(config, train, state, step, epoch, midway and partial(_timed, midway, start))
        trained = time.perf_counter()
        result = evaluate(state.model, validation, config)
        if not math.isfinite(result.negative_elbo):
            raise Diverged(epoch, "validation loss")
        metrics = metric(state.model, _scale(validation)) if metric else {}
        state.epoch, state.step, state.seconds = epoch, 0, 0.0
        yield EpochReport(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=result.negative_elbo,
            val_reconstruction=result.reconstruction,
            val_kl=result.kl,
            active_units=result.active_units,
            seconds=time.perf_counter() - start,
            images_per_second=len(train) / (trained - start),
            metrics=metrics,
        )


def evaluate(model: VAE, images: Tensor, config: TrialConfig) -> Evaluation:
    """Return the negative ELBO over ``images``: (images, channels, height, width), uint8, with one noise sample each.

    The noise depends only on the number of images and the latent size, so trials and epochs differ by their
    weights alone. Sums are taken in float64, and the number of threads changes no bit. The model is in eval mode
    meanwhile.
    """
    device, mode = images.device, model.training
    generator = torch.Generator(device).manual_seed(_EVALUATION_SEED)
    noise = torch.randn(len(images), model.latent_size, generator=generator, device=device)
    size = evaluation_batch(config, model.shape)
    batches = zip(images.split(size), noise.split(size), strict=True)
    model.eval()
    try:
        with _tf32(config):
            parts = on_one_thread_each(partial(_evaluate_batch, model, config), batches, device)
    finally:
        model.train(mode)
    sums, means = zip(*parts, strict=True)
    with cpu_threads(1):
        variance = torch.cat(means).var(dim=0, correction=0)
    rec, divergence = (reduce(torch.add, sums) / len(images)).tolist()
    active_units = int((variance > ACTIVE_UNIT_THRESHOLD).sum())
    return Evaluation(rec + divergence, rec, divergence, active_units)


@torch.no_grad()
def _evaluate_batch(model: VAE, config: TrialConfig, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sums of reconstruction and KL over a batch of images, (2,), float64, and their latent means."""
    images, noise = batch
    x = _scale(images)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        parameters, mean, log_variance = model(x, noise)
    mean, log_variance = mean.float(), log_variance.float()
    parts = model.likelihood.nats(parameters.float(), x), kl(mean, log_variance)
    return torch.stack([part.sum(dtype=torch.float64) for part in parts]), mean


def make_step(model: VAE, config: TrialConfig) -> FusedStep | AutogradStep:
    """Return the fastest step that there is for this model and objective."""
    return FusedStep(model, config) if fused_step.fits(model, config) else AutogradStep(model, config)


def train_epoch(
    config: TrialConfig,
    images: Tensor,
    state: TrainingState,
    step: FusedStep | AutogradStep,
    epoch: int,
    midway: Callable[[TrainingState], None] | None = None,
) -> float:
    """Take one pass over ``images``, uint8 or in [0, 1], and return the mean loss in nats per image.

    A pass that was interrupted goes on at ``state.step``.
    """
    device, on_cpu = images.device, images.device.type == "cpu"
    shuffler = torch.Generator().manual_seed(_epoch_seed(config.seed, epoch))
    noise_source = torch.Generator(device).manual_seed(_epoch_seed(config.seed, epoch))
    order = torch.randperm(len(images), generator=shuffler).to(device)
    weight, rate = kl_weight(config, epoch), learning_rate(config, epoch)
    draws_itself = is_own(config.model)
    total = state.loss if state.step else state.loss.zero_()
    for number, index in enumerate(order.split(config.batch_size), start=1):
        draws = len(index) * config.iwae_samples
        noise = torch.randn(draws, config.latent_size, generator=noise_source, device=device)
        if number <= state.step:  # done before the interruption; its noise had to be drawn nevertheless
            continue
        x = _scale(images.index_select(0, index))
        if draws_itself:  # as dropout does
            torch.manual_seed(_epoch_seed(config.seed, epoch, number))
        loss = step(x, noise, weight)
        if config.grad_clip:
            torch.nn.utils.clip_grad_norm_(state.optimizer.parameter, config.grad_clip)
        state.optimizer.step(rate)
        total.add_(loss, alpha=len(index))
        if on_cpu and not math.isfinite(total.item()):
            raise Diverged(epoch, f"training loss at step {number}")
        if midway:
            state.step = number
            midway(state)
    if not math.isfinite(total.item()):
        raise Diverged(epoch, "training loss")
    return total.item() / len(images)


def _timed(midway: Callable[[TrainingState], None], start: float, state: TrainingState) -> None:
    """Call ``midway`` with the seconds that the epoch has taken since ``start`` in the state."""
    state.seconds = time.perf_counter() - start
    midway(state)


def _epoch_seed(seed: int, epoch: int, *step: int) -> int:
    """Return a seed of its own for each (seed, epoch) or step, in 32 bits: torch's CPU generator drops any beyond."""
    return int(np.random.SeedSequence([seed, epoch, *step]).generate_state(1)[0])


def training_images(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return ``images`` for :func:`train_epoch`: on a GPU already scaled, which saves each step a kernel."""
    tensor = to_tensor(images, device)
    return tensor if device.type == "cpu" else _scale(tensor)


def _scale(images: Tensor) -> Tensor:
    """Scale uint8 values 0..255 to [0, 1], float32; return images that are scaled already as they are."""
    return images if images.is_floating_point() else images.div(255.0)


@contextmanager
def _tf32(config: TrialConfig) -> Iterator[None]:
    """Let a GPU compute products of float32 matrices in TF32 in the block, if ``config`` says so."""
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    if config.precision == "tf32":
        products.fp32_precision = "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before
