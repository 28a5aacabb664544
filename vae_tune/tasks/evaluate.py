"""Evaluating a trained model on images: negative ELBO, its parts, active units, importance-weighted likelihood."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, is_remote
from vae_tune.config.machine_limits import available_memory
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images, to_tensor
from vae_tune.vae.checkpoint import find_model, read_data, read_metric_code, read_model
from vae_tune.vae.evaluation_batch import evaluation_batch
from vae_tune.vae.likelihoods.likelihood import metric_of
from vae_tune.vae.likelihoods.registry import kind_of
from vae_tune.vae.memory_estimate import evaluation_bytes, refuse_too_much
from vae_tune.vae.model import VAE
from vae_tune.vae.nll import SAMPLES_AT_ONCE, negative_log_likelihoods, over_images
from vae_tune.vae.threads import limit_threads
from vae_tune.vae.training import evaluate
from vae_tune.vae.user_metric import MetricFailed, UserMetric, read_metric
from vae_tune.views.console import make_console
from vae_tune.views.preparation import shown_preparation

_CHANGED = (
    "Warning: the images of {} have changed since the training: its training images may now be validation or test "
    "images. Name images that the model has not seen with --dataset."
)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, and images for it."""

    folder: Path
    model: VAE
    config: TrialConfig
    data: DataConfig
    images: Images


def load_trained_model(model: Path, other_data: Mapping[str, Any], network: str | None = None) -> TrainedModel:
    """Load the model in a folder, or the best one of a study, and the images that it was trained on.

    ``other_data`` are fields of :class:`DataConfig` that replace those of the training; ``network`` is FILE.py:CLASS
    or MODULE:CLASS where the network is a user's class.

    Prints a warning if the images are not those of the training any more.

    Raises:
        UsageError: the model or the images cannot be used, or do not fit each other.
    """
    limit_threads()
    folder = find_model(model)
    vae, config = read_model(folder, network)
    data, checksum = read_data(folder)
    if data.data_dir is not None and not data.data_dir.exists():  # the model came from another machine
        data = replace(data, data_dir=None)
    data = replace(data, **other_data)
    console = make_console(stderr=True)
    with shown_preparation(console) as progress:
        images = load_images(data, progress=progress)
    if vae.shape != images.shape:
        wanted, found = (" x ".join(map(str, shape)) for shape in (vae.shape, images.shape))
        raise UsageError(f"The model in {folder} is for images of {wanted}, but those of {data.dataset} are {found}.")
    is_chosen = {"dataset", "binarization"} & other_data.keys()  # other images on purpose
    if checksum is not None and not is_chosen and images.sha256() != checksum:
        console.print(_CHANGED.format(data.dataset), style="yellow", soft_wrap=True)
    return TrainedModel(folder, vae, config, data, images)


def evaluate_model(
    model: Path,
    split: str = "test",
    other_data: Mapping[str, Any] | None = None,
    *,
    images: int | None = None,
    nll_samples: int | None = None,
    network: str | None = None,
    metric: str | None = None,
) -> dict[str, Any]:
    """Evaluate a model and return its numbers with their kind and unit, as JSON values.

    ``model``, ``other_data`` and ``network`` are as in :func:`load_trained_model`, and ``split`` is ``test`` or
    ``validation``. Use only so many ``images``, by default all; estimate the negative log-likelihood with
    ``nll_samples`` importance samples per image, by default not at all; ``metric`` is a user's function to compute
    too, FILE.py:FUNCTION or MODULE:FUNCTION.

    Says on standard error what of the training's own metric is not computed, or has other code now.

    Raises:
        UsageError: the model, the images or the metric cannot be used.
    """
    own = read_metric(metric)
    trained = load_trained_model(model, other_data or {}, network)
    if note := _metric_note(trained.folder, own):
        make_console(stderr=True).print(note, style="yellow", soft_wrap=True)
    chosen, dataset = getattr(trained.images, split), trained.data.dataset
    count = images or len(chosen)
    if count > len(chosen):
        raise UsageError(f"images must be <= {len(chosen)}, the {split} images of {dataset}, but got {count}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else available_memory()
    needed = evaluation_bytes(trained.config, trained.images.shape, count)
    refuse_too_much("This evaluation", needed, free, "Use fewer --images.")
    tensor = to_tensor(chosen[:count], device)
    vae = trained.model.to(device)
    kind = kind_of(trained.config, trained.images.shape[0], trained.images.binarization)
    result: dict[str, Any] = {
        "model": address(model) if is_remote(model) else str(trained.folder),
        "dataset": dataset,
        "split": split,
        "images": count,
        **metric_of(kind, trained.images.pixels),
        **asdict(evaluate(vae, tensor, trained.config)),
        "latent_size": vae.latent_size,
    }
    if nll_samples is not None:
        at_once = min(SAMPLES_AT_ONCE, 2 * evaluation_batch(trained.config, vae.shape))
        result["nll"] = _likelihood(vae, tensor, nll_samples, at_once)
    if own:
        try:
            result |= {"metric": own.code.model, "metrics": own(vae.eval(), tensor.div(255.0))}
        except MetricFailed as failed:
            raise UsageError(f"metric {own.code.model} fails: {failed}.") from failed
    return result


def _metric_note(folder: Path, metric: UserMetric | None) -> str:
    """Return what differs from the metric of the training: it is not named, or has other code now; else ""."""
    recorded = read_metric_code(folder)
    if recorded is None:
        return ""
    name, digest = recorded
    if metric is None:
        return f"Without {name}, the metric of the training. To compute it too: --metric {name}"
    is_same = metric.code.name != name.rpartition(":")[2] or metric.code.digest == digest
    return "" if is_same else f"Warning: {metric.code.model} is not the code of the training's metric {name}."


def _likelihood(model: VAE, images: torch.Tensor, samples: int, at_once: int) -> dict[str, Any]:
    columns = TextColumn("likelihood"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn()
    start = time.perf_counter()
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(images))
        values = negative_log_likelihoods(
            images.div(255.0),
            model.network.encode,
            model.log_likelihood,
            samples,
            progress=lambda: progress.advance(task),
            at_once=at_once,
        )
    return {"samples": samples, **asdict(over_images(values)), "seconds": round(time.perf_counter() - start, 2)}
