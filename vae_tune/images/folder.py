"""List the pictures in a folder, with the split and the class of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vae_tune.config.errors import UsageError
from vae_tune.images.prepare import SPLIT_NAMES, Source

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder, sorted by relative path, their classes, and notes for the user."""

    sources: list[Source]
    classes: list[str]
    notes: list[str]


def list_folder(folder: Path) -> Listing:
    """List every picture below ``folder``.

    Top-level folders with the name of a split (``train``, ``val``, ``test`` and their synonyms) are the splits. The
    next folder on a picture's path is its class, if there are at least two such folders and every picture is in one.

    Raises:
        UsageError: there is no picture, the folder cannot be read, or pictures lie outside the split folders.
    """
    pictures, other, hidden = _walk(folder)
    if not pictures:
        count = f", but {other:,} other file{'s' * (other != 1)}" if other else ""
        raise UsageError(f"{folder} holds no pictures{count}.\nA picture ends in {', '.join(sorted(SUFFIXES))}.")
    parts = [Path(name).parts for name in pictures]
    splits = [SPLIT_NAMES.get(path[0].lower()) if len(path) > 1 else None for path in parts]
    if any(splits):
        _check_splits(folder, pictures, splits)
        parts = [path[1:] for path in parts]
    folders = [path[0] if len(path) > 1 else None for path in parts]
    classes = sorted({name for name in folders if name is not None})
    if len(classes) < 2 or None in folders:
        classes = []
    numbers = {name: number for number, name in enumerate(classes)}
    sources = [
        Source(name, (folder / name).read_bytes, part, numbers[where] if classes and where is not None else None)
        for name, part, where in zip(pictures, splits, folders, strict=True)
    ]
    left = [
        f"{count:,} {kind} file{'s' * (count != 1)}" for count, kind in ((other, "other"), (hidden, "hidden")) if count
    ]
    return Listing(sources, classes, [f"Left out {' and '.join(left)} in {folder}."] if left else [])


def first_pictures(folder: Path, count: int) -> list[Source]:
    """Return some pictures below ``folder``, at most ``count``, in the order of the file system.

    Raises:
        UsageError: there is no picture, or the folder cannot be read.
    """
    files = ((path, path.relative_to(folder)) for path in _files(folder))
    pictures = (Source(name.as_posix(), path.read_bytes) for path, name in files if _kind(name) == "picture")
    return list(islice(pictures, count)) or list_folder(folder).sources


def _walk(folder: Path) -> tuple[list[str], int, int]:
    """Return the relative paths of the pictures, and the numbers of other and hidden files."""
    found: dict[str, list[str]] = {"picture": [], "other": [], "hidden": []}
    for path in _files(folder):
        relative = path.relative_to(folder)
        found[_kind(relative)].append(relative.as_posix())
    return sorted(found["picture"]), len(found["other"]), len(found["hidden"])


def _kind(path: Path) -> str:
    """Return whether the file at a relative path is hidden, a picture or another file."""
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    return "picture" if path.suffix.lower() in SUFFIXES else "other"


def _files(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder. Follow links to folders, but visit each folder once."""
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names)


def _check_splits(folder: Path, pictures: list[str], splits: list[str | None]) -> None:
    """Validate the split folders.

    Raises:
        UsageError: pictures lie outside them, a split has two folders, or there is no training split.
    """
    beside = [name for name, part in zip(pictures, splits, strict=True) if part is None]
    if beside:
        raise UsageError(
            f"{folder} has split folders, but {len(beside):,} pictures lie outside of them ({beside[0]}).\n"
            "Move these into train, validation or test."
        )
    if "train" not in splits:
        raise UsageError(f"{folder} has a folder for {splits[0]}, but no folder train or training.")
    names: dict[str, set[str]] = {}
    for name, part in zip(pictures, splits, strict=True):
        names.setdefault(part or "", set()).add(Path(name).parts[0])
    for part, several in names.items():
        if len(several) > 1:
            raise UsageError(
                f"{folder} has {len(several)} folders for {part}: {', '.join(sorted(several))}. Keep one."
            )
