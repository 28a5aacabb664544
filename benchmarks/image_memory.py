"""Private memory of a search's worker on 50,000 color images of 64 x 64, against that of one on MNIST.

    python benchmarks/image_memory.py [--images 50000] [--size 64] [--width 16]

The bar: beyond what its model takes, a worker on the color images has at most 1.2 x the private memory of one on
MNIST, as the images lie once in Ray's object store. Private is what a process shares with no other (Private_Clean and
Private_Dirty of /proc/PID/smaps_rollup), at its peak, sampled twenty times a second.

What the model takes is counted by torch's own sizes: weights, gradients, the optimizer's moments, and the activations,
which are the most that an epoch on few images allocates and has not freed, as torch's profiler records it. Both
searches prepare their images before; the color images are noise.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from harness import publish
from memory import own_mb, store_mb, watch_search

from vae_tune.config.cache_folder import CACHE_VARIABLE
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images
from vae_tune.vae.training import TrainingState, fit, new_state

CPU = torch.device("cpu")
BAR = 1.2


def model_mb(config: TrialConfig, shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the MB of a model's weights, gradients and moments, and of the activations of an epoch."""
    random = np.random.default_rng(0)
    few, one = (random.integers(0, 256, (count, *shape), np.uint8) for count in (3 * config.batch_size, 1000))
    state = new_state(config, shape, CPU)
    with torch.profiler.profile(profile_memory=True) as profile:
        list(fit(config, Images(few, one, one), CPU, state))
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return {"weights, gradients, moments": state_mb(state), "activations": float(np.cumsum(sizes).max()) / 2**20}


def state_mb(state: TrainingState) -> float:
    parameter = state.optimizer.parameter
    assert parameter.grad is not None
    tensors = [parameter, parameter.grad, *state.optimizer.moments.values()]
    return sum(tensor.nbytes for tensor in tensors) / 2**20


def search(*options: object) -> dict[str, float]:
    """Return the peaks, in MB, of the private memory of a search's one worker and of shared memory."""
    peaks = {"worker": 0.0, "object store": 0.0}
    before = store_mb()
    with tempfile.TemporaryDirectory() as place:
        fixed = ["--num-samples", 1, "--max-epochs", 2, "--max-concurrent", 1, "--results-dir", place]

        def look(_: int, workers: list[int]) -> None:
            peaks["worker"] = max([peaks["worker"], *map(own_mb, workers)])
            peaks["object store"] = max(peaks["object store"], store_mb() - before)

        watch_search([*fixed, *options], look, every=0.05)
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="color images to train on")
    parser.add_argument("--size", type=int, default=64, help="their width and height in pixels")
    parser.add_argument("--width", type=int, default=16, help="hidden width of the model")
    options = parser.parse_args()
    config = TrialConfig(hidden_width=options.width, max_epochs=1)
    shapes = {"MNIST": (1, 28, 28), "color": (3, options.size, options.size)}
    with tempfile.TemporaryDirectory() as place:
        os.environ[CACHE_VARIABLE] = str(Path(place) / "cache")
        file = Path(place) / "noise.npz"
        random = np.random.default_rng(0)
        size = options.size, options.size, 3
        splits = [random.integers(0, 256, (count, *size), np.uint8) for count in (options.images, 1000, 1000)]
        np.savez(file, train=splits[0], validation=splits[1], test=splits[2])
        load_images(DataConfig(dataset=str(file)))
        images = {"MNIST": [], "color": ["--dataset", file]}
        found = {name: search("--hidden-width", options.width, *images[name]) for name in shapes}
    rows, rest = [], {}
    for name, shape in shapes.items():
        model = model_mb(config, shape)
        found[name] |= model
        rest[name] = found[name]["worker"] - sum(model.values())
        figures = [found[name]["worker"], *model.values(), rest[name], found[name]["object store"]]
        channels, height, width = shape
        rows.append([f"{name}, {height} x {width} x {channels}", *(f"{figure:.0f}" for figure in figures)])
    columns = ["", "worker's own, MB", "weights, gradients, moments", "activations", "**rest**", "shared memory"]
    ratio = rest["color"] / rest["MNIST"]
    remark = f"Without the model, {ratio:.2f} x the memory of the worker on MNIST; the bar is {BAR} x."
    title = f"Peak memory that a worker shares with no other process, on {options.images:,} images"
    publish("image_memory", title, columns, rows, found, [remark])


if __name__ == "__main__":
    main()
