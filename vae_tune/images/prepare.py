"""Prepare pictures: decode them on all cores, drop duplicates, and split them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from vae_tune.config.errors import UsageError
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.settings import Color
from vae_tune.images.decoding import Form, Pixels, UnreadableError, decode, quiet, resize, size_of

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""The split that the name of a folder or of an array stands for, in small letters."""
Progress = Callable[[int, int], None]
"""Called with the number of decoded pictures and the total."""

_UNREADABLE_SHARE = 0.01
_SMALLEST = {"train": 200, "validation": 50}
_FEW = 1000
_GROUP = 16  # pictures per task of a thread: with one each, a tenth of the time would go into handing them over
_NAMED = 3  # unreadable pictures whose names are shown


@dataclass(frozen=True)
class Source:
    """One picture, which is read only when it is decoded."""

    name: str
    """Name in messages: its path in the folder, or its row."""
    read: Callable[[], bytes | Pixels]
    """Returns the bytes of a picture file, or an array (height, width) or (height, width, 3)."""
    split: str | None = None
    """One of :data:`SPLITS`, or None if it has no split yet."""
    label: int | None = None


@dataclass(frozen=True)
class Options:
    """Everything that determines the result for given pictures."""

    form: Form = field(default_factory=Form)
    colour: Color = "auto"
    validation_share: float = 0.1
    test_share: float = 0.1


@dataclass
class Prepared:
    """Three splits (n, channels, height, width), uint8, and their labels if the pictures have classes."""

    splits: dict[str, Pixels]
    labels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Notes for the user: duplicates, and which pictures were left out and why."""


def prepare(
    sources: Sequence[Source], options: Options, classes: Sequence[str], workers: int, progress: Progress
) -> Prepared:
    """Decode pictures in parallel and split them.

    Each distinct picture is used once. Pictures without a split are sorted by the SHA-256 of their pixels and cut. So
    the split depends neither on a seed nor on file names, and no picture appears on both sides of a cut. A picture
    that occurs in two given splits stays in the later one of train, validation, test.

    Raises:
        UsageError: the pictures have several sizes and ``options`` sets none, or too many are unreadable.
    """
    found = _decoded(sources, options, workers, progress)
    unreadable = [
        (source.name, result) for source, result in zip(sources, found, strict=True) if isinstance(result, str)
    ]
    notes = _unreadable_notes(unreadable, len(sources))
    pairs = [(source, image) for source, image in zip(sources, found, strict=True) if not isinstance(image, str)]
    images = _same_channels([image for _, image in pairs], options.colour)
    splits, used = split([source.split for source, _ in pairs], images, options)
    duplicates = len(pairs) - sum(map(len, used.values()))
    if duplicates:
        notes.append(f"Left out {duplicates:,} of {len(pairs):,} pictures as duplicates.")
    labels = {}
    if classes:
        every = np.array([-1 if source.label is None else source.label for source, _ in pairs], np.int64)
        labels = {name: every[indices] for name, indices in used.items()}
    return Prepared(splits, labels, list(classes), notes)


def prepare_checked(
    sources: Sequence[Source],
    classes: Sequence[str],
    options: Options,
    progress: Progress,
    where: str,
) -> Prepared:
    """Prepare pictures, and refuse what cannot be searched.

    Args:
        sources: the pictures.
        classes: the names of their classes.
        options: how to prepare them.
        progress: called with the number of decoded pictures and the total.
        where: their name in messages.

    Raises:
        UsageError: they are no usable images, too few or too large.
    """
    if options.form.size:
        refuse_too_large(len(sources), (1, *options.form.size), shared_memory_limit())
    prepared = prepare(sources, options, classes, usable_cpus(), progress)
    try:
        few = check_sizes(prepared.splits, where)
    except UsageError as error:  # duplicates or unreadable pictures may be why
        raise UsageError("\n".join([str(error), *(" ".join(prepared.notes),) * bool(prepared.notes)])) from error
    check_memory(prepared)
    return replace(prepared, notes=[*prepared.notes, *([few] if few else [])])


def resize_in_place(splits: dict[str, Pixels], options: Options, progress: Progress) -> Prepared:
    """Return gray images in the size and color of ``options``, resized in parallel. Each keeps its place.

    Args:
        splits: the images of each split, (n, 1, height, width).
        options: how to prepare them, with a size.
        progress: called with the number of resized images and the total.
    """
    sources = [Source(name, partial(np.squeeze, image, 0)) for name, images in splits.items() for image in images]
    found = [each for each in _decoded(sources, options, usable_cpus(), progress) if not isinstance(each, str)]
    resized = np.stack(_same_channels(found, options.colour))
    ends = np.cumsum([len(images) for images in splits.values()])[:-1]
    return Prepared(dict(zip(splits, np.split(resized, ends), strict=True)))


def split(
    given: Sequence[str | None], images: Sequence[Pixels], options: Options
) -> tuple[dict[str, Pixels], dict[str, list[int]]]:
    """Return the images of each split, and their indices in ``images``. Each distinct image is used once.

    Args:
        given: the split of each image, or None.
        images: (channels, height, width) each, all of one shape.
        options: the shares to cut off for validation and test if no image has that split.
    """
    digests = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]
    rank = {name: number for number, name in enumerate(SPLITS)}
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        best = first.get(digest)
        if best is None or rank[given[index] or "train"] > rank[given[best] or "train"]:
            first[digest] = index
    used: dict[str, list[int]] = {name: [] for name in SPLITS}
    for _, index in sorted(first.items()):
        used[given[index] or "train"].append(index)
    shares = {"test": options.test_share, "validation": options.validation_share}
    total = len(used["train"])
    for name, share in shares.items():
        if name not in given:
            cut = round(total * share)
            used[name] = used["train"][:cut]
            used["train"] = used["train"][cut:]
    return {
        name: np.stack([images[index] for index in indices]) if indices else np.empty((0, *images[0].shape), np.uint8)
        for name, indices in used.items()
    }, used


def check_sizes(splits: dict[str, Pixels], where: str) -> str | None:
    """Refuse too few pictures; return a warning if there are few.

    Raises:
        UsageError: there are fewer than 200 training or 50 validation pictures, or no test pictures.
    """
    for name, least in _SMALLEST.items():
        if len(splits[name]) < least:
            raise UsageError(f"{where} has {len(splits[name]):,} {name} pictures; it needs at least {least}.")
    if not len(splits["test"]):
        raise UsageError(f"{where} has no test pictures. Increase --test-share.")
    if len(splits["train"]) < _FEW:
        return f"Only {len(splits['train']):,} training pictures: losses will vary a lot between seeds."
    return None


def check_memory(prepared: Prepared) -> None:
    """Refuse prepared pictures that are too large for this machine.

    Raises:
        UsageError: they need more than half of the shared memory.
    """
    count, shape = sum(map(len, prepared.splits.values())), prepared.splits["train"].shape[1:]
    refuse_too_large(count, shape, shared_memory_limit())


def refuse_too_large(count: int, shape: tuple[int, int, int], limit: int) -> None:
    """Refuse images that need more memory than ``limit`` bytes.

    Raises:
        UsageError: they do. The message names a size that fits.
    """
    channels, height, width = shape
    if (needed := count * channels * height * width) <= limit:
        return
    scale = (limit / needed) ** 0.5
    fits = f"{int(width * scale)}x{int(height * scale)}" if height != width else f"{int(height * scale)}"
    raise UsageError(
        f"{count:,} pictures of {width}x{height} need {needed / 1e9:.1f} GB, but half of the shared memory is only "
        f"{limit / 1e9:.1f} GB.\nThis size fits: --image-size {fits}"
    )


def shared_memory_limit() -> int:
    """Return half the size of the shared memory in bytes."""
    try:
        place = os.statvfs("/dev/shm")
        return place.f_blocks * place.f_frsize // 2
    except OSError:  # macOS has no /dev/shm; Ray's store there holds 2 GB
        return 1_000_000_000


def count_sizes(sources: Sequence[Source], workers: int) -> Counter[tuple[int, int]]:
    """Return how many of the readable pictures have each height and width; at most their headers are decoded."""
    with quiet(), ThreadPoolExecutor(workers) as pool:
        return Counter(size for size in pool.map(_size, sources) if size is not None)


def common_size(counts: Counter[tuple[int, int]]) -> tuple[int, int]:
    """Return the height and width of all pictures, given by :func:`count_sizes`; (0, 0) if none can be read.

    Raises:
        UsageError: they have several sizes. The message names the most frequent one.
    """
    if not counts:
        return 0, 0
    (((height, width), number),) = counts.most_common(1)
    if len(counts) == 1:
        return height, width
    raise UsageError(
        f"The pictures have {len(counts):,} sizes, most often {width}x{height} ({number:,} pictures).\n"
        f"Choose one: --image-size {min(64, height, width)}"
    )


def _decoded(sources: Sequence[Source], options: Options, workers: int, progress: Progress) -> list[Pixels | str]:
    """Decode pictures in parallel. For an unreadable one, return the reason instead."""
    if options.form.size is None:
        refuse_too_large(len(sources), (1, *common_size(count_sizes(sources, workers))), shared_memory_limit())
    with quiet(), ThreadPoolExecutor(workers) as pool:  # Pillow releases Python's lock to decode and resize
        found: list[Pixels | str] = []
        in_color = False
        groups = (sources[start : start + _GROUP] for start in range(0, len(sources), _GROUP))
        for results in pool.map(lambda group: [_decode(source, options.form) for source in group], groups):
            for result in results:
                if not in_color and not isinstance(result, str) and result.ndim == 3 and options.colour != "grey":
                    in_color = True  # then all have three channels
                    refuse_too_large(len(sources), (3, *result.shape[:2]), shared_memory_limit())
                found.append(result)
                progress(len(found), len(sources))
    return found


def _decode(source: Source, form: Form) -> Pixels | str:
    try:
        content = source.read()
        return decode(content, form) if isinstance(content, bytes) else resize(content, form)
    except OSError as error:
        return error.strerror or str(error)  # without the path: a note may outlive it
    except UnreadableError as error:
        return str(error)


def _size(source: Source) -> tuple[int, int] | None:
    try:
        content = source.read()
        return size_of(content) if isinstance(content, bytes) else content.shape[:2]
    except (UnreadableError, OSError):
        return None


def _unreadable_notes(unreadable: Sequence[tuple[str, str]], total: int) -> list[str]:
    if not unreadable:
        return []
    shown = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:_NAMED])
    more = f"; {len(unreadable) - _NAMED:,} more" if len(unreadable) > _NAMED else ""
    if len(unreadable) > _UNREADABLE_SHARE * total:
        raise UsageError(
            f"{len(unreadable):,} of {total:,} pictures cannot be read ({shown}{more}).\n"
            f"vae_tune leaves out at most {_UNREADABLE_SHARE:.0%}. Repair or remove these."
        )
    return [f"Left out {len(unreadable):,} of {total:,} pictures that cannot be read ({shown}{more})."]


def _same_channels(images: Sequence[Pixels], color: Color) -> list[Pixels]:
    """Return images as arrays (channels, height, width), all with one or all with three channels."""
    gray = color == "grey" or (color == "auto" and all(image.ndim == 2 for image in images))
    return [_channels(image, gray) for image in images]


def _channels(image: Pixels, gray: bool) -> Pixels:
    """Return an image as a contiguous array (channels, height, width) with one or three channels."""
    if image.ndim == 2:
        return image[None] if gray else np.repeat(image[None], 3, axis=0)
    if gray:
        red, green, blue = (image[..., number].astype(np.uint32) for number in range(3))
        luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16  # ITU-R 601, rounded like Pillow
        return luma.astype(np.uint8)[None]
    return np.ascontiguousarray(image.transpose(2, 0, 1))
