"""What ``torch.compile`` would save: an epoch by the step here and by autograd, each compiled and not.

    python benchmarks/compiled.py [--runs 3] [--widths 200,400,800]

All have the images on the device, and a fused AdamW; no DataLoader takes part. Compiled is what gives the gradient:
our step, and the usual way's loss. That is done anew for each width, as for each network of a search, and for an
epoch's minibatches as for its smaller last one, with no cache from before; *compiling* is the time of these two first
steps. On a GPU both are also compiled into CUDA graphs (``mode="reduce-overhead"``), by which the host launches many
kernels at once. On a CPU ``torch.compile`` needs g++.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from harness import alternate, publish, ratio, spread
from torch import Tensor
from torch._dynamo import config as dynamo
from torch.nn import functional
from train import REFERENCE
from usual import VAE

from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images
from vae_tune.vae.training import make_step, new_state, train_epoch, training_images

Change = Callable[[Any], Any]
Epoch = Callable[[], float]
_RECOMPILED = 100  # times, in place of 8: all that is compiled here shares its code


def by_step(config: TrialConfig, images: Images, device: torch.device, change: Change) -> tuple[float, Epoch]:
    """Return how long the first step of either size took, and what trains an epoch: vae_tune's training."""
    train = training_images(images.train, device)
    state = new_state(config, images.shape, device)
    step = change(make_step(state.model, config))

    def epoch(images: Tensor = train) -> float:
        start = time.perf_counter()
        train_epoch(config, images, state, step, epoch=1)
        return time.perf_counter() - start

    return epoch(train[: config.batch_size + len(train) % config.batch_size]), epoch


def by_autograd(config: TrialConfig, images: Images, device: torch.device, change: Change) -> tuple[float, Epoch]:
    """Return the same of the usual way's model."""
    train = training_images(images.train, device)
    model = VAE(config.hidden_width, config.latent_size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    loss = change(loss_of(model))
    order = torch.randperm(len(train)).to(device).split(config.batch_size)

    def epoch(indices: tuple[Tensor, ...] = order) -> float:
        start, total = time.perf_counter(), torch.zeros((), device=device)
        for index in indices:
            optimizer.zero_grad()
            found = loss(train.index_select(0, index))
            found.backward()
            optimizer.step()
            total.add_(found.detach(), alpha=len(index))
        total.item()  # waits for a GPU
        return time.perf_counter() - start

    return epoch((order[0], order[-1])), epoch


def loss_of(model: VAE) -> Callable[[Tensor], Tensor]:
    """Return the usual way's loss, (batch, pixels) to (); of logits, which spares a sigmoid."""

    def loss(x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else x.div(255.0)
        hidden = model.encoder(x)
        mean, log_variance = model.mean(hidden), model.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        logits = model.logits(torch.relu(model.decoder(z)))
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (reconstruction + divergence) / len(x)

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--widths", default="200,400,800")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and shutil.which("g++") is None:
        parser.error("torch.compile needs a C++ compiler: install g++.")
    changes: dict[str, Change] = {"": lambda way: way, ", compiled": partial(torch.compile, dynamic=False)}
    if device.type == "cuda":
        changes[", CUDA graphs"] = partial(torch.compile, dynamic=False, mode="reduce-overhead")
    torch.set_num_threads(1)
    dynamo.recompile_limit = _RECOMPILED
    images = load_images(DataConfig())
    rows: list[list[str]] = []
    measured: dict[str, Any] = {}
    for width in map(int, options.widths.split(",")):
        print(f"hidden width {width}", flush=True)
        config = replace(REFERENCE, hidden_width=width)
        ways: dict[str, Epoch] = {}
        compiling: dict[str, float] = {}
        for change, changed in changes.items():
            for name, way in (("vae_tune", by_step), ("autograd", by_autograd)):
                compiling[name + change], ways[name + change] = way(config, images, device, changed)
                print(f"  {name}{change}, first steps: {compiling[name + change]:.3g}", flush=True)
        found = alternate(ways, options.runs)
        ours = found["vae_tune"]
        for name, seconds in found.items():
            row = [f"{width} wide, {name}", spread(seconds), f"{ratio(seconds, ours):.2f} x"]
            if "," in name:
                saved = median(ours) - median(seconds)
                row += [f"{compiling[name]:.1f}", f"{compiling[name] / saved:.0f}" if saved > 0 else "never"]
            rows.append([*row, "", ""][:5])
        measured[str(width)] = {"epoch": found, "first steps": compiling}
    columns = ["", "an epoch, s", "of vae_tune's", "compiling, s", "pays from epoch"]
    title = f"One epoch of {len(images.train)} images in batches of {REFERENCE.batch_size}, one thread, {device.type}"
    publish("compiled", f"{title}; medians of {options.runs} runs in turn (least to most)", columns, rows, measured)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        main()
