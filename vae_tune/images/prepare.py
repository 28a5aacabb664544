"""Prepare pictures once: decoded on all cores, without duplicates, in three splits, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL

from vae_tune.config.cache_folder import PREPARED_FOLDER, cache_dir
from vae_tune.config.errors import UsageError
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.settings import Color
from vae_tune.images.decoding import Form, Pixels, UnreadableError, decode, quiet, resize, size_of

SPLITS = ("train", "validation", "test")
Progress = Callable[[int, int], None]
"""Called with how many pictures are done, and of how many."""

CODE = f"1 pillow {PIL.__version__}"
"""For :func:`key_of`; raise the number when the same files and options give other pixels."""
_UNREADABLE_SHARE = 0.01
_SMALLEST = {"train": 200, "validation": 50}
_FEW = 1000
_GROUP = 16  # pictures that a thread decodes at a time: handing over each alone takes a tenth of the time
_NAMED = 3  # unreadable pictures whose names are shown


@dataclass(frozen=True)
class Source:
    """One picture: it is read when it is decoded."""

    name: str
    """As shown to people: its path in the folder, or its row."""
    read: Callable[[], bytes | Pixels]
    """Returns the bytes of a picture file, or an array (height, width) or (height, width, 3)."""
    split: str | None = None
    """One of :data:`SPLITS`, or None where the product splits."""
    label: int | None = None


@dataclass(frozen=True)
class Options:
    """Everything that decides what is made of the same pictures."""

    form: Form = field(default_factory=Form)
    colour: Color = "auto"
    validation_share: float = 0.1
    test_share: float = 0.1


@dataclass
class Prepared:
    """Three splits (n, channels, height, width), uint8, with their labels where the pictures have some."""

    splits: dict[str, Pixels]
    labels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a person should know: duplicates, pictures left out and why."""


def prepare(
    sources: Sequence[Source], options: Options, classes: Sequence[str], workers: int, progress: Progress
) -> Prepared:
    """Decode pictures side by side and split them.

    Each distinct picture is used once. Where no split is given, the order of the pictures' SHA-256 decides, so that
    neither a seed nor a file's name does, and the same picture never lies on both sides of a cut. A picture that lies
    in two given splits stays in the later one of train, validation, test.

    Raises:
        UsageError: the pictures have several sizes and ``options`` names none, or too many are unreadable.
    """
    found = _decoded(sources, options, workers, progress)
    unreadable = [
        (source.name, result) for source, result in zip(sources, found, strict=True) if isinstance(result, str)
    ]
    notes = _unreadable_notes(unreadable, len(sources))
    pairs = [(source, image) for source, image in zip(sources, found, strict=True) if not isinstance(image, str)]
    gray = options.colour == "grey" or (options.colour == "auto" and all(image.ndim == 2 for _, image in pairs))
    images = [_channels(image, gray) for _, image in pairs]
    splits, used = split([source.split for source, _ in pairs], images, options)
    duplicates = len(pairs) - sum(map(len, used.values()))
    if duplicates:
        notes.append(f"{duplicates:,} of {len(pairs):,} pictures are duplicates and left out.")
    labels = {}
    if classes:
        every = np.array([-1 if source.label is None else source.label for source, _ in pairs], np.int64)
        labels = {name: every[indices] for name, indices in used.items()}
    return Prepared(splits, labels, list(classes), notes)


def split(
    given: Sequence[str | None], images: Sequence[Pixels], options: Options
) -> tuple[dict[str, Pixels], dict[str, list[int]]]:
    """Return the images of each split, and which of ``images`` they are; each distinct image once.

    Args:
        given: the split of each image, or None.
        images: (channels, height, width) each, all of one shape.
        options: the shares that are cut off for validation and test where these are not given.
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
    """Refuse too few pictures; return a warning where there are few.

    Raises:
        UsageError: fewer than 200 train or 50 validate.
    """
    for name, least in _SMALLEST.items():
        if len(splits[name]) < least:
            raise UsageError(f"{where} has {len(splits[name]):,} pictures in {name}; at least {least} are needed.")
    if not len(splits["test"]):
        raise UsageError(f"{where} has no pictures to test; --test-share must be above 0.")
    if len(splits["train"]) < _FEW:
        return f"Only {len(splits['train']):,} pictures to train on: losses will differ much from seed to seed."
    return None


def refuse_too_large(count: int, shape: tuple[int, int, int], limit: int) -> None:
    """Refuse images that take more memory than ``limit`` bytes, naming the size that would fit.

    Raises:
        UsageError: they do.
    """
    channels, height, width = shape
    if (needed := count * channels * height * width) <= limit:
        return
    scale = (limit / needed) ** 0.5
    fits = f"{int(width * scale)}x{int(height * scale)}" if height != width else f"{int(height * scale)}"
    raise UsageError(
        f"{count:,} pictures of {width}x{height} take {needed / 1e9:.1f} GB, and half of the shared memory is "
        f"{limit / 1e9:.1f} GB.\nThis would fit: --image-size {fits}"
    )


def shared_memory_limit() -> int:
    """Return half of what shared memory holds, in bytes."""
    try:
        place = os.statvfs("/dev/shm")
        return place.f_blocks * place.f_frsize // 2
    except OSError:  # macOS has no such folder: Ray's store there holds 2 GB
        return 1_000_000_000


def _decoded(sources: Sequence[Source], options: Options, workers: int, progress: Progress) -> list[Pixels | str]:
    """Decode side by side; for a picture that cannot be read, its reason."""
    with quiet(), ThreadPoolExecutor(workers) as pool:  # Pillow decodes and resizes without holding Python's lock
        if options.form.size is None:
            size = _common_size(pool.map(_size, sources))
            refuse_too_large(len(sources), (1, *size), shared_memory_limit())
        found: list[Pixels | str] = []
        groups = (sources[start : start + _GROUP] for start in range(0, len(sources), _GROUP))
        for results in pool.map(lambda group: [_decode(source, options.form) for source in group], groups):
            for result in results:
                found.append(result)
                progress(len(found), len(sources))
    return found


def _decode(source: Source, form: Form) -> Pixels | str:
    try:
        content = source.read()
        return decode(content, form) if isinstance(content, bytes) else resize(content, form)
    except (UnreadableError, OSError) as error:
        return str(error)


def _size(source: Source) -> tuple[int, int] | None:
    try:
        content = source.read()
        return size_of(content) if isinstance(content, bytes) else content.shape[:2]
    except (UnreadableError, OSError):
        return None


def _common_size(sizes: Iterable[tuple[int, int] | None]) -> tuple[int, int]:
    """Return the height and width that all pictures have; (0, 0) if none can be read.

    Raises:
        UsageError: they have several sizes; it names the most frequent one.
    """
    counts = Counter(size for size in sizes if size is not None)
    if not counts:
        return 0, 0
    (((height, width), number),) = counts.most_common(1)
    if len(counts) == 1:
        return height, width
    raise UsageError(
        f"The pictures have {len(counts):,} sizes, most often {width}x{height} ({number:,} pictures).\n"
        f"Choose one: --image-size {min(64, height, width)}"
    )


def _unreadable_notes(unreadable: Sequence[tuple[str, str]], total: int) -> list[str]:
    if not unreadable:
        return []
    shown = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:_NAMED])
    more = f"; {len(unreadable) - _NAMED:,} more" if len(unreadable) > _NAMED else ""
    if len(unreadable) > _UNREADABLE_SHARE * total:
        raise UsageError(
            f"{len(unreadable):,} of {total:,} pictures cannot be read ({shown}{more}).\n"
            f"At most {_UNREADABLE_SHARE:.0%} may be left out: mend or remove them."
        )
    return [f"{len(unreadable):,} of {total:,} pictures cannot be read and are left out ({shown}{more})."]


def _channels(image: Pixels, gray: bool) -> Pixels:
    """Return an image as (channels, height, width), one channel or three, in this order in memory."""
    if image.ndim == 2:
        return image[None] if gray else np.repeat(image[None], 3, axis=0)
    if gray:
        red, green, blue = (image[..., number].astype(np.uint32) for number in range(3))
        luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16  # ITU-R 601, rounded as Pillow does
        return luma.astype(np.uint8)[None]
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def key_of(files: Iterable[tuple[str, bytes]], options: Options, code: str) -> str:
    """Return the SHA-256 of files, options and the code's version: the name of prepared pictures in the cache.

    Args:
        files: name and SHA-256 of each.
        options: what is made of them.
        code: changes where the same files and options give other pixels.
    """
    digest = hashlib.sha256(json.dumps([asdict(options), code]).encode())
    for name, checksum in files:
        digest.update(f"{len(name)}:{name}:".encode() + checksum)
    return digest.hexdigest()


def file_sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def prepare_once(
    key: str,
    find: Callable[[], tuple[Sequence[Source], Sequence[str], list[str]]],
    options: Options,
    progress: Progress,
    where: str,
) -> Prepared:
    """Return pictures from the cache; prepare them and write them there if they are missing.

    Args:
        key: their name in the cache, from :func:`key_of`.
        find: returns the pictures, the names of their classes, and notes for a person. It is called only if the cache
            lacks them.
        options: what to make of them.
        progress: is told how many pictures are decoded.
        where: what messages call them.

    Raises:
        UsageError: they are no usable images, too few or too large.
    """
    folder, limit = cache_dir() / PREPARED_FOLDER / key, shared_memory_limit()
    if folder.exists():
        prepared = read_prepared(folder)
    else:
        sources, classes, notes = find()
        if options.form.size:
            refuse_too_large(len(sources), (1, *options.form.size), limit)
        prepared = prepare(sources, options, classes, usable_cpus(), progress)
        few = check_sizes(prepared.splits, where)
        prepared = replace(prepared, notes=[*notes, *prepared.notes, *([few] if few else [])])
        write_prepared(folder, prepared)
    refuse_too_large(sum(map(len, prepared.splits.values())), prepared.splits["train"].shape[1:], limit)
    return prepared


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Write into the cache; the folder appears whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".preparing-"))
    try:
        for name, images in prepared.splits.items():
            np.save(temporary / f"{name}.npy", images)
            if name in prepared.labels:
                np.save(temporary / f"{name}-labels.npy", prepared.labels[name])
        (temporary / "about.json").write_text(json.dumps({"classes": prepared.classes, "notes": prepared.notes}))
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():  # else another process was faster
            raise


def read_prepared(folder: Path) -> Prepared:
    """Read what :func:`write_prepared` wrote; the images are mapped into memory, read-only.

    They are plain arrays: a ``numpy.memmap`` is pickled by value, so that each worker of Ray would get its own copy.
    """
    about = json.loads((folder / "about.json").read_text())
    splits = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in SPLITS}
    paths = {name: folder / f"{name}-labels.npy" for name in SPLITS}
    labels = {name: np.load(path, allow_pickle=False) for name, path in paths.items() if path.exists()}
    return Prepared(splits, labels, about["classes"], about["notes"])
