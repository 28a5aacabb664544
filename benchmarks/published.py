"""Published numbers of VAEs on MNIST, and what this code reaches in the same setting.

    python benchmarks/published.py [--rows pytorch,start] [--epochs N] [--seed 0] [--threads 1]

Prints a Markdown table; each row says how many epochs it was trained. As in the sources, all 60,000 images of MNIST's
training file are trained on and the 10,000 of the test file are tested on, so nothing is chosen by the test images:
the last epoch counts.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from vae_tune.config import DataConfig, TrialConfig
from vae_tune.data import Images, load_images
from vae_tune.training import fit


@dataclass(frozen=True)
class Row:
    """A published number."""

    source: str
    model: str
    config: TrialConfig
    published: float
    """Test negative ELBO, nats per image, after ``config.max_epochs`` epochs."""
    kind: str = "grey"


START = TrialConfig(max_epochs=20)
ROWS = {
    "pytorch": [
        Row(
            "PyTorch's VAE example",
            "784-400-20, ReLU encoder",
            TrialConfig(encoder_activation="relu", max_epochs=10),
            105.6,
        )
    ],
    "start": [
        Row(
            "the VAE this project grew from", f"784-400-{size}, linear encoder", replace(START, latent_size=size), nats
        )
        for size, nats in ((2, 165.8), (10, 115.4), (20, 108.3))
    ],
}


def load(kind: str) -> Images:
    """Return MNIST with its whole training file to train on, evaluated on the test images."""
    images = load_images(DataConfig(binarization=kind))
    return replace(images, train=np.concatenate([images.train, images.validation]), validation=images.test)


def measure(row: Row, epochs: int | None, seed: int) -> str:
    """Train one row and return its line of the table."""
    config = replace(row.config, max_epochs=epochs or row.config.max_epochs, seed=seed)
    start = time.perf_counter()
    *_, last = fit(config, load(row.kind), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    cells = (
        row.source,
        row.model,
        row.kind,
        f"{row.published:.1f} ({row.config.max_epochs} epochs)",
        f"{last.val_loss:.1f} ({config.max_epochs} epochs)",
        f"{last.val_loss - row.published:+.1f}",
        f"{time.perf_counter() - start:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which, of {', '.join(ROWS)}")
    parser.add_argument("--epochs", type=int, help="instead of the published number of epochs, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| source | model | kind | published, nats | here, nats | difference | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in options.rows.split(","):
        for row in ROWS[name]:
            print(measure(row, options.epochs, options.seed), flush=True)


if __name__ == "__main__":
    main()
