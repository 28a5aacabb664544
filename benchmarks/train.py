"""One training epoch: vae_tune, the usual way, and the matrix products alone.

    python benchmarks/train.py [--model mlp] [--runs 3] [--only "batch 128, float32" --threads 1]
    python benchmarks/train.py --model conv [--runs 5] [--images 6400]      # see train_conv.py

The usual way (``usual.py``) is the same model on the same images as PyTorch's own VAE example trains it, layer by
layer: ``DataLoader(MNIST, ToTensor)``, ``binary_cross_entropy`` of a sigmoid, unfused Adam, ``.item()`` per step,
always in float32. The floor is the five large matrix products of a step at the rate that ``torch.mm`` reaches in this
run, in the precision named. vae_tune can fall below it: where a linear encoder's two layers are taken together, two
of the five become smaller.

The last column is the validation loss after three epochs, so that no speed is bought with quality. Batches of 512 are
trained at four times the learning rate (the linear scaling rule: Goyal et al. 2017, arXiv:1706.02677). The network
named ``deep`` has two hidden layers to each side, and ReLU in its encoder too.

With ``--only`` rows whose names contain a text are measured, without their losses, and no table is published.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import train_conv
from harness import alternate, markdown, publish, ratio, spread
from usual import CPU, VAE, VALIDATION, Batches, batches, validate
from usual import train_epoch as usual_epoch

from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images
from vae_tune.vae.training import fit, make_step, new_state, train_epoch, training_images

REFERENCE = TrialConfig(max_epochs=3)
LARGE = replace(REFERENCE, batch_size=512, learning_rate=4e-3)
DEEP = replace(REFERENCE, hidden_layers=2, encoder_activation="relu")
CONFIGS = {
    "batch 128, float32": REFERENCE,
    "batch 128, float32, deep": DEEP,
    "batch 128, bfloat16": replace(REFERENCE, precision="bfloat16"),
    "batch 512, float32": LARGE,
    "batch 512, bfloat16": replace(LARGE, precision="bfloat16"),
}


def ours(config: TrialConfig, images: Images, device: torch.device = CPU) -> float:
    train = training_images(images.train, device)
    state = new_state(config, images.shape, device)
    step = make_step(state.model, config)
    start = time.perf_counter()
    train_epoch(config, train, state, step, epoch=1)
    return time.perf_counter() - start


def usual(config: TrialConfig, images: Images, device: torch.device = CPU) -> float:
    model, loader, optimizer = usual_parts(config, images, device)
    start = time.perf_counter()
    usual_epoch(model, loader, optimizer, device)
    return time.perf_counter() - start


def usual_loss(config: TrialConfig, images: Images) -> float:
    """Return the validation loss after all epochs."""
    parts = usual_parts(config, images)
    for _ in range(config.max_epochs):
        usual_epoch(*parts)
    return validate(parts[0], batches(VALIDATION, config.batch_size, shuffle=False))


def usual_parts(
    config: TrialConfig, images: Images, device: torch.device = CPU
) -> tuple[VAE, Batches, torch.optim.Optimizer]:
    torch.manual_seed(config.seed)
    network = config.hidden_width, config.latent_size, config.hidden_layers, config.encoder_activation or "linear"
    model = VAE(*network).to(device)
    loader = batches(range(len(images.train)), config.batch_size, device, shuffle=True)
    return model, loader, torch.optim.Adam(model.parameters(), lr=config.learning_rate)


def floor(config: TrialConfig, images: Images) -> float:
    kind = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    batch, pixels, width = config.batch_size, images.pixels, config.hidden_width
    shapes = (batch, pixels), (batch, width), (pixels, width), (width, width)
    x, hidden, weight, square = (torch.rand(shape, dtype=kind) for shape in shapes)
    steps = -(-len(images.train) // batch)
    start = time.perf_counter()
    for _ in range(steps):
        torch.mm(x, weight)  # encoder, forward
        torch.mm(hidden, weight.t())  # decoder, forward
        torch.mm(x, weight)  # decoder, gradient of its input
        torch.mm(x.t(), hidden)  # decoder, gradient of its weight
        torch.mm(hidden.t(), x)  # encoder, gradient of its weight
        for _ in range(2 * (config.hidden_layers - 1)):  # of the encoder and of the decoder
            torch.mm(hidden, square)
            torch.mm(hidden, square.t())
            torch.mm(hidden.t(), hidden)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--images", type=int, default=6_400, help="training images of conv; an epoch has 50,000")
    parser.add_argument("--only", default="", help="measure the rows of mlp whose names contain this")
    parser.add_argument("--threads", type=int, help="default: one, and one per CPU")
    options = parser.parse_args()
    if options.model == "conv":
        train_conv.main(options.runs or 5, options.images)
    else:
        threads = [options.threads] if options.threads else sorted({1, usable_cpus()})
        compare_mlp(options.runs or 3, options.only, threads)


def compare_mlp(runs: int, only: str, thread_counts: Sequence[int]) -> None:
    images = load_images(DataConfig())
    rows: list[list[str]] = []
    measured: dict[str, dict[str, Any]] = {}
    torch.set_num_threads(1)
    losses: dict[str, tuple[float, float]] = {}
    if not only:
        networks = {
            (config.batch_size, config.hidden_layers): replace(config, precision="float32")
            for config in CONFIGS.values()
        }
        usual_losses = {network: usual_loss(config, images) for network, config in networks.items()}
        for name, config in CONFIGS.items():
            mine = list(fit(config, images, CPU))[-1].val_loss
            losses[name] = mine, usual_losses[config.batch_size, config.hidden_layers]
    for threads in thread_counts:
        torch.set_num_threads(threads)
        for name, config in CONFIGS.items():
            if only not in name:
                continue
            print(f"{name}, {threads} threads", flush=True)
            ways = {"vae_tune": ours, "usual way": usual, "matrix products": floor}
            found = alternate({way: lambda f=f, c=config: f(c, images) for way, f in ways.items()}, runs)  # type: ignore[misc]
            times, other, products = found.values()
            rows.append(
                [
                    f"{name}, {threads} thread{'s' if threads > 1 else ''}",
                    spread(times),
                    spread(other),
                    f"**{ratio(other, times):.2f} x**",
                    spread(products),
                    f"{ratio(products, times):.0%}",
                    " / ".join(f"{loss:.2f}" for loss in losses.get(name, ())),
                ]
            )
            measured[rows[-1][0]] = {**found, "val_loss": losses[name][0] if losses else None}
    columns = [
        "",
        "vae_tune, s",
        "usual way, s",
        "faster",
        "matrix products, s",
        "of vae_tune",
        "loss after 3: ours / usual",
    ]
    title = f"One epoch of {len(images.train)} images, 784-400-20; medians of {runs} runs in turn (least to most)"
    if only or len(thread_counts) == 1:
        print(markdown(columns, rows))
        return
    large, small = "512, bfloat16", "128, float32"
    gain = ratio(*(measured[f"batch {name}, 1 thread"]["vae_tune"] for name in (small, large)))
    remark = f"Batch {large} against batch {small}, both on one thread: {gain:.2f} x."
    publish("train", title, columns, rows, measured, [remark])


if __name__ == "__main__":
    main()
