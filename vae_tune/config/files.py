"""Paths, here and on object storage; files that appear under their name only when they are complete and on disk."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO

from vae_tune.config.errors import UsageError

_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and the characters by which Python represents bytes that are not UTF-8."""
LONGEST_NAME = 255
"""Maximum bytes in the name of a file: NAME_MAX."""
SCHEMES = ("s3:", "gs:")
"""First part of a path on object storage, which pathlib makes of s3:// and gs://."""


def is_remote(path: Path) -> bool:
    """Return whether a path is on object storage: see :mod:`vae_tune.config.storage`."""
    return path.parts[:1] in [(scheme,) for scheme in SCHEMES]


def named_path(path: str | Path) -> Path:
    """Return a path that a person gave, with ``~`` expanded, and ``.`` or ``..`` at its end resolved.

    These have no name that a study could take. Everything else stays as it was typed, links too. Raises UsageError if
    it is no path.
    """
    if not isinstance(path, (str, Path)) or path == "":
        raise UsageError(f"A path is a text or a pathlib.Path that is not empty, but got {path!r}.")
    path = Path(os.path.expanduser(path))
    return path if path.name not in ("", "..") else path.resolve()


def absolute(path: Path) -> Path:
    """Return a path that is the same from every working directory."""
    return path if is_remote(path) else path.absolute()


def address(path: Path) -> str:
    """Return a path as people write it, with both slashes of s3:// or gs://, of which pathlib drops one."""
    return f"{path.parts[0]}//{'/'.join(path.parts[1:])}" if is_remote(path) else str(path)


def argument(path: Path) -> str:
    """Return a path as an argument for a shell, quoted if necessary."""
    return quote(address(path))


def can_be_path(path: Path) -> bool:
    """Return whether a file can be created at a path, and the path printed."""
    return not _NO_TEXT.search(str(path)) and all(len(part.encode()) <= LONGEST_NAME for part in path.parts)


def is_script(path: Path) -> bool:
    """Return whether a path is a file that names its interpreter in the first line."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that replaces it when the block ends without an error."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # an interruption can come right after the file has replaced the other
        raise


def delete_temporary_files(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder; object storage has none."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Return what :func:`write_json` wrote."""
    return json.loads(path.read_text())
