"""Pictures from a trained model, as arrays, and their layout in one sheet.

Pictures are (count, channels, height, width), uint8: the likelihood's means.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vae_tune.config.errors import UsageError
from vae_tune.config.files import atomic
from vae_tune.images.datasets import to_tensor
from vae_tune.vae.model import VAE
from vae_tune.vae.objective import kl_by_latent

Pictures = npt.NDArray[np.uint8]
_REACH = 3.0  # a traversal moves a latent by so many standard deviations of the prior to both sides


def samples(model: VAE, count: int, seed: int = 0) -> Pictures:
    """Decode ``count`` draws from the prior."""
    return _decode(model, torch.randn(count, model.latent_size, generator=torch.Generator().manual_seed(seed)))


def reconstructions(model: VAE, images: Pictures) -> Pictures:
    """Encode ``images`` and decode their latent means; the same shape."""
    return _decode(model, posterior(model, images)[0])


def interpolations(model: VAE, starts: Pictures, ends: Pictures, steps: int) -> Pictures:
    """Decode ``steps`` points on the line from each start's latent mean to its end's, one line after the other."""
    first, last = (posterior(model, images)[0][:, None] for images in (starts, ends))
    share = torch.linspace(0, 1, steps)[:, None]
    return _decode(model, torch.lerp(first, last, share).flatten(end_dim=1))


def manifold(model: VAE, size: int) -> Pictures:
    """Decode ``size`` x ``size`` codes of equal prior mass, as in Kingma & Welling's figure 4, for a square grid.

    The first latent grows to the right, the second upwards. Raises UsageError if the model does not have two latents.
    """
    if model.latent_size != 2:
        raise UsageError(f"The manifold is drawn for latent_size=2 alone, but this model has {model.latent_size}.")
    values = torch.distributions.Normal(0, 1).icdf((torch.arange(size) + 0.5) / size)
    second, first = torch.meshgrid(values.flip(0), values, indexing="ij")
    return _decode(model, torch.stack([first, second], dim=-1).flatten(end_dim=1))


def traversals(model: VAE, image: Pictures, latents: Sequence[int], steps: int) -> Pictures:
    """Decode the latent mean of one image (1, channels, height, width), with one latent at a time moved from -3 to 3.

    Returns (latents * steps, channels, height, width), one latent after the other.
    """
    codes = posterior(model, image)[0].expand(len(latents), steps, -1).clone()
    for row, latent in enumerate(latents):
        codes[row, :, latent] = torch.linspace(-_REACH, _REACH, steps)
    return _decode(model, codes.flatten(end_dim=1))


def by_information(model: VAE, images: Pictures) -> list[int]:
    """Return the latents by the information they carry: their mean KL over ``images``, the largest first."""
    nats = kl_by_latent(*posterior(model, images)).mean(dim=0)
    return [int(latent) for latent in nats.argsort(descending=True)]


@torch.no_grad()
def posterior(model: VAE, images: Pictures) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of q(z|x): (images, latent_size) each."""
    return model.network.encode(to_tensor(images, torch.device("cpu")) / 255)


def principal_plane(codes: Tensor) -> tuple[npt.NDArray[np.float32], list[float]]:
    """Project ``codes``: (images, latent_size) onto the plane in which they vary most (PCA).

    Returns (images, 2), and the share of the variance that each of the two axes holds.
    """
    centred = codes - codes.mean(dim=0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    shares = lengths.square() / lengths.square().sum()
    return (centred @ axes[:2].T).numpy(), shares[:2].tolist()


def grid(pictures: Pictures, columns: int, gap: int = 2) -> Pictures:
    """Lay pictures out row by row on white, ``gap`` pixels apart.

    Returns one sheet as Pillow takes it: (height, width) of grey pictures, else (height, width, channels).
    """
    count, channels, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (gap + n * (size + gap) for n, size in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    return sheet.squeeze(2) if channels == 1 else sheet


def side_by_side(originals: Pictures, copies: Pictures, columns: int) -> Pictures:
    """Arrange rows of originals, each above the row of its copies, for :func:`grid`.

    White pictures fill the last row, so that each copy stands below its original there too.
    """
    fill = ((0, -len(originals) % columns), (0, 0), (0, 0), (0, 0))
    parts = [np.pad(part, fill, constant_values=255) for part in (originals, copies)]
    rows = [part.reshape(-1, columns, *part.shape[1:]) for part in parts]
    return np.stack(rows, axis=1).reshape(-1, *originals.shape[1:])


def write_png(path: Path, sheet: Pictures, zoom: int = 2) -> None:
    """Write a sheet of :func:`grid` as PNG, each pixel ``zoom`` wide."""
    from PIL import Image

    with atomic(path) as file:
        Image.fromarray(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)).save(file, format="png", optimize=True)


def _decode(model: VAE, z: Tensor) -> Pictures:
    pictures: Pictures = (model.decode(z) * 255).round().to(torch.uint8).numpy()
    return pictures
