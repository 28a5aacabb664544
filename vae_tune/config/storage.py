"""Files that may lie on object storage: a path that begins with s3:// or gs:// names one there.

``pathlib`` writes ``s3://bucket/study`` as ``s3:/bucket/study``; both name the same path, :func:`address` writes it
out. An object appears whole or not at all. What fails is tried again for a while: networks and stores come back.

A study on object storage is written by the driver that holds its claim, and by that driver's workers. Where a process
has said so (:func:`guard`), it writes and deletes below the study only while the claim is its own: each attempt looks
up the object's version, then the claim, and then asks the store to replace that version and no other. A driver that
takes the claim over writes the journal and ``study.json`` anew, so what its predecessor still has under way fails.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vae_tune.config.files import address, atomic, is_remote
from vae_tune.config.names import LOCK_FILE
from vae_tune.config.settings import SearchError, telling_line
from vae_tune.config.stores import ANY, Changed, Listing, Refused, Store, endpoint, open_store

PATIENCE = 300.0
"""Seconds for which a store that fails is asked again."""
QUICK = 15.0
"""The same where somebody waits for the answer."""
SILENCE = 30.0
"""Seconds after which a driver whose claim has not changed is gone."""
_PAUSES = 0.2, 5.0  # seconds between two tries: at first, and at most

_claims: dict[Path, str] = {}
"""Tokens of the claims that this process writes under, by study."""

_Result = TypeVar("_Result")


class ClaimLost(SearchError):
    """Another driver took the study over: this one must not write it any more."""


def guard(study: Path, token: str | None) -> None:
    """Let this process write below a study on object storage only while its claim has that token; None: always."""
    if token is None:
        _claims.pop(study, None)
    else:
        _claims[study] = token


def holder(mark: bytes) -> dict[str, Any]:
    """Return what a claim's mark says of the driver that holds it: pid, host, token; nothing where it is damaged."""
    try:
        return {"pid": "?", "host": "?", "token": "", **json.loads(mark)}
    except (ValueError, TypeError):
        return {}


def read_bytes(path: Path, patience: float = QUICK) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it is missing, or cannot be read.
    """
    if not is_remote(path):
        return path.read_bytes()
    return _patiently(lambda store, name: store.read(name), path, patience)


def write_bytes(path: Path, content: bytes, patience: float = PATIENCE) -> None:
    """Write a file that appears when it is complete; its folder is made.

    Raises:
        OSError: it cannot be written.
        ClaimLost: it belongs to a study that another driver took over.
    """
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write(content)
        return
    claim = claim_on(path)

    def write(store: Store, name: str) -> None:
        expected = store.version(name) if claim else ANY
        with _while_claimed(store, claim):
            store.write(name, content, expected)

    _patiently(write, path, patience)


def delete(path: Path, patience: float = PATIENCE) -> None:
    """Delete a file, if it is there.

    Raises:
        OSError: it cannot be deleted.
        ClaimLost: it belongs to a study that another driver took over.
    """
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    claim = claim_on(path)

    def remove(store: Store, name: str) -> None:
        _remove(store, name, store.version(name) if claim else ANY, claim)

    _patiently(remove, path, patience)


def delete_folder(folder: Path, patience: float = PATIENCE) -> None:
    """Delete a folder with all that is in it, if it is there; of one on this machine as much as can be deleted.

    Raises:
        OSError: the store does not answer.
        ClaimLost: it belongs to a study that another driver took over.
    """
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    claim = claim_on(folder)

    def remove(store: Store, name: str) -> None:
        for one, version in store.list(name, deep=True).versions.items():
            _remove(store, one, version, claim)

    _patiently(remove, folder, patience)


def files(folder: Path, patience: float = QUICK) -> list[Path]:
    """Return the files in a folder, not those in folders below; none where there is no such folder.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(folder):
        return [path for path in folder.glob("*") if path.is_file()]
    return [folder / name for name in _names(_list(folder, patience), folder)]


def folders(folder: Path, patience: float = QUICK) -> set[str]:
    """Return the names of the folders in a folder.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(folder):
        return {path.name for path in folder.glob("*") if path.is_dir()}
    return {name.rpartition("/")[2] for name in _list(folder, patience).folders}


def entries(folder: Path, patience: float = QUICK) -> set[str]:
    """Return the names of the files and the folders in a folder; none where there is no such folder.

    Raises:
        OSError: the store does not answer, or it is a folder that may not be looked into.
    """
    if not is_remote(folder):
        return set(os.listdir(folder)) if folder.exists() else set()
    found = _list(folder, patience)
    return {*_names(found, folder), *(name.rpartition("/")[2] for name in found.folders)}


def exists(path: Path, patience: float = QUICK) -> bool:
    """Whether there is such a file.

    Raises:
        OSError: the store does not answer.
    """
    return version(path, patience) is not None if is_remote(path) else path.exists()


def names_below(folder: Path, patience: float = QUICK) -> list[str]:
    """Return the names of all objects below a folder on object storage, as seen from there.

    Raises:
        OSError: the store does not answer.
    """
    return _names(_patiently(lambda store, name: store.list(name, deep=True), folder, patience), folder)


def version(path: Path, patience: float = QUICK) -> str | None:
    """Return the version of an object, None where there is none.

    Raises:
        OSError: the store does not answer.
    """
    return _patiently(lambda store, name: store.version(name), path, patience)


def replace(path: Path, content: bytes, expected: str | None, patience: float) -> str:
    """Write an object in place of the version ``expected``, None for no object yet; return its own version.

    Raises:
        Changed: it had another version; after a lost answer also where this call itself has written it.
        OSError: it cannot be written.
    """
    return _patiently(lambda store, name: store.write(name, content, expected), path, patience, final=Changed)


def remove(path: Path, expected: str | None, patience: float) -> None:
    """Delete an object of the version ``expected``.

    Raises:
        Changed: it had another version.
        OSError: it cannot be deleted.
    """
    _patiently(lambda store, name: store.delete(name, expected), path, patience, final=Changed)


def claim_on(path: Path) -> tuple[Path, str] | None:
    """Return the study that this process writes ``path`` under the claim of, and the claim's token: see guard."""
    return next(((study, _claims[study]) for study in (path, *path.parents) if study in _claims), None)


def is_claimed(study: Path) -> bool:
    """Whether a driver writes a study on object storage: its claim, or its search's, changed a moment ago.

    Raises:
        OSError: the store does not answer.
    """
    places = [place for place in (study, study.parent) if len(place.parts) > 1]  # of a bucket alone the parent is none
    ages = [_patiently(lambda store, name: store.age(name), place / LOCK_FILE, QUICK) for place in places]
    return any(age is not None and age < SILENCE for age in ages)


@contextmanager
def _while_claimed(store: Store, claim: tuple[Path, str] | None) -> Iterator[None]:
    """Change an object while the claim holds; one that another driver changed meanwhile tells that it does no more.

    Raises:
        ClaimLost: another driver took the study over.
    """
    if claim:
        _check(store, *claim)
    try:
        yield
    except Changed:
        if claim:
            _check(store, *claim)
        raise


def _check(store: Store, study: Path, token: str) -> None:
    """Raise ClaimLost unless the claim on a study has the token."""
    try:
        found = holder(store.read(_name(study / LOCK_FILE)))
    except FileNotFoundError:
        found = {}
    if found.get("token") != token:
        raise ClaimLost(taken_over(study, found))


def taken_over(study: Path, found: Mapping[str, Any]) -> str:
    """Return what a driver says whose study another one took over; ``found`` is the mark in place of its own."""
    whom = f"process {found['pid']} on host {found['host']}" if found else "another driver, which has ended"
    return (
        f"The study {address(study)} was taken over by {whom}, since this driver had not been heard of.\n"
        "This driver writes nothing more there. What the study holds is whole."
    )


def _remove(store: Store, name: str, version: str | None, claim: tuple[Path, str] | None) -> None:
    with _while_claimed(store, claim):
        store.delete(name, version if claim else ANY)


def _list(folder: Path, patience: float) -> Listing:
    return _patiently(lambda store, name: store.list(name, deep=False), folder, patience)


def _names(found: Listing, folder: Path) -> list[str]:
    """Return the names of objects as seen from a folder, without those that some tools make to mark a folder."""
    prefix = f"{_name(folder)}/"
    return sorted(name.removeprefix(prefix) for name in found.versions if not name.endswith("/"))


def _name(path: Path) -> str:
    """Return the name of an object in its bucket."""
    return "/".join(path.parts[2:])


def _patiently(
    call: Callable[[Store, str], _Result], path: Path, patience: float, final: type[OSError] = FileNotFoundError
) -> _Result:
    """Call with the store and the name there of ``path``, again and again where the store fails."""
    scheme, bucket, *_ = *path.parts, ""
    pause, longest = _PAUSES
    end = time.monotonic() + patience
    while True:
        try:
            return call(open_store(scheme, bucket, endpoint(scheme)), _name(path))
        except (FileNotFoundError, final):
            raise
        except OSError as error:
            if time.monotonic() + pause > end or isinstance(error, Refused):
                raise OSError(f"{address(path)}: {reason(error)}") from error
        time.sleep(pause)
        pause = min(2 * pause, longest)


def reason(error: BaseException) -> str:
    """Return what an error says, on one line without a full stop."""
    return telling_line(error).rstrip(".")
