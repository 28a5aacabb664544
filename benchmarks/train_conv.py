"""One training epoch of the model conv: vae_tune, the usual way, and its convolutions and products alone.

``python benchmarks/train.py --model conv`` calls this. All figures are CPU seconds on one thread. The usual way
(``usual_conv.py``) runs in a process of its own, as vae_tune changes how its own allocates memory. The floor repeats
the convolutions and matrix products that one step calls, forward and backward, on the tensors of that step.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from harness import alternate, publish, ratio, spread
from torch.utils._python_dispatch import TorchDispatchMode

from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images
from vae_tune.vae.allocation import keep_freed_memory
from vae_tune.vae.training import make_step, new_state, train_epoch, training_images

CPU = torch.device("cpu")
REFERENCE = TrialConfig(model="conv", max_epochs=3)
CONFIGS = {"float32": REFERENCE, "bfloat16": replace(REFERENCE, precision="bfloat16")}
COUNTED = ("convolution", "convolution_backward", "mm", "addmm")


class Calls(TorchDispatchMode):
    """Records the calls of convolutions and products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in COUNTED:
            kept = [arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args]
            self.found.append(lambda: func(*kept, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def ours(config: TrialConfig, images: Images) -> float:
    """Return the CPU seconds of an epoch."""
    train = training_images(images.train, CPU)
    state = new_state(config, images.shape, CPU)
    step = make_step(state.model, config)
    start = time.process_time()
    train_epoch(config, train, state, step, epoch=1)
    return time.process_time() - start


def usual(config: TrialConfig, images: Images) -> float:
    """Return the same of the usual way."""
    script = Path(__file__).with_name("usual_conv.py")
    options = [f"--images={len(images.train)}", f"--batch-size={config.batch_size}"]
    return float(subprocess.run([sys.executable, script, *options], capture_output=True, text=True, check=True).stdout)


def floor(config: TrialConfig, images: Images) -> float:
    """Return the CPU seconds of as many steps' convolutions and products."""
    train = training_images(images.train[: config.batch_size], CPU)
    state = new_state(config, images.shape, CPU)
    with Calls() as calls:
        train_epoch(config, train, state, make_step(state.model, config), epoch=1)
    start = time.process_time()
    with torch.no_grad():
        for _ in range(-(-len(images.train) // config.batch_size)):
            for call in calls.found:
                call()
    return time.process_time() - start


def main(runs: int, count: int) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training of this model does
    images = load_images(DataConfig(train_size=count))
    ways: dict[str, Callable[[], float]] = {"usual": lambda: usual(REFERENCE, images)}
    for name, config in CONFIGS.items():
        ways |= {name: lambda c=config: ours(c, images), f"{name}, floor": lambda c=config: floor(c, images)}  # type: ignore[misc]
    found = alternate(ways, runs)
    rows = [
        [
            f"batch {config.batch_size}, {name}",
            spread(found[name]),
            spread(found["usual"]),
            f"**{ratio(found[name], found['usual']):.2f}**",
            spread(found[f"{name}, floor"]),
            f"{ratio(found[f'{name}, floor'], found[name]):.0%}",
        ]
        for name, config in CONFIGS.items()
    ]
    columns = ["", "vae_tune, s", "usual way, s", "of the usual", "convolutions and products, s", "of vae_tune"]
    title = f"{count:,} images of MNIST by conv, 32 channels, 20 latents; CPU seconds, medians of {runs} runs in turn"
    publish("train-conv", title, columns, rows, found)
