"""A study on object storage while a search writes it: a working copy on this machine, uploaded as it grows.

The driver writes the working copy as it writes any study; a thread uploads what changed, whole files, at a bounded
rate. Checkpoints do not pass through here: workers write them to the storage themselves. What makes checkpoints
superfluous is uploaded before they are deleted, so another machine finds record and checkpoints that fit together.

One driver writes a study: an object names it and changes with each upload. One that has not changed for a while was
left behind; a driver that finds its own replaced stops.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vae_tune import hints
from vae_tune.config import SearchError, UsageError, telling_line
from vae_tune.data import cache_dir
from vae_tune.files import address, is_remote
from vae_tune.journal import is_being_written
from vae_tune.names import JOURNAL_FILE, LOCK_FILE, STUDY_FILE
from vae_tune.storage import (
    PATIENCE,
    QUICK,
    delete,
    delete_folder,
    download,
    entries,
    read_bytes,
    record_files,
    write_bytes,
)

_PERIOD_SECONDS = 5.0
"""Time between two uploads at least."""
_BYTES_A_SECOND = 2e6
"""Bound on what is uploaded on average, whatever the size of the record."""
_SILENCE_SECONDS = 30.0
"""A driver whose lock has not changed for so long is gone."""


def working_copy(place: Path) -> Path:
    """Return the folder on this machine in which a study on object storage is written."""
    parent = hashlib.sha256(address(place.parent).encode()).hexdigest()[:12]
    return cache_dir() / "studies" / parent / place.name


def renew(place: Path) -> Path:
    """Bring the working copy of a study up to date, and return it.

    A copy that went on from what the storage holds stays: a kill or an outage kept its newest part from the storage.

    Raises:
        UsageError: there is no study at ``place``, or the storage does not answer.
    """
    folder = working_copy(place)
    if is_being_written(folder) or _goes_on_from(folder, place):
        return folder
    download(place, folder)
    return folder


def _goes_on_from(folder: Path, place: Path) -> bool:
    if not (folder / STUDY_FILE).exists() or not (folder / JOURNAL_FILE).exists():
        return False
    try:
        stored = read_bytes(place / JOURNAL_FILE)
    except FileNotFoundError:  # killed before the first upload
        stored = b""
    except OSError as error:
        raise UsageError(f"{address(place)} cannot be read: {error}.") from error
    return (folder / JOURNAL_FILE).read_bytes().startswith(stored)


class Claim:
    """The right to write a study on object storage."""

    def __init__(self, place: Path, say: Callable[[str], None]):
        """Take it; where another driver left its mark, wait whether that changes, and ``say`` so.

        Raises:
            UsageError: another driver writes the study.
        """
        self._path = place / LOCK_FILE
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._next = 0.0
        try:
            found = self._read(QUICK)
            if found.get("host") == socket.gethostname() and not is_being_written(working_copy(place)):
                found = {}  # that driver was killed: it would hold the lock on the working copy
            if found and self._changes(found, say):
                raise UsageError(
                    f"The study {address(place)} is being written by process {found['pid']} on host {found['host']}.\n"
                    "Wait until it ends, or end it, before resuming."
                )
            self.keep(QUICK)
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(
                f"{address(place)} cannot be written: {telling_line(error).rstrip('.')}.\n"
                "Mend that (bucket, credentials, AWS_ENDPOINT_URL), or take another --results-dir."
            ) from error

    def _changes(self, found: Mapping[str, Any], say: Callable[[str], None]) -> bool:
        """Whether the driver that left the mark ``found`` leaves another: it is alive."""
        say(f"Waiting whether process {found['pid']} on host {found['host']} still writes this study ...")
        end = time.monotonic() + _SILENCE_SECONDS
        mark = found
        while mark == found and time.monotonic() < end:
            time.sleep(1.0)
            mark = self._read(QUICK)
        return mark not in (found, {})  # an empty one: it has just ended

    def keep(self, patience: float) -> None:
        """Show that this driver is alive, unless it did a moment ago.

        Raises:
            SearchError: another driver took the study over.
            OSError: the storage does not answer.
        """
        if time.monotonic() < self._next:
            return
        found = self._read(patience)
        if self._beats and found.get("token") != self._token:
            whom = f"process {found.get('pid', '?')} on host {found.get('host', '?')}"
            raise SearchError(f"The study was taken over by {whom}, since this driver had not been heard of.")
        self._beats += 1
        mark = {"pid": os.getpid(), "host": socket.gethostname(), "token": self._token, "beat": self._beats}
        write_bytes(self._path, json.dumps(mark).encode(), patience)
        self._next = time.monotonic() + _PERIOD_SECONDS / 2

    def release(self) -> None:
        """Let others write."""
        with contextlib.suppress(OSError):
            if self._read(QUICK).get("token") == self._token:
                delete(self._path, QUICK)
                if not entries(self._path.parent, QUICK):  # nothing came of it, and nothing else was there
                    delete_folder(self._path.parent, QUICK)

    def _read(self, patience: float) -> dict[str, Any]:
        try:
            return {"pid": "?", "host": "?", **json.loads(read_bytes(self._path, patience))}
        except (FileNotFoundError, ValueError):
            return {}


@contextlib.contextmanager
def claimed(place: Path | None, say: Callable[[str], None]) -> Iterator[Claim | None]:
    """Hold the claim on a study; None where it is on no object storage.

    Raises:
        UsageError: another driver writes it.
    """
    if place is None or not is_remote(place):
        yield None
        return
    claim = Claim(place, say)
    try:
        yield claim
    finally:
        claim.release()


@contextlib.contextmanager
def mirrored(
    folder: Path, place: Path, claim: Claim, warn: Callable[[str], None], fail: Callable[[str], None]
) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Upload a study's working copy as it grows, until the block has ended and the rest is uploaded too.

    Args:
        folder: the working copy.
        place: the study on object storage.
        claim: on it.
        warn: hears once of each outage.
        fail: hears what makes it pointless to go on.

    Yields:
        What is given an action, such as a deletion, to be done once the storage has the record as it is now.

    Raises:
        SearchError: the storage does not take the rest; says where it is.
    """
    mirror = _Mirror(folder, place, claim)
    ended = threading.Event()
    thread = threading.Thread(target=_keep_up, args=(mirror, ended, warn, fail), name="upload", daemon=True)
    thread.start()
    try:
        yield mirror.superfluous.append
    finally:
        ended.set()
        thread.join()
        try:
            mirror.upload(PATIENCE)
        except OSError as error:
            raise SearchError(
                f"The record could not be uploaded: {error}. It is whole on this machine, in {folder}.\n"
                f"Once the storage is back, go on from there, on this machine: {hints.resume(place)}"
            ) from error


def _keep_up(
    mirror: _Mirror, ended: threading.Event, warn: Callable[[str], None], fail: Callable[[str], None]
) -> None:
    """Upload what changed, at a bounded rate, until ``ended``."""
    pause, away = 0.0, False
    while not ended.wait(pause):
        pause = _PERIOD_SECONDS
        try:
            pause = max(pause, mirror.upload(QUICK) / _BYTES_A_SECOND)
            away = False
        except OSError as error:
            if not away:
                warn(f"The record waits for its upload: {error}. The search goes on.")
            away = True
        except SearchError as error:
            fail(str(error))
            return


class _Mirror:
    """What a study on object storage lacks of its working copy."""

    def __init__(self, folder: Path, place: Path, claim: Claim):
        self._folder = folder
        self._place = place
        self._claim = claim
        self._known: dict[Path, tuple[int, int]] = {}
        self.superfluous: list[Callable[[], None]] = []
        """What is to be done after the next upload."""

    def upload(self, patience: float) -> int:
        """Upload what changed and return its size in bytes: first the journal, which the tables must not be ahead of.

        So the journal is read last: it has what the tables read before have.

        Raises:
            OSError: the storage did not take it.
            SearchError: another driver took the study over.
        """
        self._claim.keep(patience)
        due = len(self.superfluous)
        states, contents = {}, {}
        for path in sorted(record_files(self._folder), key=_journal_last):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                status = path.stat()
                states[path] = status.st_mtime_ns, status.st_size
                if self._known.get(path) != states[path]:
                    contents[path] = path.read_bytes()
        for path in sorted(contents, key=_study_last):
            self._claim.keep(patience)
            write_bytes(self._place / path.relative_to(self._folder), contents[path], patience)
            self._known[path] = states[path]
        for _ in range(due):
            self._claim.keep(patience)
            self.superfluous[0]()
            self.superfluous.pop(0)
        return sum(map(len, contents.values()))


def upload(folder: Path, place: Path, names: list[str]) -> None:
    """Copy files of a working copy that were written after its search had ended to the study on object storage."""
    if is_remote(place):
        for name in names:
            write_bytes(place / name, (folder / name).read_bytes())


def _journal_last(path: Path) -> bool:
    return path.name == JOURNAL_FILE


def _study_last(path: Path) -> tuple[bool, bool]:
    """Order of upload: the journal, then the rest; a folder counts as a study once ``study.json`` is there."""
    return path.name == STUDY_FILE, path.name != JOURNAL_FILE
