"""What ``torch.compile`` would save: an epoch of the step here, and of the same loss by autograd, compiled and not.

    python benchmarks/compiled.py [--runs 3] [--widths 200,400,800]

All have the images on the device, as the training here has, and a fused AdamW; no DataLoader takes part. The compiled
loss is compiled anew for each width, as it would be for each network of a search, for an epoch's minibatches and for
its smaller last one, with no cache from before; *compiling* is the time of these first steps. On a GPU it is also
compiled into CUDA graphs (``mode="reduce-overhead"``), by which the host launches a whole step at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from harness import alternate, publish, ratio, spread
from torch import Tensor
from torch._inductor import config as inductor
from torch.nn import functional
from train import REFERENCE, ours
from usual import VAE

from vae_tune.config import DataConfig, TrialConfig
from vae_tune.data import Images, load_images, to_tensor

Loss = Callable[[Tensor], Tensor]
Epoch = Callable[[], float]


def loss_of(model: VAE) -> Loss:
    """Return the usual way's loss, (batch, pixels) to (); of logits, which spares a sigmoid."""

    def loss(x: Tensor) -> Tensor:
        hidden = model.encoder(x)
        mean, log_variance = model.mean(hidden), model.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        logits = model.logits(torch.relu(model.decoder(z)))
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (reconstruction + divergence) / len(x)

    return loss


def by_autograd(
    config: TrialConfig, images: Images, device: torch.device, change: Callable[[Loss], Loss] = lambda loss: loss
) -> tuple[float, Epoch]:
    """Return how long the first step of either size took, and what trains an epoch."""
    train = to_tensor(images.train, device)
    model = VAE(config.hidden_width, config.latent_size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    loss = change(loss_of(model))
    order = torch.randperm(len(train)).to(device).split(config.batch_size)

    def steps(indices: tuple[Tensor, ...]) -> float:
        start, total = time.perf_counter(), torch.zeros((), device=device)
        for index in indices:
            optimizer.zero_grad()
            found = loss(train.index_select(0, index).div(255.0))
            found.backward()
            optimizer.step()
            total.add_(found.detach(), alpha=len(index))
        total.item()  # waits for a GPU
        return time.perf_counter() - start

    return steps((order[0], order[-1])), lambda: steps(order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--widths", default="200,400,800")
    options = parser.parse_args()
    torch.set_num_threads(1)
    inductor.force_disable_caches = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = load_images(DataConfig())
    changes: dict[str, Callable[[Loss], Loss]] = {"compiled": torch.compile}
    if device.type == "cuda":
        changes["CUDA graphs"] = lambda loss: torch.compile(loss, mode="reduce-overhead")
    rows: list[list[str]] = []
    measured: dict[str, Any] = {}
    for width in map(int, options.widths.split(",")):
        print(f"hidden width {width}", flush=True)
        config = replace(REFERENCE, hidden_width=width)
        ways: dict[str, Epoch] = {"vae_tune": lambda c=config: ours(c, images, device)}  # type: ignore[misc]
        ways["autograd"] = by_autograd(config, images, device)[1]
        compiling = {}
        for name, change in changes.items():
            compiling[name], ways[name] = by_autograd(config, images, device, change)
            print(f"  compiling: {compiling[name]:.3g}", flush=True)
        found = alternate(ways, options.runs)
        for name, seconds in found.items():
            row = [f"{width} wide, {name}", spread(seconds), f"{ratio(seconds, found['vae_tune']):.2f} x"]
            if name in compiling:
                saved = median(found["vae_tune"]) - median(seconds)
                row += [f"{compiling[name]:.1f}", f"{compiling[name] / saved:.0f}" if saved > 0 else "never"]
            rows.append([*row, "", ""][:5])
        measured[str(width)] = {"epoch": found, "compiling": compiling}
    columns = ["", "an epoch, s", "of vae_tune's", "compiling, s", "pays from epoch"]
    title = (
        f"One epoch of {len(images.train)} images in batches of {REFERENCE.batch_size}, one thread, {device.type}; "
    )
    title += f"medians of {options.runs} runs in turn (least to most)"
    publish("compiled", title, columns, rows, measured)


if __name__ == "__main__":
    main()
