"""Read a user's own images from a folder or a file, and prepare them as three splits, once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vae_tune.config.errors import UsageError
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.images import arrays, folder
from vae_tune.images.arrays import Arrays
from vae_tune.images.decoding import Pixels
from vae_tune.images.prepare import Options, Prepared, Progress, Source, common_size, count_sizes, prepare_checked
from vae_tune.images.prepared_cache import CODE, file_sha256, key_of, prepare_once

_COMPARED = 16  # pictures whose sizes a short look compares


def read_own_images(place: Path, options: Options, levels: int | None, progress: Progress) -> Prepared:
    """Return the images of a folder or of a .npy, .npz or .parquet file, from the cache if possible.

    Raises:
        UsageError: ``place`` does not exist or holds no usable images, or they are too few or too large.
    """
    code = f"{CODE} {levels}"
    if not place.is_dir():
        _check_file(place)
        key = key_of([(place.suffix, _checksum(place))], options, code)
        return prepare_once(key, lambda: _sources(place, levels), options, progress, str(place))
    listing = folder.list_folder(place)
    names = [source.name for source in listing.sources]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        checksums = pool.map(_checksum, [place / name for name in names])
        key = key_of(zip(names, checksums, strict=True), options, code)
    prepared = prepare_once(key, lambda: (listing.sources, listing.classes), options, progress, str(place))
    return replace(prepared, notes=[*listing.notes, *prepared.notes])  # the files beside them are not in the key


def read_given_images(images: Arrays, options: Options, levels: int | None, progress: Progress) -> Prepared:
    """Return images that were given from Python: one array or arrays by split, as a .npz file holds them.

    They are prepared as those of a file are, and not written into the cache.

    Raises:
        UsageError: they are no usable images, too few or too large.
    """
    sources, classes = _rows(*arrays.find_arrays(images, "images", levels))
    return prepare_checked(sources, classes, options, progress, "images")


def refuse_at_once(place: Path, options: Options, levels: int | None) -> None:
    """Refuse a folder or a file of images if a short look shows that it cannot be used.

    This reads a few pictures, or the shape and the type of a .npy file. What it lets pass may still be refused by
    :func:`read_own_images`.

    Raises:
        UsageError: as there, with the same message.
    """
    if not place.is_dir():
        _check_file(place)
        if place.suffix == ".npy" and levels is None:  # then floats are refused, and of other arrays no pixel is read
            arrays.read_arrays(place, None)
        return
    first = folder.first_pictures(place, _COMPARED)
    if options.form.size is None and len(count_sizes(first, 1)) > 1:
        common_size(count_sizes(folder.list_folder(place).sources, usable_cpus()))


def _checksum(path: Path) -> bytes:
    """Return the SHA-256 of a file; of one that cannot be read, a word: it is named when pictures are decoded."""
    try:
        return file_sha256(path)
    except OSError:
        return b"unreadable"


def _check_file(place: Path) -> None:
    """Refuse what is neither a folder nor a file of images.

    Raises:
        UsageError: it does not exist, or has the suffix of another kind of file.
    """
    if not place.exists():
        raise UsageError(
            f"{place} does not exist. Name a folder of pictures or a file ({', '.join(arrays.SUFFIXES)})."
        )
    if place.suffix.lower() in folder.SUFFIXES:
        raise UsageError(f"{place} is a single picture: name the folder that holds the pictures.")
    if place.suffix not in arrays.SUFFIXES:
        raise UsageError(
            f"{place} is neither a folder nor a file of images ({', '.join(arrays.SUFFIXES)}). "
            "Unpack an archive first."
        )


def _sources(file: Path, levels: int | None) -> tuple[list[Source], list[str]]:
    """Return the pictures in a file, and the names of their classes."""
    if file.suffix == ".parquet":
        return arrays.parquet_sources(file)
    return _rows(*arrays.read_arrays(file, levels))


def _rows(
    found: Mapping[str | None, Pixels], labels: Mapping[str, npt.NDArray[np.int64]]
) -> tuple[list[Source], list[str]]:
    """Return the images of arrays as single pictures, and the names of their classes."""
    values = sorted({int(value) for each in labels.values() for value in each})
    numbers = {value: number for number, value in enumerate(values)}
    sources = [
        Source(
            f"{split or 'image'} {row}",
            partial(_row, images, row),
            split,
            numbers[int(label)] if split in labels else None,
        )
        for split, images in found.items()
        for row, label in enumerate(labels.get(split or "", np.zeros(len(images), np.int64)))
    ]
    return sources, [str(value) for value in values] if len(values) > 1 else []


def _row(images: Pixels, row: int) -> Pixels:
    return np.ascontiguousarray(images[row])
