"""The folder in which a Ray of this machine keeps its files: private, new for each search, with a short path."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vae_tune.config.errors import UsageError

_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""
_SOCKET = f"session_2026-11-30_05-13-42_123456_{os.getpid()}/sockets/plasma_store"
"""The longest path of a socket in Ray's folder."""
_PREFIX = "ray-"
_NAME = "ray"
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders with short paths, in which everybody may create files."""


@dataclass(frozen=True)
class RayFolder:
    """A folder for the files of Ray."""

    path: Path
    """As Ray is told it. Ray lets everybody write there, so it is in a folder that only its owner can enter."""
    created: tuple[Path, ...]
    """The folders to delete."""

    def delete(self) -> None:
        """Delete it with all that is in it."""
        for folder in self.created:
            shutil.rmtree(folder, ignore_errors=True)


def create_ray_folder(environment: Mapping[str, str] = os.environ) -> RayFolder:
    """Create a folder for Ray in RAY_TMPDIR, SLURM_TMPDIR, TMPDIR or /tmp, the first that can be used.

    If its path is too long for sockets, Ray is given a short link to it.

    Raises:
        UsageError: RAY_TMPDIR cannot be used, none of the others can, or no short link can be created.
    """
    folder = _create(_parents(environment))
    target = folder / _NAME
    target.mkdir()
    if len(os.fsencode(target / _SOCKET)) <= _SOCKET_BYTES:
        return RayFolder(target, (folder,))
    try:
        short = _create(map(Path, _SHORT))
    except UsageError as error:
        shutil.rmtree(folder, ignore_errors=True)
        most = _SOCKET_BYTES - len(f"/{_PREFIX}12345678/{_NAME}/{_SOCKET}")
        raise UsageError(f"{error}\nSet RAY_TMPDIR to a folder whose path has at most {most} bytes.") from error
    link = short / _NAME
    link.symlink_to(target)
    return RayFolder(link, (folder, short))


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
