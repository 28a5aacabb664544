"""A fully connected and a convolutional network on patches of photographs, each searched with about the same CPU time.

    pip install '.[bench]'
    python benchmarks/photos.py FOLDER [--models conv,mlp] [--epochs 9,25] [--num-samples 30,32] [--seeds 5]

The photographs in color that lie inside scikit-learn and scikit-image are each cut into three parts from left to
right: training (60 %), validation and test. A strip as wide as a patch separates two parts, so that no patch touches
one of another part. Each part has sky and ground, so that the parts are alike: with so few photographs, a split by
whole ones would compare their subjects. The patches of 32 x 32 pixels lie side by side in validation and test; those
of training overlap.

FOLDER gets the patches and one study per model; a study that is there is resumed. A search runs one trial at a time on
one core. Then its winner is trained again with fresh seeds, and each training is evaluated on the test patches.

Both networks have one logistic distribution per value, products in bfloat16, a cosine learning rate, and the same
ranges of latents and batches. The other ranges are those of the spaces ``color`` and ``conv``; of ``conv`` only small
networks, so that both searches take minutes.

CPU seconds are those of a search's driver and of all of Ray's processes, user and system: they change less than the
clock where other programs run. ``--epochs`` and ``--num-samples`` balance them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from harness import markdown
from memory import session
from PIL import Image
from sklearn.datasets import load_sample_images

from vae_tune import load_study
from vae_tune.images.code_length import code_length
from vae_tune.images.datasets import load_images, to_tensor
from vae_tune.tasks.repeats import mean_and_interval
from vae_tune.vae.checkpoint import read_model
from vae_tune.vae.training import evaluate, fit, new_state

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TICKS = os.sysconf("SC_CLK_TCK")
SHARED: dict[str, object] = {
    "latent_size": {"type": "int", "low": 16, "high": 96, "log": True},
    "batch_size": {"type": "int", "low": 24, "high": 64, "log": True},
    "likelihood": "logistic",
    "lr_schedule": "cosine",
    "precision": "bfloat16",
}
SPACES: dict[str, dict[str, object]] = {
    "mlp": {
        "hidden_width": {"type": "int", "low": 200, "high": 512, "log": True},
        "learning_rate": {"type": "float", "low": 7e-4, "high": 3e-3, "log": True},
        "encoder_activation": {"type": "categorical", "choices": ["relu", "gelu"]},
    },
    "conv": {
        "model": "conv",
        "model.channels": {"type": "int", "low": 8, "high": 24, "log": True},
        "learning_rate": {"type": "float", "low": 3e-4, "high": 3e-3, "log": True},
    },
}

Photo = npt.NDArray[np.uint8]
SIZE = 32
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
STEPS = {"train": 20, "validation": SIZE, "test": SIZE}
"""Pixels from one patch to the next."""
SCIKIT_IMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""The photographs in color in scikit-image's wheel."""


def photographs() -> Iterator[tuple[str, Photo]]:
    """Yield the name and the pixels, (height, width, 3), of each photograph."""
    found = load_sample_images()
    for path, photo in zip(found.filenames, found.images, strict=True):
        yield Path(path).stem, photo
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("scikit-image is not installed: pip install 'vae-tune[bench]'")
    for name in SCIKIT_IMAGE:
        with Image.open(Path(package.origin).parent / "data" / name) as opened:
            yield Path(name).stem, np.asarray(opened.convert("RGB"))


def parts(photo: Photo) -> dict[str, Photo]:
    """Return the part of a photograph for each split, from left to right, with a gap of a patch between two parts."""
    usable = photo.shape[1] - (len(SHARES) - 1) * SIZE
    found, left = {}, 0
    for split, share in SHARES.items():
        width = int(usable * share)
        found[split] = photo[:, left : left + width]
        left += width + SIZE
    return found


def patches(part: Photo, step: int) -> Iterator[Photo]:
    """Yield the patches of a part, from left to right and from top to bottom."""
    for top in range(0, part.shape[0] - SIZE + 1, step):
        for left in range(0, part.shape[1] - SIZE + 1, step):
            yield part[top : top + SIZE, left : left + SIZE]


def write_patches(folder: Path) -> dict[str, int]:
    """Write the patches of all photographs as PNG files, a folder per split; return how many there are in each."""
    counts = dict.fromkeys(SHARES, 0)
    for split in SHARES:
        (folder / split).mkdir(parents=True, exist_ok=True)
    for name, photo in photographs():
        for split, part in parts(photo).items():
            for number, patch in enumerate(patches(part, STEPS[split])):
                Image.fromarray(patch).save(folder / split / f"{name}-{number:04}.png")
                counts[split] += 1
    return counts


def search(folder: Path, model: str, epochs: str, num_samples: str) -> float:
    """Search a model on the patches in ``folder``, or go on with its search; return the CPU seconds up to now."""
    study, note, space = folder / model, folder / f"{model}-cpu.json", folder / f"{model}.json"
    space.write_text(json.dumps(SPACES[model] | SHARED))
    begun = study.exists()
    new: list[object] = ["--dataset", folder / "patches", "--results-dir", folder, "--study-name", model]
    new += ["--space", space, "--num-samples", num_samples, "--max-epochs", epochs]
    before = json.loads(note.read_text()) if note.exists() else 0.0
    seconds = before + watched(["--resume", study] if begun else new)
    note.write_text(json.dumps(seconds))
    return float(seconds)


def watched(options: Sequence[object]) -> float:
    """Run a search; return the CPU seconds of its processes, each as last seen before its end."""
    command = [sys.executable, str(ROOT / "search.py"), *map(str, options), "--max-concurrent", "1"]
    used: dict[tuple[int, str], float] = {}
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            for pid in (process.pid, *session(process.pid)):
                with contextlib.suppress(OSError):
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    used[pid, fields[19]] = sum(map(int, fields[11:13])) / TICKS  # field 19 says when it started
            time.sleep(1)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return sum(used.values())


def test_losses(folder: Path, model: str, seeds: int) -> list[float]:
    """Train the winner of a search again with fresh seeds; return the test losses in nats per image."""
    _, config = read_model(folder / model / "best")
    images = load_images(load_study(folder / model).config.data)
    test, losses = to_tensor(images.test, CPU), []
    for seed in range(config.seed + 1, config.seed + 1 + seeds):
        state = new_state(replace(config, seed=seed), images.shape, CPU)
        for _ in fit(replace(config, seed=seed), images, CPU, state):
            pass
        losses.append(evaluate(state.model, test, config).negative_elbo)
        print(f"{model}, seed {seed}: {losses[-1]:.2f} nats", flush=True)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the patches and the studies")
    parser.add_argument("--models", default="conv,mlp")
    parser.add_argument("--epochs", default="9,25", help="of a trial that is not stopped early, one per model")
    parser.add_argument("--num-samples", default="30,32", help="trials of a search, one per model")
    parser.add_argument("--seeds", type=int, default=5, help="fresh ones for the winners")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not (options.folder / "patches").exists():
        write_patches(options.folder / "patches")
    rows = []
    lists = (text.split(",") for text in (options.models, options.epochs, options.num_samples))
    for model, epochs, num_samples in zip(*lists, strict=True):
        seconds = search(options.folder, model, epochs, num_samples)
        study = load_study(options.folder / model)
        losses = [loss / study.elbo_unit.nats for loss in test_losses(options.folder, model, options.seeds)]
        mean, _, half = mean_and_interval(losses)
        best = study.trials.loc[study.best_trial]
        cells = f"{seconds:.0f}", f"{len(study.epochs)}", f"{best.val_loss / study.elbo_unit.nats:.3f}"
        rows.append([model, *cells, f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"])
    columns = ["", "CPU seconds", "epochs", "validation, winner", f"test, {options.seeds} fresh seeds"]
    images = load_images(study.config.data)
    print(markdown(columns, rows), code_length(images.train, images.test), sep="\n\n")


if __name__ == "__main__":
    main()
