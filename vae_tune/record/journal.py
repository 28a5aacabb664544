"""The journal file behind the Optuna study: read it, and write it so that no crash tears it."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from vae_tune.config.compat.optuna import trial_id


class Journal(BaseJournalBackend):
    """The log lines of Optuna's journal, in Optuna's own format, written by the one driver that holds the lock.

    It differs from Optuna's file backend in four ways. It is read-only until :meth:`open`, and only whole lines are
    read: another process may be writing it. A :meth:`transaction` writes what belongs together at once, so that a kill
    cannot leave half a proposal or half a report. Lines are not read back from the file that they were just written
    to. And there is no lock per line, which after a crash costs 30 s.
    """

    def __init__(self, path: Path):
        self._path = path
        self._end = 0
        """Bytes of the file that were read: up to the end of the last log."""
        self._logs: list[dict[str, Any]] = []
        self._first = 0
        """Number of the first of these logs."""
        self.started: list[datetime | None] = []
        self.ended: list[datetime | None] = []
        """When each trial began and ended, by trial id."""
        self._file: FileIO | None = None
        self._pending: list[dict[str, Any]] = []
        self._depth = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on; those before it are dropped.

        Raises:
            OSError: the file cannot be read.
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

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is logged in the block at once, at its end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._write()

    @property
    def is_in_transaction(self) -> bool:
        """Whether the file lacks what was logged in a transaction that has not ended."""
        return self._depth > 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add logs, on disk when this returns or when the transaction ends.

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
        if self._file or self._path.stat().st_size == self._end:
            return
        with self._path.open("rb") as file:
            file.seek(self._end)
            logs, end = _parse(file.read())
        self._add(logs)
        self._end += end

    def _add(self, logs: list[dict[str, Any]]) -> None:
        """Keep logs, and the times in those that create a trial or change its state; known times stay."""
        self._logs += logs
        for log in logs:
            started, ended = (
                datetime.fromisoformat(log[name]).astimezone(UTC) if log.get(name) else None
                for name in ("datetime_start", "datetime_complete")
            )
            if "study_id" in log and "datetime_start" in log:
                self.started.append(started)
                self.ended.append(ended)
            elif "trial_id" in log:
                number = log["trial_id"]
                self.started[number] = self.started[number] or started
                self.ended[number] = self.ended[number] or ended

    def _write(self) -> None:
        content = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in self._pending)
        if not content or not self._file:
            return
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(content) < len(content):  # an almost full disk takes a part, without an error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:  # the disk is full: leave no half line behind
            os.ftruncate(self._file.fileno(), end)
            raise
        self._pending = []


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
        super().__init__(journal)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        return self._in_utc(super().get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in one of ``states``."""
        trials = [self._in_utc(trial) for trial in super().get_all_trials(study_id, deepcopy=False, states=states)]
        return copy.deepcopy(trials) if deepcopy else trials

    def _in_utc(self, trial: FrozenTrial) -> FrozenTrial:
        number = trial_id(trial)
        trial.datetime_start, trial.datetime_complete = self.journal.started[number], self.journal.ended[number]
        return trial
