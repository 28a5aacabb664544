"""A study on object storage while a search writes it: a working copy on this machine, uploaded as it grows.

The driver writes the working copy as it writes any study; a thread uploads what changed, whole files, at a bounded
rate. Checkpoints do not pass through here: workers write them to the storage themselves. What makes checkpoints
superfluous is uploaded before they are deleted, so another machine finds record and checkpoints that fit together.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vae_tune.config.files import address
from vae_tune.config.names import JOURNAL_FILE, SEARCH, STUDY_FILE
from vae_tune.config.settings import SearchError, UsageError
from vae_tune.config.storage import PATIENCE, QUICK, exists, names_below, read_bytes, reason, write_bytes
from vae_tune.record.claim import Claim
from vae_tune.record.copies import download, mark_copy, record_files, uploaded, working_copy
from vae_tune.record.journal import is_being_written
from vae_tune.record.metadata import resume_command

_PERIOD_SECONDS = 5.0
"""Time between two uploads at least."""
_BYTES_A_SECOND = 2e6
"""Bound on what is uploaded on average, whatever the size of the record."""


def renew(place: Path) -> Path:
    """Bring the working copy of a study up to date, and return it: it has what the storage has, and nothing else.

    A copy that went on from what the storage holds stays: a kill or an outage kept its newest part from the storage.
    It loses only what it knows to have been there, and is no more.

    Raises:
        UsageError: there is no study at ``place``, or the storage does not answer.
    """
    folder = working_copy(place)
    if is_being_written(folder):
        return folder
    try:
        there = set(names_below(place))
        gone = uploaded(folder) - there
        if not _goes_on_from(folder, place, there, gone):
            download(place, folder)
            return folder
    except OSError as error:
        raise UsageError(f"{address(place)} cannot be read: {reason(error)}.") from error
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    mark_copy(folder, place, uploaded(folder) - gone)
    return folder


def _goes_on_from(folder: Path, place: Path, there: set[str], gone: set[str]) -> bool:
    """Whether the copy's journals hold lines that the storage lacks, and none that contradict it.

    Args:
        folder: the working copy.
        place: the study on object storage.
        there: the names of its files.
        gone: the names of those that are there no more.
    """
    if STUDY_FILE in gone or not (folder / STUDY_FILE).exists():
        return False
    more = False
    for path in folder.rglob(JOURNAL_FILE):
        name = path.relative_to(folder).as_posix()
        if name in gone:
            continue
        stored = read_bytes(place / name) if name in there else b""
        content = path.read_bytes()
        if not content.startswith(stored):
            return False
        more = more or len(content) > len(stored)
    return more


def forget(place: Path) -> None:
    """Delete the working copy of a study that is on the storage no more.

    Raises:
        OSError: the storage does not answer.
    """
    folder = working_copy(place)
    if STUDY_FILE in uploaded(folder) and not is_being_written(folder) and not exists(place / STUDY_FILE):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mirrored(
    folder: Path,
    place: Path,
    claim: Claim,
    warn: Callable[[str], None],
    fail: Callable[[str], None],
    kind: str = SEARCH,
) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Upload a study's working copy as it grows, until the block has ended and the rest is uploaded too.

    Args:
        folder: the working copy.
        place: the study on object storage.
        claim: on it.
        warn: hears once of each outage.
        fail: hears what makes it pointless to go on.
        kind: of the study: see :data:`vae_tune.config.names.KINDS`.

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
                f"Once the storage is back, go on from there, on this machine: {resume_command(kind, place)}"
            ) from error


def _keep_up(
    mirror: _Mirror, ended: threading.Event, warn: Callable[[str], None], fail: Callable[[str], None]
) -> None:
    """Keep the claim, and upload what changed at a bounded rate, until ``ended``."""
    due, away = 0.0, False
    while not ended.wait(_PERIOD_SECONDS if due or away else 0):
        try:
            mirror.claim.keep(QUICK)
            if time.monotonic() >= due:
                size = mirror.upload(QUICK)
                due = time.monotonic() + size / _BYTES_A_SECOND
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
        self.claim = claim
        self._known: dict[Path, tuple[int, int]] = {}
        self._uploaded = uploaded(folder)
        self.superfluous: list[Callable[[], None]] = []
        """What is to be done after the next upload."""

    def upload(self, patience: float) -> int:
        """Upload what changed and return its size in bytes: first the journal, which the tables must not be ahead of.

        So the journal is read last: it has what the tables read before have.

        Raises:
            OSError: the storage did not take it.
            ClaimLost: another driver took the study over.
        """
        self.claim.keep(patience)
        due = len(self.superfluous)
        states, contents = {}, {}
        for path in sorted(record_files(self._folder), key=_journal_last):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                status = path.stat()
                states[path] = status.st_mtime_ns, status.st_size
                if self._known.get(path) != states[path]:
                    contents[path] = path.read_bytes()
        for path in sorted(contents, key=_study_last):
            self.claim.keep(patience)
            write_bytes(self._place / path.relative_to(self._folder), contents[path], patience)
            self._known[path] = states[path]
        self._note(path.relative_to(self._folder).as_posix() for path in states)
        for _ in range(due):
            self.claim.keep(patience)
            self.superfluous[0]()
            self.superfluous.pop(0)
        return sum(map(len, contents.values()))

    def _note(self, names: Iterable[str]) -> None:
        """Note what the storage has: what it has no more when the copy is renewed was deleted there."""
        names = set(names)
        if not names <= self._uploaded:
            self._uploaded |= names
            mark_copy(self._folder, self._place, self._uploaded)


def _journal_last(path: Path) -> bool:
    return path.name == JOURNAL_FILE


def _study_last(path: Path) -> tuple[bool, bool]:
    """Order of upload: the journal, then the rest; a folder counts as a study once ``study.json`` is there."""
    return path.name == STUDY_FILE, path.name != JOURNAL_FILE
