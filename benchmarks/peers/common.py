"""What the peers of ``benchmarks/search.py`` share: one trial in the usual way or by our training, and its log.

The folder of a search has ``space.json``, what is searched. Each epoch is a line of ``epochs.jsonl``: trial, epoch,
val_loss, and when it began and ended. That is all that the searches are compared by.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from usual import VAE, VALIDATION, batches, train_epoch, validate

from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images
from vae_tune.vae.training import fit

NAMES = ("latent_size", "hidden_width", "learning_rate")
"""What is searched."""


def ranges(folder: Path) -> dict[str, Any]:
    """Return the least and the greatest value of each hyperparameter; all are searched on a logarithmic scale."""
    space = json.loads((folder / "space.json").read_text())
    return {name: (one["low"], one["high"]) if isinstance(one, dict) else (one, one) for name, one in space.items()}


def train(kernel: str, values: Mapping[str, Any], train_size: int, max_epochs: int) -> Iterator[float]:
    """Return the validation loss after each epoch, one by one as it is trained: the usual way or, if so named, ours.

    The images of our training are read once in a process, in no epoch's time.
    """
    torch.set_num_threads(1)
    names = {name: values[name] for name in NAMES}
    config = replace(TrialConfig(), max_epochs=max_epochs, **names)
    if kernel == "ours":
        return (report.val_loss for report in fit(config, _images(train_size), torch.device("cpu")))
    return _usual(config, train_size)


@cache
def _images(train_size: int) -> Images:
    return load_images(DataConfig(train_size=train_size))


def logged(folder: Path, trial: object, losses: Iterator[float]) -> Iterator[tuple[int, float]]:
    """Pass epochs and losses on, and write down when each epoch began and ended."""
    start = time.time()
    for epoch, loss in enumerate(losses, start=1):
        line = {"trial": str(trial), "epoch": epoch, "val_loss": loss, "began": start, "ended": time.time()}
        with (folder / "epochs.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        yield epoch, loss
        start = time.time()


def _usual(config: TrialConfig, train_size: int) -> Iterator[float]:
    """Train as PyTorch's VAE example does."""
    train_batches = batches(range(train_size), config.batch_size, shuffle=True)
    validation_batches = batches(VALIDATION, config.batch_size, shuffle=False)
    torch.manual_seed(config.seed)
    model = VAE(config.hidden_width, config.latent_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for _ in range(config.max_epochs):
        train_epoch(model, train_batches, optimizer)
        yield validate(model, validation_batches)
