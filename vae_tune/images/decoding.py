"""Decode one picture file into an array, the same way for every format, and for training, evaluation and views.

The result holds colors, never palette indices. Orientation tags are applied. Transparent pixels are blended with a
background. 16-bit gray values are scaled to 8 bits; Pillow's own conversion would clip them at 255.
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

_RESAMPLING = Image.Resampling.BICUBIC  # when it shrinks, it averages over all source pixels
_ORIENTATION = 0x0112
"""EXIF tag: 1 is upright, 2 to 4 keep width and height, 5 to 8 swap them."""
_PNG_DEPTH = 24
"""Position of the bits per channel in a PNG file."""
_DRAFT = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as long as that is at least this multiple of the target size."""


class UnreadableError(ValueError):
    """A picture cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class Form:
    """Size, fit and background that all pictures get."""

    size: tuple[int, int] | None = None
    """Height and width in pixels; default: unchanged."""
    fit: Fit = "crop"
    """How a picture with another aspect ratio fills ``size``."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Red, green and blue, 0..255, behind transparent pixels and around padded pictures."""


def decode(data: bytes, form: Form) -> Pixels:
    """Return the picture in ``data``: (height, width) if it is gray, else (height, width, 3) in red, green, blue.

    A picture is gray if its three channels are equal everywhere. An animation gives its first frame.

    Raises:
        UnreadableError: ``data`` is not a picture, is damaged, or has more pixels than Pillow's limit for
            decompression bombs.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _refuse_bomb(picture)
            if picture.format == "PNG":
                _scale_transparency(picture, data[_PNG_DEPTH])
            if form.size and picture.format == "JPEG":
                longest = _DRAFT * max(form.size)
                picture.draft(None, (longest, longest))
            if picture.getexif().get(_ORIENTATION, 1) != 1:  # exif_transpose copies even an upright picture
                return pixels(_resized(_opaque(ImageOps.exif_transpose(picture), form.background), form))
            return pixels(_resized(_opaque(picture, form.background), form))
    except UnreadableError:
        raise
    except Exception as error:  # on damaged files, Pillow's readers raise almost any exception
        raise UnreadableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def size_of(data: bytes) -> tuple[int, int]:
    """Return height and width after the orientation tag is applied. This reads only the header.

    Raises:
        UnreadableError: ``data`` is not a picture, or has more pixels than Pillow's limit for decompression bombs.
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
    """Resize an array (height, width) or (height, width, 3) to the size of ``form``, like :func:`decode`."""
    return pixels(_resized(Image.fromarray(image), form))


def pixels(picture: Image.Image) -> Pixels:
    """Return the values of an RGB or gray picture: (height, width) if the three channels are equal."""
    values = np.asarray(picture)
    if values.ndim == 3 and (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all():
        return np.ascontiguousarray(values[..., 0])
    return values


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Pillow's warnings about single files; unreadable files are counted instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def _refuse_bomb(picture: Image.Image) -> None:
    width, height = picture.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableError(f"its {width}x{height} pixels exceed {Image.MAX_IMAGE_PIXELS:,}")


def _scale_transparency(picture: Image.Image, bits: int) -> None:
    """Scale the gray value or color that a PNG names as transparent to 8 bits, as Pillow scales the pixels.

    Pillow 13.0.0 leaves it in the ``bits`` of the file, so that no pixel or a wrong one has it.
    """
    key = picture.info.get("transparency")
    if picture.mode == "L" and bits < 8 and isinstance(key, int):
        picture.info["transparency"] = key * 255 // (2**bits - 1)
    elif picture.mode == "RGB" and bits == 16 and isinstance(key, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in key)  # Pillow drops the low bytes of pixels


def _opaque(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert a picture to mode L or RGB, with transparent pixels on ``background``."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        gray = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if (key := picture.info.get("transparency")) is None:
            return Image.fromarray(gray)
        return Image.fromarray(np.where((values == key)[..., None], np.array(background, np.uint8), gray[..., None]))
    if picture.mode in ("I", "F"):
        raise UnreadableError("its pixels have 32 bits; only 8 and 16 are supported")
    if picture.has_transparency_data:
        below = Image.new("RGBA", picture.size, (*background, 255))
        return Image.alpha_composite(below, picture.convert("RGBA")).convert("RGB")
    if picture.mode in ("L", "RGB"):
        picture.load()
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _resized(picture: Image.Image, form: Form) -> Image.Image:
    """Resize a picture to the size of ``form``, unless it has that size."""
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
