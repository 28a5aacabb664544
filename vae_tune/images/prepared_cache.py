"""Keep prepared pictures in the cache, under the checksum of their files and options."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL

from vae_tune.config.cache_folder import PREPARED_FOLDER, cache_dir
from vae_tune.images.decoding import Pixels
from vae_tune.images.prepare import (
    SPLITS,
    Options,
    Prepared,
    Progress,
    Source,
    check_memory,
    prepare_checked,
    refuse_too_large,
    resize_in_place,
    shared_memory_limit,
)

CODE = f"3 pillow {PIL.__version__}"
"""For :func:`key_of`. Increase the number when the same files and options start to give other pixels."""


def prepare_once(
    key: str,
    find: Callable[[], tuple[Sequence[Source], Sequence[str]]],
    options: Options,
    progress: Progress,
    where: str,
) -> Prepared:
    """Return pictures from the cache. If they are missing, prepare them and write them there.

    Args:
        key: their name in the cache, from :func:`key_of`.
        find: returns the pictures and the names of their classes. It is called only if the cache lacks the pictures.
        options: how to prepare them.
        progress: called with the number of decoded pictures and the total.
        where: their name in messages.

    Raises:
        UsageError: they cannot be used, or are too few or too large.
    """
    folder = cache_dir() / PREPARED_FOLDER / key
    if not folder.exists():
        write_prepared(folder, prepare_checked(*find(), options, progress, where))
    prepared = read_prepared(folder)
    check_memory(prepared)  # this machine may have less memory than the one that prepared them
    return prepared


def resize_once(splits: dict[str, Pixels], options: Options, progress: Progress) -> dict[str, Pixels]:
    """Return gray images in the size and color of ``options``, resized in parallel, from the cache if possible.

    Every image keeps its place, duplicates too, so that the labels of a data set still belong to its images.

    Args:
        splits: the images of each split, (n, 1, height, width).
        options: how to prepare them, with a size.
        progress: called with the number of resized images and the total.

    Raises:
        UsageError: they need more than half of the shared memory.
    """
    count = sum(map(len, splits.values()))
    height, width = options.form.size or next(iter(splits.values())).shape[2:]
    refuse_too_large(count, (3 if options.colour == "rgb" else 1, height, width), shared_memory_limit())
    checksums = ((name, hashlib.sha256(np.ascontiguousarray(images).data).digest()) for name, images in splits.items())
    folder = cache_dir() / PREPARED_FOLDER / key_of(checksums, options, f"{CODE} in place")
    if not folder.exists():
        write_prepared(folder, resize_in_place(splits, options, progress))
    return read_prepared(folder).splits


def key_of(files: Iterable[tuple[str, bytes]], options: Options, code: str) -> str:
    """Return the SHA-256 of files, options and code version: the name of prepared pictures in the cache.

    Args:
        files: the name and the SHA-256 of each.
        options: how they are prepared.
        code: a version that changes when the same files and options start to give other pixels.
    """
    digest = hashlib.sha256(json.dumps([asdict(options), code]).encode())
    for name, checksum in files:
        digest.update(f"{len(name)}:{name}:".encode() + checksum)
    return digest.hexdigest()


def file_sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Write prepared pictures into the cache. The folder appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".preparing-{uuid.uuid4().hex}"  # mkdtemp would let nobody else read it
    temporary.mkdir()
    try:
        for name, images in prepared.splits.items():
            np.save(temporary / f"{name}.npy", images)
            if name in prepared.labels:
                np.save(temporary / f"{name}-labels.npy", prepared.labels[name])
        (temporary / "about.json").write_text(json.dumps({"classes": prepared.classes, "notes": prepared.notes}))
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():  # otherwise another process was faster
            raise


def read_prepared(folder: Path) -> Prepared:
    """Read prepared pictures from the cache. The images are memory-mapped and read-only.

    They are plain arrays, because a ``numpy.memmap`` is pickled by value: each Ray worker would get its own copy.
    """
    about = json.loads((folder / "about.json").read_text())
    splits = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in SPLITS}
    paths = {name: folder / f"{name}-labels.npy" for name in SPLITS}
    labels = {name: np.load(path, allow_pickle=False) for name, path in paths.items() if path.exists()}
    return Prepared(splits, labels, about["classes"], about["notes"])
