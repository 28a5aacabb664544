"""Files that may lie on object storage: a path that begins with s3:// or gs:// names one there.

``pathlib`` writes ``s3://bucket/study`` as ``s3:/bucket/study``; both name the same path, :func:`address` writes it
out. An object appears whole or not at all. What fails is tried again for a while: networks and stores come back.
Where a store is and who may use it is asked of the environment, as its own tools do: ``AWS_*`` and ``~/.aws``,
``GOOGLE_APPLICATION_CREDENTIALS``, or the machine's role. ``AWS_ENDPOINT_URL`` names a store other than Amazon's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vae_tune.config import UsageError, telling_line
from vae_tune.files import SCHEMES, address, atomic, is_remote
from vae_tune.names import CHECKPOINTS_FOLDER, LOCK_FILE, RAY_FOLDER, RAY_LOG_FILE, STUDY_FILE, TENSORBOARD_FOLDER

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PATIENCE = 300.0
"""Seconds for which a store that fails is asked again."""
QUICK = 15.0
"""The same where somebody waits for the answer."""
_FINAL = ("NO_SUCH_BUCKET", "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "PERMISSION_DENIED")
"""Words of errors that waiting does not mend."""
_PAUSES = 0.2, 5.0  # seconds between two tries: at first, and at most

_ELSEWHERE = {CHECKPOINTS_FOLDER, LOCK_FILE}
"""What is on object storage in its own way."""

_Result = TypeVar("_Result")


def read_bytes(path: Path, patience: float = QUICK) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it is missing, or cannot be read.
    """
    if not is_remote(path):
        return path.read_bytes()

    def read(store: FileSystem, name: str) -> bytes:
        with store.open_input_stream(name) as file:
            return bytes(file.read())

    return _patiently(read, path, patience)


def write_bytes(path: Path, content: bytes, patience: float = PATIENCE) -> None:
    """Write a file that appears when it is complete; its folder is made.

    Raises:
        OSError: it cannot be written.
    """
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write(content)
        return

    def write(store: FileSystem, name: str) -> None:
        with store.open_output_stream(name) as file:
            file.write(content)

    _patiently(write, path, patience)


def delete(path: Path, patience: float = PATIENCE) -> None:
    """Delete a file, if it is there.

    Raises:
        OSError: it cannot be deleted.
    """
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            _patiently(lambda store, name: store.delete_file(name), path, patience)
        else:
            path.unlink()


def delete_folder(folder: Path, patience: float = PATIENCE) -> None:
    """Delete a folder with all that is in it, if it is there; of one on this machine as much as can be deleted.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    from pyarrow.fs import FileSelector, FileType

    def remove(store: FileSystem, name: str) -> None:
        marked = store.get_file_info(name).type != FileType.NotFound  # by an empty object of its own
        if marked or store.get_file_info(FileSelector(name, allow_not_found=True, recursive=True)):
            store.delete_dir(name)

    with contextlib.suppress(FileNotFoundError):  # Google's have no object for a folder, which pyarrow misses at last
        _patiently(remove, folder, patience)


def files(folder: Path, patience: float = QUICK) -> list[Path]:
    """Return the files in a folder, not those in folders below; none where there is no such folder.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(folder):
        return [path for path in folder.glob("*") if path.is_file()]
    return [folder / name for name in _names(folder, patience, recursive=False)]


def folders(folder: Path, patience: float = QUICK) -> set[str]:
    """Return the names of the folders in a folder.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(folder):
        return {path.name for path in folder.glob("*") if path.is_dir()}
    return {name.split("/")[0] for name in _names(folder, patience, recursive=True) if "/" in name}


def entries(folder: Path, patience: float = QUICK) -> set[str]:
    """Return the names of the files and the folders in a folder; none where there is no such folder.

    Raises:
        OSError: the store does not answer, or it is a folder that may not be looked into.
    """
    if not is_remote(folder):
        return set(os.listdir(folder)) if folder.exists() else set()
    return {name.split("/")[0] for name in _names(folder, patience, recursive=True)}


def exists(path: Path, patience: float = QUICK) -> bool:
    """Whether there is such a file.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(path):
        return path.exists()
    return bool(_patiently(lambda store, name: store.get_file_info(name).is_file, path, patience))


def download(study: Path, folder: Path) -> None:
    """Copy the record of a study on object storage into a folder on this machine: all but checkpoints and events.

    Raises:
        UsageError: there is no study, or the store does not answer.
    """
    try:
        names = _names(study, QUICK, recursive=True)
        names = [name for name in names if not {*_ELSEWHERE, TENSORBOARD_FOLDER} & set(name.split("/"))]
        if STUDY_FILE not in names:
            raise UsageError(f"{address(study)} is no study: {STUDY_FILE} is missing.")
        for name in names:
            write_bytes(folder / name, read_bytes(study / name))
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{address(study)} cannot be read: {_reason(error)}.") from error


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
    download(folder, copy)
    return copy


def record_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a study folder that belong on object storage: checkpoints are written there by themselves."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        passing = path.suffix == ".tmp" or (RAY_FOLDER in parts and path.name != RAY_LOG_FILE)
        if path.is_file() and not passing and not _ELSEWHERE & set(parts):
            yield path


def _names(folder: Path, patience: float, *, recursive: bool) -> list[str]:
    from pyarrow.fs import FileSelector

    def listed(store: FileSystem, name: str) -> list[str]:
        found = store.get_file_info(FileSelector(name, allow_not_found=True, recursive=recursive))
        return [info.path.removeprefix(f"{name}/") for info in found if info.is_file]

    return sorted(_patiently(listed, folder, patience))


def _patiently(call: Callable[[FileSystem, str], _Result], path: Path, patience: float) -> _Result:
    """Call with the store and the name there of ``path``, again and again where the store fails."""
    kind, bucket, *_ = *path.parts, ""
    pause, longest = _PAUSES
    end = time.monotonic() + patience
    while True:
        try:
            return call(_store(kind, bucket, _endpoint(kind)), "/".join(path.parts[1:]))
        except FileNotFoundError:
            raise
        except OSError as error:
            if time.monotonic() + pause > end or any(word in str(error) for word in _FINAL):
                raise OSError(f"{address(path)}: {_reason(error)}") from error
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _endpoint(kind: str) -> str:
    """Return the URL of a store other than Amazon's or Google's own, as their own tools find it."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if kind == SCHEMES[0] else ("STORAGE_EMULATOR_HOST",)
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


@cache
def _store(kind: str, bucket: str, endpoint: str) -> FileSystem:
    """Return a store; with it a small object is one request."""
    from pyarrow import fs

    scheme, _, host = (endpoint or "https://").partition("://")
    if kind == SCHEMES[1]:
        limit = timedelta(seconds=QUICK / 2)
        return fs.GcsFileSystem(
            anonymous=bool(host), scheme=scheme, endpoint_override=host or None, retry_time_limit=limit
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region, scheme=scheme, endpoint_override=host or None, allow_delayed_open=True, background_writes=False
    )


def _reason(error: BaseException) -> str:
    return telling_line(error).rstrip(".")
