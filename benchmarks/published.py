"""Published numbers of VAEs on MNIST, and what this code reaches in the same setting.

    python benchmarks/published.py [--rows pytorch,start,burda-1,conv] [--epochs N] [--seed 0] [--repeats 1]

Prints a Markdown table; each row says how many epochs it was trained. As in the sources, all 60,000 images of MNIST's
training file are trained on and the 10,000 of the test file are tested on, so nothing is chosen by the test images:
the last epoch counts. A published number is one training's; ``--repeats`` tells how far seeds lie apart.

Burda et al.'s schedule has 3,280 epochs, which is days on a CPU: these rows show how far the epochs given go, with the
schedule's first stages, and estimate the likelihood on the first test images. Adam's epsilon (1e-4 there) and the
initial weights (Glorot's there) are PyTorch's. Kingma et al. do not state their epochs: the row shows how far ours go,
with the test negative ELBO along the way.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from vae_tune.config.settings import Binarization, DataConfig, TrialConfig
from vae_tune.images.datasets import Images, load_images, to_tensor
from vae_tune.vae.nll import negative_log_likelihoods, over_images
from vae_tune.vae.training import fit, new_state

NLL_SAMPLES = 5_000


@dataclass(frozen=True)
class Row:
    """A published number."""

    source: str
    model: str
    config: TrialConfig
    published: float
    """Nats per image: test negative ELBO of grey values, or NLL of dynamically binarized ones."""
    epochs: int
    """Of the published number; 0 where the source does not say."""
    nll: bool = False
    nll_samples: int = NLL_SAMPLES
    elbo: float | None = None
    """The published test negative ELBO beside an NLL."""


START = TrialConfig(max_epochs=20)
BURDA = TrialConfig(
    latent_size=50,
    hidden_width=200,
    hidden_layers=2,
    encoder_activation="tanh",
    decoder_activation="tanh",
    batch_size=20,
    lr_schedule="staged",
    max_epochs=13,  # the first three stages
)
ROWS = {
    "pytorch": Row(
        "PyTorch's VAE example",
        "784-400-20, ReLU encoder",
        TrialConfig(encoder_activation="relu", max_epochs=10),
        105.6,
        10,
    )
}
ROWS |= {
    f"start-{size}": Row(
        "the VAE this project grew from",
        f"784-400-{size}, linear encoder",
        replace(START, latent_size=size),
        nats,
        20,
    )
    for size, nats in ((2, 165.8), (10, 115.4), (20, 108.3))
}
ROWS |= {
    f"burda-{samples}": Row(
        "Burda et al. 2016, table 1", name, replace(BURDA, iwae_samples=samples), nats, 3280, nll=True
    )
    for name, samples, nats in (("VAE", 1, 86.76), ("IWAE, k = 5", 5, 85.54), ("IWAE, k = 50", 50, 84.78))
}
ROWS["conv"] = Row(
    "Kingma et al. 2016, table 1 and appendix B",
    "convolutional VAE, 32 latents",
    TrialConfig(
        model="conv",
        latent_size=32,
        model_options={"channels": 32, "residual_blocks": 1},
        lr_schedule="cosine",
        precision="bfloat16",
        max_epochs=60,
    ),
    81.08,
    0,
    nll=True,
    nll_samples=128,
    elbo=84.08,
)


@dataclass(frozen=True)
class Result:
    """One training's number."""

    nats: float
    error: float | None
    """Standard error over images; None of all test images' negative ELBO."""
    seconds: float
    curve: list[float]
    """The test negative ELBO after each epoch, nats."""


def load(kind: Binarization) -> Images:
    """Return MNIST with its whole training file to train on, evaluated on the test images."""
    images = load_images(DataConfig(binarization=kind))
    grey = load_images(DataConfig())  # of dynamic ones too, the training images are grey
    return replace(images, train=np.concatenate([grey.train, grey.validation]), validation=images.test)


def train(row: Row, config: TrialConfig, nll_images: int) -> Result:
    """Train a row's configuration once and return what it reaches on the test images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = load("dynamic" if row.nll else "grey")
    state = new_state(config, images.shape, device)
    start = time.perf_counter()
    curve = []
    for report in fit(config, images, device, state):
        curve.append(report.val_loss)
        print(f"epoch {report.epoch}: {report.val_loss:.2f}, {report.seconds:.0f} s", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - start
    if not row.nll:
        return Result(curve[-1], None, seconds, curve)
    test = to_tensor(images.test[:nll_images], device) / 255
    model = state.model
    with torch.no_grad():
        found = negative_log_likelihoods(test, model.network.encode, model.log_likelihood, row.nll_samples)
    estimate = over_images(found)
    return Result(estimate.mean, estimate.standard_error, seconds, curve)


def measure(row: Row, epochs: int | None, seeds: range, nll_images: int) -> str:
    """Train one row with each seed and return its line of the table."""
    config = replace(row.config, max_epochs=epochs or row.config.max_epochs)
    results = [train(row, replace(config, seed=seed), nll_images) for seed in seeds]
    nats = [result.nats for result in results]
    mean = statistics.fmean(nats)
    digits = 2 if row.nll else 1
    details = [f"{config.max_epochs} epochs"]
    if len(seeds) > 1:
        details.append(f"{len(seeds)} seeds: {min(nats):.{digits}f} to {max(nats):.{digits}f}")
    if row.nll:
        details.append(f"{nll_images:,} images, standard error {results[0].error or 0:.1f}")
    cells = (
        row.source,
        row.model,
        "NLL, dynamic" if row.nll else "negative ELBO, grey",
        f"{row.published:.{digits}f} ({f'{row.epochs:,}' if row.epochs else 'unstated'} epochs)",
        f"{mean:.{digits}f} ({'; '.join(details)})",
        f"{mean - row.published:+.1f}",
        f"{statistics.fmean(result.seconds for result in results):.0f}",
    )
    return "\n".join([f"| {' | '.join(cells)} |", *_elbo(row, results)])


def _elbo(row: Row, results: list[Result]) -> list[str]:
    """Return the line of the ELBO that a source gives beside the NLL, and its way there."""
    if row.elbo is None:
        return []
    last = statistics.fmean(result.curve[-1] for result in results)
    curve = results[0].curve
    steps = sorted({*(2**power for power in range(10)), len(curve)})
    way = ", ".join(f"{curve[epoch - 1]:.1f} after {epoch}" for epoch in steps if epoch <= len(curve))
    quantity = "negative ELBO, dynamic"
    return [f"| | | {quantity} | {row.elbo:.2f} | {last:.2f} ({way}) | {last - row.elbo:+.1f} | |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", default="pytorch,start", help=f"which, or the beginnings of which: {', '.join(ROWS)}"
    )
    parser.add_argument("--epochs", type=int, help="instead of each row's own number of epochs")
    parser.add_argument("--seed", type=int, default=0, help="the first, or only one")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each row, with a seed of its own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nll-images", type=int, default=1_000, help="test images of the likelihood")
    options = parser.parse_args()
    chosen = {name: [key for key in ROWS if f"{key}-".startswith(f"{name}-")] for name in options.rows.split(",")}
    if unknown := [name for name, keys in chosen.items() if not keys]:
        parser.error(f"--rows: {unknown[0]!r} is none of {', '.join(ROWS)}")
    torch.set_num_threads(options.threads)
    print("| source | model | quantity | published, nats | here, nats | difference | seconds of a training |")
    print("|---|---|---|---|---|---|---|")
    seeds = range(options.seed, options.seed + options.repeats)
    for key in (key for keys in chosen.values() for key in keys):
        print(measure(ROWS[key], options.epochs, seeds, options.nll_images), flush=True)


if __name__ == "__main__":
    main()
