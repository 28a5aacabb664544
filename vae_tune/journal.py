"""The file behind the Optuna study: writing it so that no crash tears it, and keeping other drivers away."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from vae_tune.config import UsageError
from vae_tune.names import LOCK_FILE

_LOOK_SECONDS = 0.5
"""For so long at most, those who look whether a study is being written keep its next driver waiting."""


class Journal(BaseJournalBackend):
    """The log lines of Optuna's journal, in Optuna's own format, written by the one driver that holds the lock.

    It differs from Optuna's file backend in three ways. What belongs together is written at once
    (:meth:`transaction`), so a kill cannot leave half a suggestion or half a report. Lines are not read back from
    the file that they were just written to. And there is no lock per line, which after a crash costs 30 s.
    """

    def __init__(self, path: Path):
        """Open or create the file; a last line that a crash tore is cut off, the rest is never touched.

        Raises:
            UsageError: the file is damaged elsewhere; nothing was changed.
            OSError: it cannot be read or written.
        """
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        try:
            self._logs: list[dict[str, Any]] = [dict(json.loads(line)) for line in content[:whole].splitlines()]
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged: {error}. Nothing was changed.") from error
        if whole < len(content) and self._logs:
            os.truncate(path, whole)
        self._file = path.open("ab", buffering=0)
        self._first = 0
        self._pending: list[dict[str, Any]] = []
        self._depth = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is logged in the block in one piece, at its end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._write()

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open, so that the file lacks what was logged in it."""
        return self._depth > 0

    def holds(self, study_name: str) -> bool:
        """Whether a study of that name was begun in this file."""
        return any(log.get("study_name") == study_name for log in self._logs)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on; those before it are read already and are let go."""
        self._logs = self._logs[log_number_from - self._first :]
        self._first = log_number_from
        return list(self._logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add logs, on disk when this returns or when the transaction ends."""
        self._logs += logs
        self._pending += logs
        if not self._depth:
            self._write()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self) -> None:
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in self._pending]
        if not lines:
            return
        end = os.fstat(self._file.fileno()).st_size
        try:
            content = b"".join(lines)
            if self._file.write(content) < len(content):  # a disk that is almost full takes a part, and says no more
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:  # the disk is full: leave no half a line behind
            os.ftruncate(self._file.fileno(), end)
            raise
        self._pending = []


class ReadOnlyJournal(BaseJournalBackend):
    """A journal that another process or thread may be writing: only whole lines are read, and nothing is written."""

    def __init__(self, path: Path):
        self._file = JournalFileBackend(str(path))

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on."""
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse.

        Raises:
            PermissionError: always.
        """
        raise PermissionError(f"The journal is read-only: {len(logs)} changes were refused.")


class StudyLock:
    """Only one driver writes a study. The lock ends with its process, so a stale one does not exist.

    The file names the holder; what counts is the kernel's lock on it.
    """

    def __init__(self, folder: Path):
        """Take the lock.

        Raises:
            UsageError: another driver holds it.
            OSError: the folder cannot be written.
        """
        path = folder / LOCK_FILE
        self._file = path.open("a+", encoding="utf-8")
        try:
            _lock(self._file)
        except OSError as error:
            self._file.seek(0)
            holder = _holder(self._file.read())
            self._file.close()
            raise UsageError(
                f"The study {folder} is being written by process {holder['pid']} on host {holder['host']}.\n"
                "Wait until it ends, or end it, before resuming."
            ) from error
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        self._file.flush()

    def release(self) -> None:
        """Give the lock back; nothing happens where that is done already."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()


def is_being_written(folder: Path) -> bool:
    """Whether a driver holds the lock of the study in ``folder`` right now."""
    try:
        with (folder / LOCK_FILE).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file: the study was copied from elsewhere
        return False
    return False


def _lock(file: IO[str]) -> None:
    """Take the lock of ``file``; a reader that looks whether it is free holds it for a moment."""
    end = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def _holder(text: str) -> dict[str, Any]:
    try:
        return {"pid": "?", "host": "?", **json.loads(text)}
    except ValueError:
        return {"pid": "?", "host": "?"}
