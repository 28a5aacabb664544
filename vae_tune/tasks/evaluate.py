"""A trained model's numbers on images: negative ELBO, its parts, active units, importance-weighted likelihood."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vae_tune.config.files import address, is_remote
from vae_tune.config.machine_limits import available_memory
from vae_tune.config.names import UNIT
from vae_tune.config.settings import DataConfig, TrialConfig, UsageError
from vae_tune.images.datasets import Images, load_images, to_tensor
from vae_tune.tasks.options import EvaluateOptions, ModelOptions
from vae_tune.vae.checkpoint import find_model, read_data_config, read_model
from vae_tune.vae.memory import evaluation_bytes, refuse_too_much
from vae_tune.vae.model import VAE
from vae_tune.vae.nll import negative_log_likelihoods, over_images
from vae_tune.vae.threads import limit_threads
from vae_tune.vae.training import evaluate
from vae_tune.views.console import make_console


@dataclass(frozen=True)
class Loaded:
    """A model and images for it."""

    folder: Path
    model: VAE
    config: TrialConfig
    data: DataConfig
    images: Images


def load_model(options: ModelOptions) -> Loaded:
    """Return the model that was named, and the images that were chosen or else it was trained on.

    Raises:
        UsageError: the model or the images cannot be used, or do not fit each other.
    """
    limit_threads()
    folder = find_model(options.model)
    model, config = read_model(folder)
    data = read_data_config(folder)
    if data.data_dir is not None and not data.data_dir.exists():  # the model was brought from another machine
        data = replace(data, data_dir=None)
    given = {name: getattr(options, name) for name in ("dataset", "data_dir", "binarization")}
    data = replace(data, **{name: value for name, value in given.items() if value is not None})
    images = load_images(data)
    if model.shape != images.shape:
        wanted, found = (" x ".join(map(str, shape)) for shape in (model.shape, images.shape))
        raise UsageError(f"The model in {folder} is for images of {wanted}, but those of {data.dataset} are {found}.")
    return Loaded(folder, model, config, data, images)


def run_evaluation(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Evaluate a model, print and return its numbers; each in nats per image and of the kind that is named.

    Raises:
        UsageError: the model or the images cannot be used.
    """
    loaded = load_model(options)
    images, dataset = getattr(loaded.images, options.split), loaded.data.dataset
    count = options.images or len(images)
    if count > len(images):
        raise UsageError(f"images must be <= {len(images)}, the {options.split} images of {dataset}, but got {count}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = torch.cuda.mem_get_info()[0] if device.type == "cuda" else available_memory()
    needed = evaluation_bytes(loaded.config, loaded.images.shape, count)
    refuse_too_much("This evaluation", needed, there, "Take fewer --images.")
    tensor = to_tensor(images[:count], device)
    model = loaded.model.to(device)
    result: dict[str, Any] = {
        "model": address(options.model) if is_remote(options.model) else str(loaded.folder),
        "dataset": dataset,
        "split": options.split,
        "images": count,
        "kind": loaded.images.binarization,
        "unit": UNIT,
        **asdict(evaluate(model, tensor, loaded.config)),
        "latent_size": model.latent_size,
    }
    if options.nll_samples is not None:
        result["nll"] = _likelihood(model, tensor, options.nll_samples)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        _show(result, console or make_console())
    return result


def _likelihood(model: VAE, images: torch.Tensor, samples: int) -> dict[str, Any]:
    columns = TextColumn("likelihood"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn()
    start = time.perf_counter()
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(images))
        step: Callable[[], object] = lambda: progress.advance(task)  # noqa: E731
        values = negative_log_likelihoods(
            images.div(255.0), model.network.encode, model.log_likelihood, samples, progress=step
        )
    return {"samples": samples, **asdict(over_images(values)), "seconds": round(time.perf_counter() - start, 2)}


def _show(result: dict[str, Any], console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    say(f"{result['model']} on {result['images']:,} {result['split']} images of {result['dataset']}")
    say(f"In nats per image, {result['kind']} values:")
    say(f"  negative ELBO     {result['negative_elbo']:9.2f}")
    say(f"    reconstruction  {result['reconstruction']:9.2f}")
    say(f"    KL              {result['kl']:9.2f}")
    if nll := result.get("nll"):
        spread = nll["standard_error"]
        error = "" if spread is None else f" +- {spread:.2f} (standard error over images)"
        say(f"  NLL               {nll['mean']:9.2f}{error}")
        say(f"    of {nll['samples']:,} samples an image, in {nll['seconds']:.0f} s")
        if result["kind"] == "grey":
            say("  Grey values have no likelihood: this NLL compares with none of binary images. See --binarization.")
    say(f"{result['active_units']} of {result['latent_size']} latents active")
