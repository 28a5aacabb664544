"""Turn one picture file into an array: the same way for every format, for training, evaluation and views.

The result holds colors, never palette indices. Orientation tags are applied. Transparent pixels are put onto a
background. 16-bit gray values are scaled to 8 bits, where Pillow's own conversion cuts them off at 255.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from vae_tune.config.settings import Fit

Pixels = npt.NDArray[np.uint8]

_RESAMPLING = Image.Resampling.BICUBIC  # averages over all pixels that it shrinks into one
_ORIENTATION = 0x0112
"""EXIF tag: 1 is upright, 2 to 4 have the same sides, 5 to 8 are turned by 90 degrees."""
_DRAFT = 2
"""A JPEG is decoded at a part of its size (1/2, 1/4, 1/8) that is at least this multiple of what is needed."""


class UnreadableError(ValueError):
    """A picture that cannot be decoded; its text is the reason."""


@dataclass(frozen=True)
class Form:
    """How pictures are brought to one form."""

    size: tuple[int, int] | None = None
    """Height and width in pixels; default: as they are."""
    fit: Fit = "crop"
    """How a picture of other proportions fills ``size``."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Red, green and blue, 0..255, behind transparent pixels and around padded pictures."""


def decode(data: bytes, form: Form) -> Pixels:
    """Return the picture in ``data``: (height, width) where it is gray, else (height, width, 3) in red, green, blue.

    A picture is gray where its three channels are equal everywhere. Of an animation the first frame counts.

    Raises:
        UnreadableError: ``data`` is no picture, damaged, or larger than Pillow takes for an attack.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _refuse_bomb(picture)
            if form.size and picture.format == "JPEG":
                longest = _DRAFT * max(form.size)
                picture.draft(None, (longest, longest))
            if picture.getexif().get(_ORIENTATION, 1) != 1:  # exif_transpose copies even where nothing is to turn
                return pixels(_resized(_opaque(ImageOps.exif_transpose(picture), form.background), form))
            return pixels(_resized(_opaque(picture, form.background), form))
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's readers raise nearly everything on damaged files
        raise UnreadableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def size_of(data: bytes) -> tuple[int, int]:
    """Return height and width as they are after the orientation tag is applied, from the header alone.

    Raises:
        UnreadableError: ``data`` is no picture, or larger than Pillow takes for an attack.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _refuse_bomb(picture)
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION, 1) >= 5
            return (width, height) if turned else (height, width)
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def resize(image: Pixels, form: Form) -> Pixels:
    """Bring an array (height, width) or (height, width, 3) to the size of ``form``, as :func:`decode` does."""
    return pixels(_resized(Image.fromarray(image), form))


def pixels(picture: Image.Image) -> Pixels:
    """Return the values of an RGB or gray picture, without channels where these are equal."""
    values = np.asarray(picture)
    if values.ndim == 3 and (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all():
        return np.ascontiguousarray(values[..., 0])
    return values


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back Pillow's warnings about single files while many are decoded: unreadable ones are counted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def _refuse_bomb(picture: Image.Image) -> None:
    width, height = picture.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableError(f"{width}x{height} pixels are more than {Image.MAX_IMAGE_PIXELS:,}")


def _opaque(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return a picture as gray values or red, green and blue, transparent pixels on ``background``."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise UnreadableError("its pixels have 32 bits; 8 and 16 are read")
    if picture.has_transparency_data:
        below = Image.new("RGBA", picture.size, (*background, 255))
        return Image.alpha_composite(below, picture.convert("RGBA")).convert("RGB")
    if picture.mode in ("L", "RGB"):
        picture.load()
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _resized(picture: Image.Image, form: Form) -> Image.Image:
    """Return a picture in the size of ``form``; one that has it already stays as it is."""
    if form.size is None:
        return picture
    height, width = form.size
    if picture.size == (width, height):
        return picture
    if form.fit == "crop":
        scale = min(picture.width / width, picture.height / height)
        left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
        return picture.resize((width, height), _RESAMPLING, box)
    if form.fit == "stretch":
        return picture.resize((width, height), _RESAMPLING)
    scale = min(width / picture.width, height / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    colors = len(set(form.background)) > 1
    around = Image.new(
        "RGB" if colors or picture.mode == "RGB" else "L",
        (width, height),
        form.background if colors or picture.mode == "RGB" else form.background[0],
    )
    around.paste(picture.resize(inner, _RESAMPLING), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return around
