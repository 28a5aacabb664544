"""The journal file behind the Optuna study: read it, and write it so that no crash tears it."""

from __future__ import annotations

import copy
import errno
import json
import os
import threading
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from vae_tune.config.compat.optuna import share_distributions, trial_id

share_distributions()


class _Extent(NamedTuple):
    """A journal up to some log."""

    logs: int = 0
    bytes: int = 0


class Journal(BaseJournalBackend):
    """The log lines of Optuna's journal, in Optuna's own format, written by the one driver that holds the lock.

    It differs from Optuna's file backend in four ways. It is read-only until :meth:`open`, and only whole lines are
    read: another process may be writing it. A :meth:`transaction` writes what belongs together at once, so that a kill
    cannot leave half a proposal or half a report. Lines are not read back from the file that they were just written
    to. And there is no lock per line, which after a crash costs 30 s.

    What was written survives the end of this process; what is on disk, of which :attr:`on_disk` tells, that of the
    machine too.
    """

    def __init__(self, path: Path):
        self._path = path
        self._end = 0
        """Bytes of the file that were read: up to the end of the last log."""
        self._inode: int | None = None
        """The file that was read; another one at the same path is another journal."""
        self._logs: list[dict[str, Any]] = []
        self._first = 0
        """Number of the first of these logs."""
        self.started: list[datetime | None] = []
        self.ended: list[datetime | None] = []
        """When each trial began and ended, by trial id."""
        self.changed: set[int] = set()
        """The ids of the trials that a log has created or changed; who reads these trials takes them out."""
        self._file: FileIO | None = None
        self._pending: list[dict[str, Any]] = []
        self._depth = 0
        self.logged = 0
        """How many logs there are, with those of a transaction that has not ended."""
        self._written = self._synced = _Extent()
        self._thread: ThreadPoolExecutor | None = None
        """Brings to disk what was written, if the search does not wait for it."""
        self._failure: OSError | None = None
        """Why that failed."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on; those before it are dropped.

        Raises:
            OSError: the file cannot be read, or it was replaced since the last call: by a resume that opened ended
                trials again.
            ValueError, TypeError: it is damaged.
        """
        self._read_new_logs()
        self._logs = self._logs[log_number_from - self._first :]
        self._first = log_number_from
        return list(self._logs)

    def open(self) -> None:
        """Begin to write; the file may be missing. A last line that a crash tore, and blank lines, are cut off.

        The rest is never touched. Optuna reads a journal that ends with a blank line, but none with a log after that.

        Raises:
            OSError: it cannot be read or written.
            ValueError, TypeError: it is damaged; nothing was changed.
        """
        if self._path.exists():
            self._read_new_logs()
            if self._end and self._end < self._path.stat().st_size:
                os.truncate(self._path, self._end)
        self._file = self._path.open("ab", buffering=0)
        self._written = self._synced = _Extent(self.logged, os.fstat(self._file.fileno()).st_size)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is logged in the block at once, at its end.

        Raises:
            OSError: it cannot be written, or what was written before cannot be brought to disk.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._write()

    @contextmanager
    def synced_in_background(self) -> Iterator[None]:
        """Bring to disk in a thread what is written in the block, all of it by the end of the block.

        A disk takes milliseconds for this, however little there is; meanwhile more is written, for which the next time
        suffices. If it fails, the next transaction raises the error.
        """
        try:
            with ThreadPoolExecutor(1, "journal") as self._thread:
                yield
        finally:
            self._thread = None

    def wait(self) -> None:
        """Wait until all that was written is on disk.

        Raises:
            OSError: that failed.
        """
        if self._thread:
            self._thread.submit(self._sync_unless_failed).result()
        self._raise_failure()

    @property
    def is_in_transaction(self) -> bool:
        """Whether the file lacks what was logged in a transaction that has not ended."""
        return self._depth > 0

    @property
    def on_disk(self) -> int:
        """How many logs are on disk."""
        return self._synced.logs

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add logs, written when this returns or when the transaction ends.

        Raises:
            PermissionError: the journal is not open.
        """
        if not self._file:
            raise PermissionError(f"The journal is read-only: {len(logs)} changes were refused.")
        self._add(logs)
        self._pending += logs
        if not self._depth:
            self._write()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _read_new_logs(self) -> None:
        """Read what was written since the last call; once the file is open, only this process writes it."""
        if self._file:
            return
        status = self._path.stat()
        if (status.st_ino, status.st_size) == (self._inode, self._end):
            return
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if self._inode not in (None, inode):
                raise OSError(f"{self._path} was written anew by a resume. Run this again")
            self._inode = inode
            file.seek(self._end)
            logs, end = _parse(file.read())
        self._add(logs)
        self._end += end

    def _add(self, logs: list[dict[str, Any]]) -> None:
        """Keep logs, and the times in those that create a trial or change its state; known times stay."""
        self._logs += logs
        self.logged += len(logs)
        for log in logs:
            started, ended = (
                datetime.fromisoformat(log[name]).astimezone(UTC) if log.get(name) else None
                for name in ("datetime_start", "datetime_complete")
            )
            if "study_id" in log and "datetime_start" in log:
                self.changed.add(len(self.started))
                self.started.append(started)
                self.ended.append(ended)
            elif "trial_id" in log:
                number = log["trial_id"]
                self.changed.add(number)
                self.started[number] = self.started[number] or started
                self.ended[number] = self.ended[number] or ended

    def _write(self) -> None:
        self._raise_failure()
        content = to_lines(self._pending)
        if not content or not self._file:
            return
        before = self._written
        try:
            if self._file.write(content) < len(content):  # an almost full disk takes a part, without an error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._written = _Extent(self.logged, before.bytes + len(content))
            if self._thread:
                self._thread.submit(self._sync_unless_failed)
            else:
                self._sync()
        except OSError:  # the disk is full: leave no half line behind
            self._written = before
            os.ftruncate(self._file.fileno(), before.bytes)
            raise
        self._pending = []

    def _sync(self) -> None:
        """Bring to disk what was written; nothing is left to do where it was after an earlier write."""
        written = self._written
        if self._file and written != self._synced:
            os.fsync(self._file.fileno())
            self._synced = written

    def _sync_unless_failed(self) -> None:
        try:
            if not self._failure:
                self._sync()
        except OSError as error:
            self._failure = error

    def _raise_failure(self) -> None:
        """If what was written could not be brought to disk, delete it and raise the error."""
        if self._failure and self._file:
            os.ftruncate(self._file.fileno(), self._synced.bytes)
            raise self._failure


def to_lines(logs: Iterable[dict[str, Any]]) -> bytes:
    """Return logs as a journal holds them, one per line."""
    return b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


def _parse(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the logs in whole lines, and where the last of them ends; network file systems leave blank lines.

    Raises:
        ValueError, TypeError: a line is not a log entry.
    """
    logs, position, end = [], 0, 0
    for line in content.split(b"\n")[:-1]:
        position += len(line) + 1
        if line.strip():
            logs.append(dict(json.loads(line)))
            end = position
    return logs, end


class UtcStorage(JournalStorage):
    """Optuna's storage on a journal, with the times of trials in UTC, as the journal has them.

    Optuna 5 turns them into local times without a zone, which are ambiguous for an hour at the end of summer time.
    """

    def __init__(self, journal: Journal):
        self.journal = journal
        self._trials: list[FrozenTrial] = []
        """The trials by id, which is their number: a journal holds one study."""
        self._reading = threading.Lock()
        super().__init__(journal)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        return self._in_utc(super().get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in one of ``states``; only those that have changed since the last call are read again."""
        self.get_study_name_from_id(study_id)  # reads new logs
        with self._reading:
            while changed := sorted(self.journal.changed):
                for number in changed:
                    self.journal.changed.discard(number)  # before: another process may change it again meanwhile
                    self._trials[number : number + 1] = [self.get_trial(number)]
            trials = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _in_utc(self, trial: FrozenTrial) -> FrozenTrial:
        number = trial_id(trial)
        trial.datetime_start, trial.datetime_complete = self.journal.started[number], self.journal.ended[number]
        return trial
