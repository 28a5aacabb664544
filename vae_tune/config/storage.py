"""Read, write, list and delete files here or on object storage, where a path begins with s3:// or gs://.

``pathlib`` writes ``s3://bucket/study`` as ``s3:/bucket/study``; both name the same path, and
:func:`vae_tune.config.files.address` returns the first. A file appears whole or not at all. A request that fails is
retried for ``patience`` seconds: networks and stores come back. Then the functions raise :class:`StorageError`.

Only the driver that holds a study's claim, and its workers, write the study on object storage. A process that has
called :func:`set_claim` writes and deletes below the study only while that claim holds: each attempt looks up the
object's version, then the claim, and then asks the store to replace exactly that version; else it raises
:class:`ClaimLost`. A driver that takes over the claim rewrites the journal and ``study.json``, so what its
predecessor has still under way fails.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from vae_tune.config.errors import SearchError, telling_line
from vae_tune.config.files import address, atomic, is_remote
from vae_tune.config.names import LOCK_FILE
from vae_tune.config.object_stores import ANY, Changed, Refused, Store, open_store

PATIENCE = 300.0
"""Seconds for which a failing store is retried."""
QUICK = 15.0
"""The same where somebody waits for the answer."""
SILENCE = 30.0
"""Seconds without a change of its claim after which a driver counts as dead."""
_PAUSES = 0.2, 5.0  # seconds between two attempts: at first, and at most

_claims: dict[Path, str] = {}
"""The tokens of the claims under which this process writes, by study."""

_Result = TypeVar("_Result")


class StorageError(OSError):
    """Object storage did not answer, or refused."""


class ClaimLost(SearchError):
    """Another driver took the study over: this one must not write it any more."""


class Entries(NamedTuple):
    """The names in a folder."""

    files: set[str]
    folders: set[str]


def read_bytes(path: Path, patience: float = QUICK) -> bytes:
    """Return the content of a file."""
    if not is_remote(path):
        return path.read_bytes()
    return _retry(lambda store, name: store.read(name), path, patience)


def open_bytes(path: Path) -> Callable[[], bytes]:
    """Return a function that reads a file once; it can still read one here that is deleted meanwhile.

    Raises OSError if a file here cannot be opened.
    """
    return partial(read_bytes, path) if is_remote(path) else partial(_read_and_close, path.open("rb"))


def write_bytes(path: Path, content: bytes, patience: float = PATIENCE) -> None:
    """Write a file, and create its folder."""
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write(content)
        return
    claim = claim_for(path)

    def write(store: Store, name: str) -> None:
        expected = _version(store, name) if claim else ANY
        with _under_claim(store, claim):
            store.write(name, content, expected)

    _retry(write, path, patience)


def prepare_write(path: Path) -> Callable[[bytes], object]:
    """Return a function that writes a file, on object storage only if it is still as it is now, else raises Changed.

    It needs no claim: a process that only reads a study writes a file there without overwriting its driver's.
    """
    if not is_remote(path):
        return partial(write_bytes, path)
    return partial(replace, path, expected=version(path), patience=QUICK)


def delete(path: Path, patience: float = PATIENCE) -> None:
    """Delete a file, if it exists."""
    if is_remote(path):
        _delete_objects(path, lambda store, name: {name: found} if (found := _version(store, name)) else {}, patience)
    else:
        path.unlink(missing_ok=True)


def delete_folder(folder: Path, patience: float = PATIENCE) -> None:
    """Delete a folder with everything in it, if it exists; of a folder here, as much as can be deleted."""
    if is_remote(folder):
        _delete_objects(folder, lambda store, name: store.list(name, deep=True).versions, patience)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def list_folder(folder: Path, patience: float = QUICK) -> Entries:
    """Return the names of the files and of the folders in a folder; none if there is no such folder."""
    if not is_remote(folder):
        found = list(os.scandir(folder)) if folder.exists() else []
        folders = {entry.name for entry in found if entry.is_dir()}
        return Entries({entry.name for entry in found} - folders, folders)
    listing = _retry(lambda store, name: store.list(name, deep=False), folder, patience)
    return Entries(set(_relative(listing.versions, folder)), {name.rpartition("/")[2] for name in listing.folders})


def list_remote_files(folder: Path, patience: float = QUICK) -> list[str]:
    """Return the names of all objects below a folder on object storage, relative to it."""
    return _relative(_retry(lambda store, name: store.list(name, deep=True), folder, patience).versions, folder)


def exists(path: Path, patience: float = QUICK) -> bool:
    """Return whether there is such a file."""
    return version(path, patience) is not None if is_remote(path) else path.exists()


def folder_exists(folder: Path) -> bool:
    """Return whether files can be read and written in a folder: always on object storage, which has no folders."""
    return is_remote(folder) or folder.is_dir()


def version(path: Path, patience: float = QUICK) -> str | None:
    """Return the version of an object, None if there is none."""
    return _retry(_version, path, patience)


def replace(path: Path, content: bytes, expected: str | None, patience: float) -> str:
    """Write an object over the version ``expected`` (None: no object yet) and return its new version.

    Raises Changed if it had another version; or if this call itself has written it, but the answer was lost.
    """
    return _retry(lambda store, name: store.write(name, content, expected), path, patience, final=Changed)


def remove(path: Path, expected: str, patience: float) -> None:
    """Delete an object of the version ``expected``; raise Changed if it has another."""
    _retry(lambda store, name: store.delete(name, expected), path, patience, final=Changed)


def set_claim(study: Path, token: str | None) -> None:
    """Let this process write below a study on object storage only under the claim with that token; None: always."""
    if token is None:
        _claims.pop(study, None)
    else:
        _claims[study] = token


def claim_for(path: Path) -> tuple[Path, str] | None:
    """Return the study under whose claim this process writes ``path``, and the claim's token."""
    return next(((study, _claims[study]) for study in (path, *path.parents) if study in _claims), None)


def is_claimed(study: Path) -> bool:
    """Return whether a driver is writing a study on object storage: its claim, or its search's, changed recently."""
    places = [place for place in (study, study.parent) if len(place.parts) > 1]  # a bucket has no parent
    states = [_retry(lambda store, name: store.stat(name), place / LOCK_FILE, QUICK) for place in places]
    return any(state is not None and state.age < SILENCE for state in states)


def parse_holder(content: str | bytes) -> dict[str, Any]:
    """Return who holds a lock or a claim by the content of its file: pid, host, token; empty if it is damaged."""
    try:
        return {"pid": "?", "host": "?", "token": "", **json.loads(content)}
    except (ValueError, TypeError):
        return {}


def takeover_message(study: Path, holder: Mapping[str, Any]) -> str:
    """Return the message of a driver that lost its study; ``holder`` holds the claim now, if anyone does."""
    who = f"process {holder['pid']} on host {holder['host']}" if holder else "another driver, which has ended"
    return (
        f"The study {address(study)} was taken over by {who}, since this driver had not been heard of.\n"
        "This driver writes nothing more there. The record of the study is complete."
    )


def reason(error: BaseException) -> str:
    """Return the message of an error, on one line and without a full stop."""
    return telling_line(error).rstrip(".")


@contextmanager
def _under_claim(store: Store, claim: tuple[Path, str] | None) -> Iterator[None]:
    """Check the claim before a change of an object, and again if someone else changed the object meanwhile."""
    _check(store, claim)
    try:
        yield
    except Changed:
        _check(store, claim)
        raise


def _check(store: Store, claim: tuple[Path, str] | None) -> None:
    """Raise ClaimLost if the claim no longer holds."""
    if not claim:
        return
    study, token = claim
    try:
        holder = parse_holder(store.read(_object_name(study / LOCK_FILE)))
    except FileNotFoundError:
        holder = {}
    if holder.get("token") != token:
        raise ClaimLost(takeover_message(study, holder))


def _delete_objects(path: Path, find: Callable[[Store, str], Mapping[str, str]], patience: float) -> None:
    """Delete the objects whose names and versions ``find`` returns."""
    claim = claim_for(path)

    def remove(store: Store, name: str) -> None:
        for found, version in find(store, name).items():
            with _under_claim(store, claim):
                store.delete(found, version if claim else ANY)

    _retry(remove, path, patience)


def _version(store: Store, name: str) -> str | None:
    state = store.stat(name)
    return state.version if state else None


def _relative(names: Mapping[str, str], folder: Path) -> list[str]:
    """Return the names of objects relative to a folder, without the objects that some tools create to mark folders."""
    prefix = f"{_object_name(folder)}/"
    return sorted(name.removeprefix(prefix) for name in names if not name.endswith("/"))


def _object_name(path: Path) -> str:
    return "/".join(path.parts[2:])


def _read_and_close(file: BinaryIO) -> bytes:
    with file:
        return file.read()


def _retry(
    call: Callable[[Store, str], _Result], path: Path, patience: float, final: type[OSError] = FileNotFoundError
) -> _Result:
    """Call with the store and the object's name there, again while the store fails, for up to ``patience`` seconds.

    Raises StorageError if it still fails, or refuses; FileNotFoundError and an error of the type ``final`` at once.
    """
    scheme, bucket, *_ = *path.parts, ""
    pause, longest = _PAUSES
    end = time.monotonic() + patience
    while True:
        try:
            return call(open_store(scheme, bucket), _object_name(path))
        except (FileNotFoundError, final):
            raise
        except OSError as error:
            if time.monotonic() + pause > end or isinstance(error, Refused):
                raise StorageError(f"{address(path)}: {reason(error)}") from error
        time.sleep(pause)
        pause = min(2 * pause, longest)
