"""A folder of pictures: vae_tune against torchvision's ImageFolder and DataLoader with as many workers.

    python benchmarks/images.py [--runs 3] [--pictures 4000] [--size 32]

Two folders are made of scikit-learn's two photographs: pictures, which are crops of 64 to 256 pixels a side, half of
them PNG and half JPEG; and photos, crops of 500 x 375 pixels, all JPEG. Both are brought to 32 x 32.

- Preparing: from the folder to one array, with nothing in the cache. vae_tune also hashes the files, leaves out
  duplicates, splits and writes the cache. ImageFolder's pictures go through Resize, CenterCrop and PILToTensor.
- Training epoch: the same network, likelihood, batch size and number of threads, on the prepared images and through
  ImageFolder and DataLoader, whose workers live on from epoch to epoch; in color with the discretized logistic, whose
  network has 3.4 times the weights of that for gray, and in gray with the Bernoulli. ``bfloat16`` is vae_tune's option
  for the matrix products; the usual way always uses float32.
- Second start: from the command to the first batch of a search on the pictures, prepared before, and on MNIST.

CPU seconds are those of the process and its workers, user and system: they change less than the clock where other
programs run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import alternate, publish, ratio, spread
from memory import session
from PIL import Image
from sklearn.datasets import load_sample_images
from start import search
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from vae_tune.config.cache_folder import CACHE_VARIABLE
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.settings import Color, DataConfig, Precision, TrialConfig
from vae_tune.images.datasets import Images, load_images
from vae_tune.vae.model import VAE, build_model
from vae_tune.vae.objective import kl
from vae_tune.vae.training import make_step, new_state, train_epoch, training_images

CPU = torch.device("cpu")
FORMATS = {"pictures": ("jpg", "png"), "photos": ("jpg",)}
EPOCHS: list[tuple[str, Color, Precision]] = [
    ("pictures", "rgb", "float32"),
    ("pictures", "rgb", "bfloat16"),
    ("pictures", "grey", "float32"),
    ("photos", "rgb", "float32"),
]
TICKS = os.sysconf("SC_CLK_TCK")


def write_pictures(folder: Path, count: int, kind: str) -> None:
    """Write ``count`` crops of that kind."""
    draw = random.Random(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    folder.mkdir(parents=True)
    for number in range(count):
        photo = photos[number % 2]
        width, height = (500, 375) if kind == "photos" else (draw.randint(64, 256), draw.randint(64, 256))
        left, top = draw.randint(0, photo.width - width), draw.randint(0, photo.height - height)
        crop = photo.crop((left, top, left + width, top + height))
        crop.save(folder / f"{number:05}.{FORMATS[kind][number // 2 % len(FORMATS[kind])]}", quality=90)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its workers, those that ended included."""
    total = 0.0
    for pid in (os.getpid(), *session(os.getpid())):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / TICKS
    return total


def compare(name: str, ours: Callable[[], object], usual: Callable[[], object], runs: int) -> dict[str, list[float]]:
    """Run both ways in turn; return their seconds by the clock and of CPU, ours first."""
    print(name, flush=True)
    cpu: dict[str, list[float]] = {"vae_tune": [], "usual": []}

    def timed(way: str, work: Callable[[], object]) -> float:
        before, start = cpu_seconds(), time.perf_counter()
        work()
        taken = time.perf_counter() - start
        cpu[way].append(cpu_seconds() - before)
        return taken

    clock = alternate({"vae_tune": lambda: timed("vae_tune", ours), "usual": lambda: timed("usual", usual)}, runs)
    return clock | {f"{way}, CPU": found[-runs:] for way, found in cpu.items()}


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


def prepare(folder: Path, size: int, cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    load_images(DataConfig(dataset=str(folder), image_size=str(size)))


def usual_prepare(folder: Path, size: int) -> None:
    pictures = image_folder(folder, size, transforms.PILToTensor())
    torch.cat([images for images, _ in DataLoader(pictures, batch_size=128, num_workers=usable_cpus())])


def epoch_of(config: TrialConfig, images: Images) -> Callable[[], object]:
    """Return a function that trains one epoch on prepared images."""
    train = training_images(images.train, CPU)
    state = new_state(config, images.shape, CPU)
    step = make_step(state.model, config)
    return lambda: train_epoch(config, train, state, step, epoch=1)


def usual_epoch_of(config: TrialConfig, folder: Path, images: Images) -> Callable[[], object]:
    """Return a function that trains one epoch on as many pictures read from their files."""
    pictures = image_folder(folder, images.shape[1], transforms.ToTensor(), grey=images.shape[0] == 1)
    loader = DataLoader(
        Subset(pictures, range(len(images.train))),
        batch_size=config.batch_size,
        shuffle=True,
        num_workers=usable_cpus(),
        persistent_workers=True,
    )
    model = build_model(config, images.shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)

    def run() -> None:
        for x, _ in loader:
            optimizer.zero_grad()
            loss = usual_loss(model, x)
            loss.backward()
            optimizer.step()
            loss.item()

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
    runs, size, count = options.runs, options.size, options.pictures
    torch.set_num_threads(usable_cpus())
    found = {}
    with tempfile.TemporaryDirectory() as place:
        cache = Path(place) / "cache"
        os.environ[CACHE_VARIABLE] = str(cache)
        folders = {kind: Path(place) / kind for kind in FORMATS}
        for kind, folder in folders.items():
            write_pictures(folder / "all", count, kind)
            name = f"preparing {count:,} {kind}"
            found[name] = compare(
                name, partial(prepare, folder, size, cache), partial(usual_prepare, folder, size), runs
            )
        for kind, color, precision in EPOCHS:
            config = TrialConfig(precision=precision)
            images = load_images(DataConfig(dataset=str(folders[kind]), image_size=str(size), colour=color))
            name = f"epoch of {len(images.train):,} {kind}, {color}, {precision}"
            epochs = epoch_of(config, images), usual_epoch_of(TrialConfig(), folders[kind], images)
            found[name] = compare(name, *epochs, runs)
        print("second start", flush=True)
        numbers = iter(range(10**6))
        own = ("--dataset", folders["pictures"], "--image-size", size)
        started = alternate(
            {
                "pictures": lambda: search(Path(place) / f"study-{next(numbers)}", *own),
                "MNIST": lambda: search(Path(place) / f"study-{next(numbers)}", "--train-size", len(images.train)),
            },
            runs,
        )
    rows = []
    for name, (ours, usual, our_cpu, usual_cpu) in ((name, each.values()) for name, each in found.items()):
        cpu = f"{statistics.median(our_cpu):.2f}", f"{statistics.median(usual_cpu):.2f}"
        faster = f"**{ratio(usual, ours):.2f} x**"
        rows.append([name, spread(ours), spread(usual), faster, *cpu, f"{ratio(usual_cpu, our_cpu):.2f} x"])
    columns = ["", "vae_tune, s", "ImageFolder and DataLoader, s", "faster", "vae_tune, CPU s", "the others", "less"]
    own_start, mnist = started.values()
    remark = (
        f"Second start of a search, to its first batch: {spread(own_start)} s on the pictures, {spread(mnist)} s on "
        f"{len(images.train):,} images of MNIST, {ratio(own_start, mnist):.2f} of that."
    )
    title = (
        f"Pictures brought to {size} x {size}; {usable_cpus()} workers and threads; medians of {runs} runs in turn "
        f"(least to most)"
    )
    publish("images", title, columns, rows, {**found, "second start": started}, [remark])


if __name__ == "__main__":
    main()
