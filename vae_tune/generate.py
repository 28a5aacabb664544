"""Pictures out of a trained model, as arrays; writing them is one call more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vae_tune.data import to_tensor
from vae_tune.files import atomic
from vae_tune.model import VAE

Pictures = npt.NDArray[np.uint8]


@torch.no_grad()
def samples(model: VAE, count: int, shape: tuple[int, int], seed: int = 0) -> Pictures:
    """Decode ``count`` draws from the prior: (count, height, width), the pixels' means as grey values."""
    noise = torch.randn(count, model.latent_size, generator=torch.Generator().manual_seed(seed))
    return _grey(model.decoder.probabilities(noise), shape)


@torch.no_grad()
def reconstructions(model: VAE, images: Pictures) -> Pictures:
    """Encode ``images``: (count, height, width) and decode their latent means; the same shape."""
    x = to_tensor(images, torch.device("cpu")).float() / 255
    mean, _ = model.encoder(x)
    return _grey(model.decoder.probabilities(mean), (images.shape[1], images.shape[2]))


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


def _grey(probabilities: torch.Tensor, shape: tuple[int, int]) -> Pictures:
    values: Pictures = (probabilities * 255).round().to(torch.uint8).numpy()
    return values.reshape(-1, *shape)
