"""Pictures out of a trained model, as arrays; writing them is one call more.

Pictures are (count, height, width), uint8: the pixels' probabilities as grey values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vae_tune.config.files import atomic
from vae_tune.config.settings import UsageError
from vae_tune.images.datasets import to_tensor
from vae_tune.vae.model import VAE
from vae_tune.vae.objective import kl

Pictures = npt.NDArray[np.uint8]
_REACH = 3.0  # standard deviations of the prior that a traversal covers to both sides


@torch.no_grad()
def samples(model: VAE, count: int, shape: tuple[int, ...], seed: int = 0) -> Pictures:
    """Decode ``count`` draws from the prior: (count, height, width), the pixels' means as grey values."""
    noise = torch.randn(count, model.latent_size, generator=torch.Generator().manual_seed(seed))
    return _grey(model.decoder.probabilities(noise), shape)


@torch.no_grad()
def reconstructions(model: VAE, images: Pictures) -> Pictures:
    """Encode ``images``: (count, height, width) and decode their latent means; the same shape."""
    mean, _ = posterior(model, images)
    return _grey(model.decoder.probabilities(mean), images.shape[1:])


@torch.no_grad()
def interpolations(model: VAE, starts: Pictures, ends: Pictures, steps: int) -> Pictures:
    """Decode ``steps`` points on the line from each start's latent mean to its end's, one line after the other."""
    first, last = (posterior(model, images)[0][:, None] for images in (starts, ends))
    share = torch.linspace(0, 1, steps)[:, None]
    codes = torch.lerp(first, last, share).flatten(end_dim=1)
    return _grey(model.decoder.probabilities(codes), starts.shape[1:])


@torch.no_grad()
def manifold(model: VAE, size: int, shape: tuple[int, ...]) -> Pictures:
    """Decode ``size`` x ``size`` codes of equal prior mass, as in Kingma & Welling's figure 4, for a square grid.

    The first latent grows to the right, the second upwards.

    Raises:
        UsageError: the model does not have two latents.
    """
    if model.latent_size != 2:
        raise UsageError(f"The manifold is drawn for latent_size=2 alone, but this model has {model.latent_size}.")
    values = torch.distributions.Normal(0, 1).icdf((torch.arange(size) + 0.5) / size)
    second, first = torch.meshgrid(values.flip(0), values, indexing="ij")
    return _grey(model.decoder.probabilities(torch.stack([first, second], dim=-1).flatten(end_dim=1)), shape)


@torch.no_grad()
def traversals(model: VAE, image: Pictures, latents: Sequence[int], steps: int) -> Pictures:
    """Decode the latent mean of one image (1, height, width), with one latent at a time moved from -3 to 3.

    Returns:
        (latents * steps, height, width), a latent after the other.
    """
    mean, _ = posterior(model, image)
    codes = mean.expand(len(latents), steps, -1).clone()
    for row, latent in enumerate(latents):
        codes[row, :, latent] = torch.linspace(-_REACH, _REACH, steps)
    return _grey(model.decoder.probabilities(codes.flatten(end_dim=1)), image.shape[1:])


@torch.no_grad()
def by_information(model: VAE, images: Pictures) -> list[int]:
    """Return the latents in the order of what they carry: their mean KL over ``images``, the largest first."""
    mean, log_variance = posterior(model, images)
    nats = kl(mean[..., None], log_variance[..., None]).mean(dim=0)
    return [int(latent) for latent in nats.argsort(descending=True)]


@torch.no_grad()
def posterior(model: VAE, images: Pictures) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of q(z|x): (images, latent_size) each."""
    mean, log_variance = model.encoder(to_tensor(images, torch.device("cpu")) / 255)
    return mean, log_variance


def principal_plane(codes: Tensor) -> tuple[npt.NDArray[np.float32], list[float]]:
    """Project ``codes``: (images, latent_size) onto the plane in which they vary most (PCA).

    Returns:
        (images, 2), and the share of the variance that each of the two axes holds.
    """
    centred = codes - codes.mean(dim=0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    shares = lengths.square() / lengths.square().sum()
    return (centred @ axes[:2].T).numpy(), shares[:2].tolist()


def grid(pictures: Pictures, columns: int, gap: int = 2) -> Pictures:
    """Lay pictures (count, height, width) out row by row on white, ``gap`` pixels apart: (height, width)."""
    count, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (gap + n * (size + gap) for n, size in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = picture
    return sheet


def side_by_side(originals: Pictures, copies: Pictures, columns: int) -> Pictures:
    """Lay out rows of originals, each above the row of its copies: (count, height, width) for :func:`grid`.

    White pictures fill the last row, so that each copy stands below its original there too.
    """
    _, height, width = originals.shape
    fill = ((0, -len(originals) % columns), (0, 0), (0, 0))
    rows = [
        np.pad(part, fill, constant_values=255).reshape(-1, columns, height, width) for part in (originals, copies)
    ]
    return np.stack(rows, axis=1).reshape(-1, height, width)


def write_png(path: Path, sheet: Pictures, zoom: int = 2) -> None:
    """Write a sheet (height, width) as PNG, each pixel ``zoom`` wide."""
    from PIL import Image

    with atomic(path) as file:
        Image.fromarray(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)).save(file, format="png", optimize=True)


def _grey(probabilities: Tensor, shape: tuple[int, ...]) -> Pictures:
    values: Pictures = (probabilities * 255).round().to(torch.uint8).numpy()
    return values.reshape(-1, *shape)
