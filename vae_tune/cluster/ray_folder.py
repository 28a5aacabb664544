"""The folder in which a Ray of this machine keeps its files: private, new for each search, with a short path."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vae_tune.config.errors import UsageError

_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""
_SOCKET = f"session_2026-11-30_05-13-42_123456_{os.getpid()}/sockets/plasma_store"
"""The longest path of a socket in Ray's folder."""
_PREFIX = "ray-"
_NAME = "ray"
_LOCK = "lock"
"""A file beside Ray's, which names the machine, and which the process that created the folder keeps locked."""
_KEPT_SECONDS = 86_400.0
"""How long the folder of a process that was killed stays, for its logs."""
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders with short paths, in which everybody may create files."""


@dataclass(frozen=True)
class RayFolder:
    """A folder for the files of Ray."""

    path: Path
    """As Ray is told it. Ray lets everybody write there, so it is in a folder that only its owner can enter."""
    created: tuple[Path, ...]
    """The folders to delete."""
    lock: BinaryIO

    def delete(self) -> None:
        """Delete it with all that is in it."""
        for folder in self.created:
            shutil.rmtree(folder, ignore_errors=True)
        self.lock.close()


def create_ray_folder(environment: Mapping[str, str] = os.environ) -> RayFolder:
    """Create a folder for Ray in RAY_TMPDIR, SLURM_TMPDIR, TMPDIR or /tmp, the first that can be used.

    If its path is too long for sockets, Ray is given a short link to it. What processes of this user left there when
    they were killed, more than a day ago, is deleted.

    Raises:
        UsageError: RAY_TMPDIR cannot be used, none of the others can, or no short link can be created.
    """
    folder = _create(_parents(environment))
    lock = _locked(folder)
    _delete_abandoned(folder.parent)
    target = folder / _NAME
    target.mkdir()
    if len(os.fsencode(target / _SOCKET)) <= _SOCKET_BYTES:
        return RayFolder(target, (folder,), lock)
    try:
        short = _create(map(Path, _SHORT))
    except UsageError as error:
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)
        most = _SOCKET_BYTES - len(f"/{_PREFIX}12345678/{_NAME}/{_SOCKET}")
        raise UsageError(f"{error}\nSet RAY_TMPDIR to a folder whose path has at most {most} bytes.") from error
    _delete_broken_links(short.parent)
    link = short / _NAME
    link.symlink_to(target)
    return RayFolder(link, (folder, short), lock)


def is_ray_folder(path: Path) -> bool:
    """Return whether :func:`create_ray_folder` has created ``path``, for the Ray of one search."""
    return path.parent.name.startswith(_PREFIX) and os.path.exists(path.resolve().parent / _LOCK)


def _locked(folder: Path) -> BinaryIO:
    """Return the lock of a folder, held until it is closed, or until this process has ended."""
    file = (folder / _LOCK).open("wb")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write(platform.node().encode())
    file.flush()
    return file


def _delete_abandoned(parent: Path) -> None:
    """Delete old folders of this machine and user in ``parent`` whose process has ended."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / _LOCK).open("r+b") as file:  # raised for a lock that is held, too
            about = os.fstat(file.fileno())
            is_old = time.time() - about.st_mtime > _KEPT_SECONDS
            if is_old and about.st_uid == os.geteuid() and file.read() == platform.node().encode():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _delete_broken_links(parent: Path) -> None:
    """Delete the short links of this user in ``parent`` whose folder is gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        link = folder / _NAME
        with suppress(OSError):
            if link.is_symlink() and not link.exists() and link.lstat().st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)


def _parents(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folders in which Ray's may be; one that the user named for Ray is the only one, and is created."""
    if named := environment.get("RAY_TMPDIR"):
        with suppress(OSError):  # creating a folder in it fails with the same reason
            os.makedirs(named, exist_ok=True)
        yield Path(named).absolute()
        return
    for name in ("SLURM_TMPDIR", "TMPDIR"):  # the job's own on the disk of this node; the login node's, perhaps
        if value := environment.get(name):
            yield Path(value).absolute()
    yield Path("/tmp")


def _create(parents: Iterator[Path]) -> Path:
    """Create a folder that only its owner can enter, in the first of ``parents`` in which that is possible."""
    reasons = []
    for parent in parents:
        try:
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        except OSError as error:
            reasons.append(f"{parent} ({error.strerror or error})")
    raise UsageError(f"Ray needs a temporary folder, but none can be created in {', '.join(reasons)}.")
