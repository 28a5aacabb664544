"""Pictures from a trained model, and their layout in one sheet.

Pictures are arrays (count, channels, height, width), uint8. They show the mean of the likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vae_tune.config.errors import UsageError
from vae_tune.config.files import atomic
from vae_tune.images.datasets import to_tensor
from vae_tune.vae.model import VAE
from vae_tune.vae.objective import kl_by_latent

if TYPE_CHECKING:
    from PIL import Image

Pictures = npt.NDArray[np.uint8]
REACH = 3.0
"""A traversal moves a latent from minus to plus this many standard deviations of the prior."""
_DECODED_AT_ONCE = 20_000_000  # parameters of the likelihood, 80 MB
_LABEL_SIZE = 14  # pixels
_PAGE, _SMALL = 1300, 484  # pixels: maximum side of a sheet, and the side to which a small sheet is enlarged


def samples(model: VAE, count: int, seed: int = 0) -> Pictures:
    """Decode ``count`` draws from the prior."""
    return _decode(model, torch.randn(count, model.latent_size, generator=torch.Generator().manual_seed(seed)))


def reconstructions(model: VAE, images: Pictures) -> Pictures:
    """Encode ``images`` and decode their latent means. The result has the same shape."""
    return _decode(model, posterior(model, images)[0])


def interpolations(model: VAE, starts: Pictures, ends: Pictures, steps: int) -> Pictures:
    """Decode ``steps`` points on the line between the latent means of each start and its end, line by line."""
    first, last = (posterior(model, images)[0][:, None] for images in (starts, ends))
    share = torch.linspace(0, 1, steps)[:, None]
    return _decode(model, torch.lerp(first, last, share).flatten(end_dim=1))


def manifold(model: VAE, size: int) -> Pictures:
    """Decode ``size`` x ``size`` codes of equal prior mass, as in Kingma & Welling's figure 4, for a square grid.

    The first latent increases to the right, the second upwards.

    Raises:
        UsageError: the model does not have two latents.
    """
    if model.latent_size != 2:
        raise UsageError(f"The manifold needs latent_size=2, but this model has {model.latent_size}.")
    values = torch.distributions.Normal(0, 1).icdf((torch.arange(size) + 0.5) / size)
    second, first = torch.meshgrid(values.flip(0), values, indexing="ij")
    return _decode(model, torch.stack([first, second], dim=-1).flatten(end_dim=1))


def traversals(model: VAE, image: Pictures, latents: Sequence[int], steps: int) -> Pictures:
    """Decode the latent mean of one image (1, channels, height, width) while one latent at a time moves from -3 to 3.

    Returns (latents * steps, channels, height, width), latent by latent.
    """
    codes = posterior(model, image)[0].expand(len(latents), steps, -1).clone()
    for row, latent in enumerate(latents):
        codes[row, :, latent] = torch.linspace(-REACH, REACH, steps)
    return _decode(model, codes.flatten(end_dim=1))


def by_information(model: VAE, images: Pictures) -> list[int]:
    """Return the latents in order of information: by mean KL over ``images``, the largest first."""
    nats = kl_by_latent(*posterior(model, images)).mean(dim=0)
    return [int(latent) for latent in nats.argsort(descending=True)]


@torch.no_grad()
def posterior(model: VAE, images: Pictures) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of q(z|x): (images, latent_size) each."""
    parts = to_tensor(images, torch.device("cpu")).split(model.at_once)
    means, log_variances = zip(*(model.network.encode(part / 255) for part in parts), strict=True)
    return torch.cat(means), torch.cat(log_variances)


def principal_plane(codes: Tensor) -> tuple[npt.NDArray[np.float32], list[float]]:
    """Project ``codes``, (images, latent_size), onto the plane of largest variance (PCA).

    Returns (images, 2), and the share of the variance along each of the two axes.
    """
    centered = codes - codes.mean(dim=0)
    _, lengths, axes = torch.linalg.svd(centered, full_matrices=False)
    shares = lengths.square() / lengths.square().sum()
    return (centered @ axes[:2].T).numpy(), shares[:2].tolist()


def grid(pictures: Pictures, columns: int, gap: int = 2) -> Pictures:
    """Arrange pictures row by row on white, ``gap`` pixels apart.

    Returns one sheet in Pillow's layout: (height, width) for gray pictures, else (height, width, channels).
    """
    count, channels, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (gap + n * (size + gap) for n, size in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    return sheet.squeeze(2) if channels == 1 else sheet


def side_by_side(originals: Pictures, copies: Pictures, columns: int) -> Pictures:
    """Order originals and copies for :func:`grid`, so that each copy is below its original.

    White pictures fill up the last row.
    """
    fill = ((0, -len(originals) % columns), (0, 0), (0, 0), (0, 0))
    parts = [np.pad(part, fill, constant_values=255) for part in (originals, copies)]
    rows = [part.reshape(-1, columns, *part.shape[1:]) for part in parts]
    return np.stack(rows, axis=1).reshape(-1, *originals.shape[1:])


def zoom_of(sheet: Pictures) -> int:
    """Return the number of screen pixels per pixel of a sheet: 1 for large sheets, 2 or more for small ones."""
    longest = max(map(int, sheet.shape[:2]))
    return max(1, min(max(2, _SMALL // longest), _PAGE // longest))


def fit_page(sheet: Pictures) -> Pictures:
    """Shrink a sheet that is too large for a page. The aspect ratio stays."""
    from PIL import Image

    if max(sheet.shape[:2]) <= _PAGE:
        return sheet
    image = Image.fromarray(sheet)
    image.thumbnail((_PAGE, _PAGE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def write_png(
    path: Path, sheet: Pictures, zoom: int | None = None, rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> None:
    """Write a sheet of :func:`grid` as PNG.

    Args:
        path: the file.
        sheet: the sheet.
        zoom: screen pixels per pixel; default: :func:`zoom_of`.
        rows: labels to the left of the rows of pictures; default: none.
        columns: labels above the columns; default: none.
    """
    from PIL import Image

    sheet = fit_page(sheet)
    zoom = zoom_of(sheet) if zoom is None else zoom
    image = Image.fromarray(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1))
    if rows or columns:
        image = _labeled(image, rows, columns)
    with atomic(path) as file:
        image.save(file, format="png", optimize=True)


def _labeled(image: Image.Image, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Add labels in a white margin to the left and above a picture."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_LABEL_SIZE)
    left = max((math.ceil(font.getlength(text)) for text in rows), default=0) + _LABEL_SIZE
    top = 2 * _LABEL_SIZE if columns else 0
    page = Image.new(image.mode, (image.width + left, image.height + top), "white")
    page.paste(image, (left, top))
    draw = ImageDraw.Draw(page)
    for number, text in enumerate(rows):
        middle = top + (number + 0.5) * image.height / len(rows)
        draw.text((left - _LABEL_SIZE / 2, middle), text, "black", font, anchor="rm")
    for number, text in enumerate(columns):
        draw.text((left + (number + 0.5) * image.width / len(columns), top / 2), text, "black", font, anchor="mm")
    return page


def _decode(model: VAE, z: Tensor) -> Pictures:
    """Return the mean images of latents. Decode a part at a time, because a likelihood may have many parameters."""
    channels, height, width = model.shape
    rows = max(1, _DECODED_AT_ONCE // (model.likelihood.outputs(channels) * height * width))
    rows = min(rows, model.at_once)
    parts = [(model.decode(part) * 255).round().to(torch.uint8) for part in z.split(rows)]
    pictures: Pictures = torch.cat(parts).numpy()
    return pictures
