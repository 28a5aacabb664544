"""One training epoch, one thread: vae_tune against the usual way and against the matrix products alone.

    python benchmarks/train.py [--runs 3]

The usual way is the same model on the same images as PyTorch's own VAE example trains it: ``DataLoader(MNIST,
ToTensor)``, ``binary_cross_entropy`` of a sigmoid, unfused Adam, ``.item()`` per step. The floor is the five large
matrix products of a step at the rate that ``torch.mm`` reaches in this run. Runs alternate; medians with minimum and
maximum are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from vae_tune.config import DataConfig, TrialConfig
from vae_tune.data import cache_dir, load_images, to_tensor
from vae_tune.model import build
from vae_tune.step import Step
from vae_tune.training import new_state, train_epoch

CPU = torch.device("cpu")
CONFIG = TrialConfig()


def ours(images: torch.Tensor) -> float:
    state = new_state(CONFIG, images.shape[1], CPU)
    step = Step(state.model, CONFIG, CONFIG.batch_size)
    start = time.perf_counter()
    train_epoch(CONFIG, images, state, step, epoch=1)
    return time.perf_counter() - start


def usual(images: torch.Tensor) -> float:
    train = datasets.MNIST(cache_dir(), train=True, transform=transforms.ToTensor())
    loader = DataLoader(Subset(train, range(len(images))), batch_size=CONFIG.batch_size, shuffle=True)
    model = build(CONFIG, images.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=CONFIG.learning_rate)
    total = 0.0
    start = time.perf_counter()
    for batch, _ in loader:
        x = batch.view(len(batch), -1)
        optimizer.zero_grad()
        logits, mean, log_variance = model(x, torch.randn(len(x), CONFIG.latent_size))
        loss = functional.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum")
        loss -= 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        loss.backward()
        total += loss.item()
        optimizer.step()
    return time.perf_counter() - start


def floor(images: torch.Tensor) -> float:
    batch, pixels, width = CONFIG.batch_size, images.shape[1], CONFIG.hidden_width
    x, hidden, weight = torch.rand(batch, pixels), torch.rand(batch, width), torch.rand(pixels, width)
    steps = -(-len(images) // batch)
    start = time.perf_counter()
    for _ in range(steps):
        torch.mm(x, weight)  # encoder, forward
        torch.mm(hidden, weight.t())  # decoder, forward
        torch.mm(x, weight)  # decoder, gradient of its input
        torch.mm(x.t(), hidden)  # decoder, gradient of its weight
        torch.mm(hidden.t(), x)  # encoder, gradient of its weight
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    images = to_tensor(load_images(DataConfig()).train, CPU)
    ways = {"vae_tune": ours, "usual way": usual, "matrix products": floor}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            taken = way(images)
            if run:  # the first round warms up
                seconds[name].append(taken)
    print(f"One epoch of {len(images)} images, batch {CONFIG.batch_size}, float32, one thread, {runs} runs each")
    base = statistics.median(seconds["vae_tune"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:16s} {median:6.2f} s  ({min(taken):.2f} to {max(taken):.2f})  {median / base:5.2f} x vae_tune")


if __name__ == "__main__":
    main()
