"""A folder of pictures: vae_tune against torchvision's ImageFolder and DataLoader with as many workers.

    python benchmarks/images.py [--runs 3] [--pictures 4000] [--size 32]

The pictures are crops of scikit-learn's two photographs, 64 to 256 pixels wide and high, half of them PNG, half JPEG.

- Preparing: from the folder to one array, with nothing in the cache. vae_tune also hashes the files, leaves out
  duplicates, splits and writes the cache. ImageFolder's pictures go through Resize, CenterCrop and PILToTensor.
- Training epoch: the same network, likelihood, batch size and number of threads, on the prepared images and through
  ImageFolder and DataLoader, whose workers live on from epoch to epoch; in color with the discretized logistic, where
  the matrix products are most of the time, and in grey with the Bernoulli.
- Second start: from the command to the first batch of a search on the folder, prepared before, and on MNIST.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import alternate, publish, ratio, spread
from PIL import Image
from sklearn.datasets import load_sample_images
from start import search
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from vae_tune.config.cache_folder import CACHE_VARIABLE
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images
from vae_tune.vae.model import VAE, build_model
from vae_tune.vae.objective import kl
from vae_tune.vae.training import make_step, new_state, train_epoch, training_images

CPU = torch.device("cpu")
CONFIG = TrialConfig()
SMALLEST, LARGEST = 64, 256


def write_pictures(folder: Path, count: int) -> None:
    """Write ``count`` crops as PNG and JPEG files."""
    draw = random.Random(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    folder.mkdir(parents=True)
    for number in range(count):
        photo = photos[number % 2]
        width, height = draw.randint(SMALLEST, LARGEST), draw.randint(SMALLEST, LARGEST)
        left, top = draw.randint(0, photo.width - width), draw.randint(0, photo.height - height)
        crop = photo.crop((left, top, left + width, top + height))
        crop.save(folder / (f"{number:05}.png" if number // 2 % 2 else f"{number:05}.jpg"), quality=90)


def image_folder(
    folder: Path, size: int, to_tensor: Callable[[Image.Image], torch.Tensor], *, grey: bool = False
) -> Dataset[torch.Tensor]:
    steps = [
        transforms.Resize(size),
        transforms.CenterCrop(size),
        *([transforms.Grayscale()] if grey else []),
        to_tensor,
    ]
    return datasets.ImageFolder(str(folder), transforms.Compose(steps))  # type: ignore[no-any-return]


def prepare(folder: Path, size: int, cache: Path) -> float:
    shutil.rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    load_images(DataConfig(dataset=str(folder), image_size=str(size)))
    return time.perf_counter() - start


def usual_prepare(folder: Path, size: int) -> float:
    start = time.perf_counter()
    pictures = image_folder(folder, size, transforms.PILToTensor())
    torch.cat([images for images, _ in DataLoader(pictures, batch_size=128, num_workers=usable_cpus())])
    return time.perf_counter() - start


def epoch_of(images: Images) -> Callable[[], float]:
    """Return a function that trains one epoch on prepared images, and returns its seconds."""
    train = training_images(images.train, CPU)
    state = new_state(CONFIG, images.shape, CPU)
    step = make_step(state.model, CONFIG)

    def run() -> float:
        start = time.perf_counter()
        train_epoch(CONFIG, train, state, step, epoch=1)
        return time.perf_counter() - start

    return run


def usual_epoch_of(folder: Path, images: Images) -> Callable[[], float]:
    """Return a function that trains one epoch on as many pictures read from their files, and returns its seconds."""
    pictures = image_folder(folder, images.shape[1], transforms.ToTensor(), grey=images.shape[0] == 1)
    loader = DataLoader(
        Subset(pictures, range(len(images.train))),
        batch_size=CONFIG.batch_size,
        shuffle=True,
        num_workers=usable_cpus(),
        persistent_workers=True,
    )
    model = build_model(CONFIG, images.shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=CONFIG.learning_rate)

    def run() -> float:
        start = time.perf_counter()
        for x, _ in loader:
            optimizer.zero_grad()
            loss = usual_loss(model, x)
            loss.backward()
            optimizer.step()
            loss.item()
        return time.perf_counter() - start

    return run


def usual_loss(model: VAE, x: torch.Tensor) -> torch.Tensor:
    """Return the mean negative ELBO in nats per image."""
    parameters, mean, log_variance = model(x, torch.randn(len(x), model.latent_size))
    return (model.likelihood.nats(parameters, x) + kl(mean, log_variance)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--size", type=int, default=32, help="pixels that the pictures are brought to")
    options = parser.parse_args()
    runs, size = options.runs, options.size
    torch.set_num_threads(usable_cpus())
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "pictures", Path(place) / "cache"
        os.environ[CACHE_VARIABLE] = str(cache)
        write_pictures(folder / "all", options.pictures)
        print("preparing", flush=True)
        prepared = alternate(
            {"vae_tune": lambda: prepare(folder, size, cache), "torchvision": lambda: usual_prepare(folder, size)},
            runs,
        )
        print("training epoch", flush=True)
        trained = {}
        for color in ("rgb", "grey"):
            images = load_images(DataConfig(dataset=str(folder), image_size=str(size), colour=color))
            count, model = len(images.train), f"{images.pixels}-{CONFIG.hidden_width}-{CONFIG.latent_size}"
            trained[f"epoch of {count:,} images, {color}, {model}"] = alternate(
                {"vae_tune": epoch_of(images), "torchvision": usual_epoch_of(folder, images)}, runs
            )
        print("second start", flush=True)
        numbers = iter(range(10**6))
        own = ("--dataset", folder, "--image-size", size)
        started = alternate(
            {
                "pictures": lambda: search(Path(place) / f"study-{next(numbers)}", *own),
                "MNIST": lambda: search(Path(place) / f"study-{next(numbers)}", "--train-size", count),
            },
            runs,
        )
    rows = []
    for name, found in {f"preparing {options.pictures:,} pictures": prepared, **trained}.items():
        mine, usual = found.values()
        rows.append([name, spread(mine), spread(usual), f"**{ratio(usual, mine):.2f} x**"])
    columns = ["", "vae_tune, s", "ImageFolder and DataLoader, s", "faster"]
    own_start, mnist = started.values()
    remark = (
        f"Second start of a search, to its first batch: {spread(own_start)} s on the pictures, {spread(mnist)} s on "
        f"{count:,} images of MNIST, {ratio(own_start, mnist):.2f} of that."
    )
    title = (
        f"Pictures of {SMALLEST} to {LARGEST} pixels brought to {size} x {size}; {usable_cpus()} workers and "
        f"threads; medians of {runs} runs in turn (least to most)"
    )
    measured = {"preparing": prepared, **trained, "second start": started}
    publish("images", title, columns, rows, measured, [remark])


if __name__ == "__main__":
    main()
