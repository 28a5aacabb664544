"""Read images from arrays, given from Python or in one file: .npy, .npz or .parquet. Nothing in a file is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from vae_tune.config.errors import UsageError, telling_line
from vae_tune.images.decoding import Pixels
from vae_tune.images.prepare import SPLIT_NAMES, SPLITS, Source

Arrays = ArrayLike | Mapping[str, ArrayLike]
"""Images given from Python: one array, or arrays by the names that a .npz file holds."""
SUFFIXES = (".npy", ".npz", ".parquet")
_SINGLE = ("data", "images", "arr_0")
_IMAGES, _LABELS = "_images", "_labels"  # as MedMNIST names them: train_images, train_labels


def read_arrays(path: Path, levels: int | None) -> tuple[dict[str | None, Pixels], dict[str, npt.NDArray[np.int64]]]:
    """Return the images of a .npy or .npz file by split, and their labels, as :func:`find_arrays` does.

    Raises:
        UsageError: the file is damaged, holds Python objects, or holds no images in a supported layout.
    """
    return find_arrays(_load(path), str(path), levels)


def find_arrays(
    content: Arrays, name: str, levels: int | None
) -> tuple[dict[str | None, Pixels], dict[str, npt.NDArray[np.int64]]]:
    """Return images by split, and their labels.

    Images are (n, height, width) or (n, height, width, 3). The key None stands for images that have no split yet.

    Args:
        content: one array, or arrays by name.
        name: what messages call it.
        levels: as in :func:`as_images`.

    Raises:
        UsageError: there are no images in a layout that is read.
    """
    if not isinstance(content, Mapping):
        return {None: as_images(_array(content, name), name, levels)}, {}
    arrays = {key: _array(each, f"{name}[{key!r}]") for key, each in content.items()}
    keys = _keys_by_split(arrays, name)
    if "train" in keys:
        _refuse_left_out(arrays, set(keys.values()), name)
        images: dict[str | None, Pixels] = {
            split: as_images(arrays[key], f"{name}[{key!r}]", levels) for split, key in keys.items()
        }
        labels = {
            split: array.reshape(len(array), -1)[:, 0].astype(np.int64)
            for key, array in arrays.items()
            if str(key).lower().endswith(_LABELS) and (split := SPLIT_NAMES.get(_without(_LABELS, key))) in keys
        }
        return images, labels if set(labels) == set(keys) else {}
    single = [key for key in arrays if key in _SINGLE] or (list(arrays) if len(arrays) == 1 else [])
    if len(single) != 1:
        raise UsageError(
            f"{name} must hold images, but holds {', '.join(map(str, arrays)) or 'nothing'}.\n"
            "Name the arrays train, validation, test (or train_images, val_images, test_images), or save one array."
        )
    _refuse_left_out(arrays, set(single), name)
    return {None: as_images(arrays[single[0]], f"{name}[{single[0]!r}]", levels)}, {}


def _keys_by_split(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> dict[str, str]:
    """Return the key of each split's images, in the order of :data:`SPLITS`.

    Raises:
        UsageError: two arrays are the same split.
    """
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for key in arrays:
        if (split := SPLIT_NAMES.get(_without(_IMAGES, key))) is not None:
            found[split].append(key)
    for split, keys in found.items():
        if len(keys) > 1:
            raise UsageError(f"{name} holds {len(keys)} arrays for {split}: {', '.join(keys)}. Keep one.")
    return {split: keys[0] for split, keys in found.items() if keys}


def _refuse_left_out(arrays: Mapping[str, npt.NDArray[Any]], used: set[str], name: str) -> None:
    """Refuse arrays that may be images and are not used.

    Raises:
        UsageError: names them.
    """
    if left := [str(key) for key, array in arrays.items() if key not in used and array.ndim >= 3]:
        raise UsageError(
            f"{name} also holds {', '.join(left)}, which may be images but name no split.\n"
            "Name the arrays of images train, validation, test, and leave out the others."
        )


def _without(suffix: str, key: str) -> str:
    return str(key).lower().removesuffix(suffix)


def _array(content: ArrayLike, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(content)
    except (ValueError, TypeError) as error:  # lists of several lengths; a tensor on a GPU
        raise UsageError(f"{name} is no array: {telling_line(error)}.") from error


def _load(path: Path) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """Return the array of a .npy file, or those of a .npz file by name."""
    npy = path.suffix == ".npy"
    try:
        with path.open("rb") as file:
            if not file.read(6).startswith(b"\x93NUMPY" if npy else b"PK"):  # else np.load reads a pickle
                raise UsageError(f"{path} cannot be read: it is not a {path.suffix} file.")
        content = np.load(path, mmap_mode="r" if npy else None, allow_pickle=False)
        return content if npy else {key: content[key] for key in content.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            message = f"{path} holds Python objects, which vae_tune does not load. Save numbers: np.stack(images)."
            raise UsageError(message) from error
        raise UsageError(f"{path} cannot be read: {error}") from error


def as_images(array: npt.NDArray[Any], name: str, levels: int | None) -> Pixels:
    """Return an array as uint8 images, (n, height, width) or (n, height, width, 3).

    Args:
        array: (n, h, w), (n, h, w, c) or (n, c, h, w), with 1 or 3 channels c.
        name: its name in messages.
        levels: 256 to round floats in [0, 1] to 256 levels.

    Raises:
        UsageError: the layout, the type or the range is not supported. The message names the line that converts the
            array, if there is one.
    """
    images = _last_channels(_levels(np.asarray(array), name, levels), name)
    if 0 in images.shape:
        raise UsageError(f"{name} holds no images: its shape is {array.shape}.")
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images


def parquet_sources(path: Path) -> tuple[list[Source], list[str]]:
    """Return the pictures of a Parquet file in Hugging Face's layout, and the names of their classes.

    The image column holds ``{bytes, path}``. An integer column ``label`` holds the classes.

    Raises:
        UsageError: the file cannot be read, has no image column, or has several.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
        columns = [each.name for each in schema if _is_image(each.type)]
        if len(columns) != 1:
            has = "no column" if not columns else f"{len(columns)} columns ({', '.join(columns)})"
            raise UsageError(
                f"{path} has {has} of images ({{bytes, path}}, as Hugging Face writes them); it needs exactly one."
            )
        labeled = "label" in schema.names and pyarrow.types.is_integer(schema.field("label").type)
        table = parquet.read_table(path, columns=[columns[0], *(["label"] if labeled else [])])
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    cells = table[columns[0]].combine_chunks().field("bytes")
    labels = table["label"].to_pylist() if labeled else [None] * len(cells)
    if missing := cells.null_count:
        raise UsageError(f"{path} holds no bytes for {missing:,} of {len(cells):,} images, only paths.")
    names = sorted({label for label in labels if label is not None})
    numbers = {label: number for number, label in enumerate(names)}
    sources = [
        Source(f"row {row}", _reader(cell), None, numbers.get(label))
        for row, (cell, label) in enumerate(zip(cells, labels, strict=True))
    ]
    return sources, [str(name) for name in names] if len(names) > 1 else []


def _reader(cell: Any) -> Callable[[], bytes]:
    return lambda: bytes(cell.as_buffer())


def _is_image(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_struct(kind) and {kind.field(number).name for number in range(kind.num_fields)} == {
        "bytes",
        "path",
    }


def _levels(array: npt.NDArray[Any], name: str, levels: int | None) -> npt.NDArray[Any]:
    """Return a uint8 array as it is. Round floats in [0, 1] to 256 levels if ``levels`` is 256."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == object:
        raise UsageError(f"{name} holds Python objects, not numbers. Save np.stack(images) of type uint8.")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UsageError(f"{name} holds NaN or infinity. Images are 0 to 255 as uint8.")
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if -1 <= low < 0 and high <= 1:
            raise UsageError(
                f"{name} holds floats from {low:g} to {high:g}. "
                "Convert, if -1 is black: ((images + 1) * 127.5).round().astype('uint8')"
            )
        if low < 0 or high > 1:
            raise UsageError(
                f"{name} holds floats from {low:g} to {high:g}. Convert: images.round().clip(0, 255).astype('uint8')"
            )
        if levels != 256:
            raise UsageError(
                f"{name} holds floats. Round them to 256 levels with --levels 256,\n"
                "or convert: (images * 255).round().astype('uint8')"
            )
        return (array * 255).round().astype(np.uint8)
    if array.dtype.kind == "b":
        raise UsageError(f"{name} holds {array.dtype}. Convert: images.astype('uint8') * 255")
    raise UsageError(f"{name} holds {array.dtype}. Convert: images.clip(0, 255).astype('uint8')")


def _last_channels(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Move the channels of images in any of the three layouts to the last axis."""
    if array.ndim == 3:
        return array
    if array.ndim == 4:
        last, first = array.shape[3] in (1, 3), array.shape[1] in (1, 3)
        if last and first:
            raise UsageError(
                f"{name} has the shape {array.shape}, which could be (n, h, w, c) or (n, c, h, w).\n"
                "Save images that are more than 3 pixels wide and high."
            )
        if last or first:
            return array if last else np.moveaxis(array, 1, 3)
    raise UsageError(
        f"{name} has the shape {array.shape}.\n"
        "Images must be (n, h, w), (n, h, w, c) or (n, c, h, w), with 1 or 3 channels."
    )
