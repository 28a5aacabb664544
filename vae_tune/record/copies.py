"""Copies on this machine of studies on object storage. A copy says so, and of which study: it is none of its own."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vae_tune.config.files import address, is_remote, read_json, write_json
from vae_tune.config.names import (
    CHECKPOINTS_FOLDER,
    COPY_FILE,
    LOCK_FILE,
    RAY_FOLDER,
    RAY_LOG_FILE,
    STUDY_FILE,
    TENSORBOARD_FOLDER,
)
from vae_tune.config.settings import UsageError
from vae_tune.config.storage import is_claimed, names_below, read_bytes, reason, write_bytes

_ELSEWHERE = {CHECKPOINTS_FOLDER, LOCK_FILE, COPY_FILE}
"""What is on object storage in its own way, or not at all."""


def download(study: Path, folder: Path) -> None:
    """Make ``folder`` a copy of the record of a study on object storage: of all but checkpoints and events.

    What was in the folder before is gone then; where that fails, it is as it was.

    Raises:
        UsageError: there is no study, or the store does not answer.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        names = [name for name in names_below(study) if not _ELSEWHERE & set(name.split("/"))]
        if STUDY_FILE not in names:
            raise UsageError(f"{address(study)} is no study: {STUDY_FILE} is missing.")
        for name in names:
            if TENSORBOARD_FOLDER not in name.split("/"):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    write_bytes(fresh / name, read_bytes(study / name))
        mark_copy(fresh, study, names)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"{address(study)} cannot be read: {reason(error)}.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def working_copy(place: Path) -> Path:
    """Return the folder on this machine in which a study on object storage is written."""
    from vae_tune.images.cache import COPIES_FOLDER, cache_dir

    parent = hashlib.sha256(address(place.parent).encode()).hexdigest()[:12]
    return cache_dir() / COPIES_FOLDER / parent / place.name


def mark_copy(folder: Path, study: Path, uploaded: Iterable[str] = (), *, written: bool = False) -> None:
    """Note in a folder that it is a copy of a study on object storage, and what is known of that.

    Args:
        folder: the copy.
        study: what it is a copy of.
        uploaded: names of the files that are there.
        written: whether a driver wrote the study when it was copied.
    """
    write_json(folder / COPY_FILE, {"study": address(study), "uploaded": sorted(uploaded), "written": written})


def uploaded(folder: Path) -> set[str]:
    """Return the names of the files of a copy that were on object storage when it was last uploaded or downloaded."""
    try:
        return set(read_json(folder / COPY_FILE)["uploaded"])
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def place_of(folder: Path) -> Path:
    """Return where a study lies, or a file of one: the path itself, or what it is a copy of on object storage."""
    if is_remote(folder):
        return folder
    root, mark = _mark(folder)
    return Path(mark["study"]) / folder.absolute().relative_to(root) if mark else folder


def was_written(folder: Path) -> bool:
    """Whether a folder is a copy of a study on object storage that a driver wrote when it was copied."""
    return bool(_mark(folder)[1].get("written"))


def _mark(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a study's copy that a path lies in, and what is noted there; nothing where it is none."""
    path = folder.absolute()
    for root in (path, *path.parents[:2]):  # a confirmation lies in its search's folder
        with contextlib.suppress(OSError, ValueError, TypeError):
            mark = dict(read_json(root / COPY_FILE))
            if "study" in mark:
                return root, mark
    return path, {}


def shown(folder: Path) -> str:
    """Return where a study lies, or a file of one, as people write it."""
    return address(place_of(folder))


def local(folder: Path) -> Path:
    """Return a folder on this machine with the study in ``folder``: itself, or a copy that ends with this process.

    Raises:
        UsageError: there is no study on the storage, or it does not answer.
    """
    if not is_remote(folder):
        return folder
    place = tempfile.mkdtemp(prefix="vae_tune-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    copy = Path(place) / folder.name
    try:
        written = is_claimed(folder)  # before it is copied: one that ends meanwhile has written how it ended
    except (OSError, ValueError) as error:
        raise UsageError(f"{address(folder)} cannot be read: {reason(error)}.") from error
    download(folder, copy)
    mark_copy(copy, folder, uploaded(copy), written=written)
    return copy


def record_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a study folder that belong on object storage: checkpoints are written there by themselves."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        passing = path.suffix == ".tmp" or (RAY_FOLDER in parts and path.name != RAY_LOG_FILE)
        if path.is_file() and not passing and not _ELSEWHERE & set(parts):
            yield path
