"""Code lengths of the test images without a model: a yardstick for bits/dim.

A useful model of the 256 levels needs fewer bits than the histogram, a good one fewer than PNG and lossless WebP.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from vae_tune.config.machine_limits import usable_cpus
from vae_tune.images.decoding import Pixels

UNIFORM = 8.0
"""Bits/dim if all 256 levels are equally likely."""
SAMPLE = 1_000
"""Maximum number of pictures to compress."""
_VALUES = SAMPLE * 3 * 32 * 32
"""Maximum number of values to compress: some seconds on one core."""
_COUNTED = 1 << 28
"""Maximum number of values that a histogram counts: two seconds on one core."""
_CHUNK = 1 << 22
WEBP_SIDE = 16_383
"""Maximum width and height of a WebP in pixels (RFC 9649, section 3.4)."""


@dataclass(frozen=True)
class CodeLength:
    """Code lengths of the test images in bits/dim: bits per pixel and channel."""

    histogram: float
    """Cross-entropy under the frequencies of the levels in the training images, by channel."""
    png: float
    """Whole PNG files."""
    webp: float | None
    """Whole lossless WebP files; None for images that are too wide or too high for WebP."""
    smaller_file: float
    """The smaller of the two files of each picture; the PNG file where there is no WebP."""
    container: float
    """The part of ``smaller_file`` that does not encode pixels: signatures, headers, checksums."""
    pictures: int
    """Number of test images that were compressed, spread evenly over all of them."""
    of: int
    """Number of test images."""
    uniform: float = UNIFORM
    """256 equally likely levels."""


def code_length(train: Pixels, test: Pixels) -> CodeLength:
    """Measure the code lengths of ``test``.

    To take only some seconds, this compresses at most 1,000 images and counts at most 2^28 values, each sample spread
    evenly over all images. It compresses images in parallel.

    Args:
        train: (n, channels, height, width), uint8; the histogram is fitted to them.
        test: (m, channels, height, width), uint8, of 1 or 3 channels.
    """
    per_image = int(np.prod(test.shape[1:]))
    chosen = _spread(test, min(SAMPLE, max(1, _VALUES // per_image)))
    count = len(chosen)
    with ThreadPoolExecutor(usable_cpus()) as pool:  # Pillow compresses without holding Python's lock
        sizes = np.array(list(pool.map(_file_sizes, chosen)))  # (pictures, formats, file and container)
    files = sizes[..., 0]
    smaller = sizes[np.arange(count), files.argmin(1)]
    png, *webp = (8 * float(each.mean()) / per_image for each in files.T)
    smaller_file, container = (8 * float(each.mean()) / per_image for each in smaller.T)
    histogram = histogram_bits(train, test)
    return CodeLength(histogram, png, webp[0] if webp else None, smaller_file, container, count, len(test))


def histogram_bits(train: Pixels, test: Pixels) -> float:
    """Return the cross-entropy of ``test`` in bits/dim under the frequencies of the levels in ``train``, by channel.

    Each count is increased by one, so that a level that does not occur in ``train`` has a finite code.
    """
    per_image = int(np.prod(train.shape[1:]))
    train, test = (_spread(images, max(1, _COUNTED // per_image)) for images in (train, test))
    fitted = _counts(train) + 1
    bits = -np.log2(fitted / fitted.sum(axis=1, keepdims=True))
    return float((_counts(test) * bits).sum() / test.size)


def _spread(images: Pixels, most: int) -> Pixels:
    """Return at most ``most`` of the images, spread evenly."""
    if len(images) <= most:
        return images
    spread: Pixels = images[np.linspace(0, len(images) - 1, most).round().astype(int)]
    return spread


def _counts(images: Pixels) -> npt.NDArray[np.int64]:
    """Count the levels of each channel: (channels, 256)."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    rows = max(1, _CHUNK // int(np.prod(images.shape[2:])))  # np.bincount converts each value to eight bytes
    for channel in range(images.shape[1]):
        for start in range(0, len(images), rows):
            counts[channel] += np.bincount(images[start : start + rows, channel].ravel(), minlength=256)
    return counts


def _file_sizes(image: Pixels) -> list[tuple[int, int]]:
    """Return the bytes of an image as PNG and, if it is small enough, as lossless WebP: whole file and container."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    ways: list[tuple[Callable[[io.BytesIO], None], Callable[[bytes], int]]] = [
        (partial(picture.save, format="PNG", optimize=True), png_container)
    ]
    if max(picture.size) <= WEBP_SIDE:
        ways.append((partial(picture.save, format="WEBP", lossless=True), webp_container))
    found = []
    for save, container in ways:
        file = io.BytesIO()
        save(file)
        found.append((len(file.getvalue()), container(file.getvalue())))
    return found


def png_container(data: bytes) -> int:
    """Return how many bytes of a PNG file are not compressed pixels: all but the content of its IDAT chunks."""
    position, pixels = 8, 0
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        pixels += length if kind == b"IDAT" else 0
        position += 12 + length
    return len(data) - pixels


def webp_container(data: bytes) -> int:
    """Return how many bytes of a lossless WebP file are not compressed pixels.

    These are all bytes but the content of the VP8L chunk, plus the five bytes of that chunk's signature and size.
    """
    position, pixels = 12, 0
    while position < len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        pixels += length - 5 if kind == b"VP8L" else 0
        position += 8 + length + length % 2
    return len(data) - pixels
