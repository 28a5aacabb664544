"""Copies on this machine of studies on object storage. A copy notes which study it is a copy of."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vae_tune.config import names
from vae_tune.config.cache_folder import COPIES_FOLDER, cache_dir
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, is_remote, read_json, write_json
from vae_tune.config.storage import is_claimed, list_remote_files, read_bytes, reason, write_bytes

_NOT_COPIED = {names.CHECKPOINTS_FOLDER, names.LOCK_FILE, names.COPY_FILE}
"""Names of files and folders that reach object storage in another way, or not at all."""
_copies: list[str] = []
"""Folders that are deleted when this process ends."""


def local_copy(study: Path) -> Path:
    """Return a folder here with the study: itself, or a copy that is deleted when this process ends.

    Raises UsageError if there is no study on object storage, or it does not answer.
    """
    if not is_remote(study):
        return study
    _copies.append(tempfile.mkdtemp(prefix="vae_tune-"))
    copy = Path(_copies[-1]) / study.name
    try:
        being_written = is_claimed(study)  # ask before copying: a driver that ends meanwhile has written its status
    except (OSError, ValueError) as error:
        raise UsageError(f"{address(study)} cannot be read: {reason(error)}.") from error
    download(study, copy)
    mark_copy(copy, study, uploaded_files(copy), being_written=being_written)
    return copy


@atexit.register
def delete_copies() -> None:
    """Delete the copies that :func:`local_copy` has made."""
    for folder in _copies:
        shutil.rmtree(folder, ignore_errors=True)


def working_copy(study: Path) -> Path:
    """Return the folder here in which a driver writes the study: itself, or its working copy."""
    if not is_remote(study):
        return study
    parent = hashlib.sha256(address(study.parent).encode()).hexdigest()[:12]
    return cache_dir() / COPIES_FOLDER / parent / study.name


def download(study: Path, folder: Path) -> None:
    """Replace ``folder`` by a copy of a study on object storage, without its checkpoints and TensorBoard events.

    Raises UsageError, and leaves the folder unchanged, if there is no study, or the store does not answer.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        files = [name for name in list_remote_files(study) if not _NOT_COPIED & set(name.split("/"))]
        if names.STUDY_FILE not in files:
            raise UsageError(f"{address(study)} is no study: {names.STUDY_FILE} is missing.")
        for name in files:
            if names.TENSORBOARD_FOLDER not in name.split("/"):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    write_bytes(fresh / name, read_bytes(study / name))
        mark_copy(fresh, study, files)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"{address(study)} cannot be read: {reason(error)}.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def mark_copy(folder: Path, study: Path, uploaded: Iterable[str] = (), *, being_written: bool = False) -> None:
    """Note in a folder that it is a copy of a study on object storage, whose ``uploaded`` files it has.

    ``being_written`` says whether a driver was writing the original when it was copied.
    """
    note = {"study": address(study), "uploaded": sorted(uploaded), "written": being_written}
    write_json(folder / names.COPY_FILE, note)


def uploaded_files(copy: Path) -> set[str]:
    """Return the names of the files that the original had when the copy was last uploaded or downloaded."""
    try:
        return set(read_json(copy / names.COPY_FILE)["uploaded"])
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def original_path(path: Path) -> Path:
    """Return the path on object storage of which ``path``, a study or a file in one, is a copy; else ``path``."""
    if is_remote(path):
        return path
    root, note = _copy_note(path)
    return Path(note["study"]) / path.absolute().relative_to(root) if note else path


def original_address(path: Path) -> str:
    """Return the address of a study or a file in one; of a copy, that of its original."""
    return address(original_path(path))


def was_being_written(folder: Path) -> bool:
    """Return whether a folder is a copy of a study that a driver was writing when it was copied."""
    return bool(_copy_note(folder)[1].get("written"))


def record_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a working copy that are uploaded: not the checkpoints, which workers upload themselves."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        temporary = path.suffix == ".tmp" or (names.RAY_FOLDER in parts and path.name != names.RAY_LOG_FILE)
        if path.is_file() and not temporary and not _NOT_COPIED & set(parts):
            yield path


def _copy_note(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the copy of a study in which a path lies, and what is noted there; an empty note if there is none."""
    path = path.absolute()
    for root in (path, *path.parents[:2]):  # a confirmation lies in its search's folder
        with contextlib.suppress(OSError, ValueError, TypeError):
            note = dict(read_json(root / names.COPY_FILE))
            if "study" in note:
                return root, note
    return path, {}
