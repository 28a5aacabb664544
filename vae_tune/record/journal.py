"""The journal file behind the Optuna study: read it, and write it so that no crash tears it."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from vae_tune.config.compat.optuna import trial_id
from vae_tune.config.local_copies import original_address
from vae_tune.config.settings import UsageError


class Journal(BaseJournalBackend):
    """The log lines of Optuna's journal, in Optuna's own format, written by the one driver that holds the lock.

    It differs from Optuna's file backend in three ways. What belongs together is written at once
    (:meth:`transaction`), so a kill cannot leave half a suggestion or half a report. Lines are not read back from
    the file that they were just written to. And there is no lock per line, which after a crash costs 30 s.
    """

    def __init__(self, path: Path):
        """Open or create the file; a last line that a crash tore, and blank lines before it, are cut off.

        The rest is never touched. Optuna reads a journal that ends with a blank line, but none with a log after that.

        Raises:
            UsageError: the file is damaged elsewhere; nothing was changed.
            OSError: it cannot be read or written.
        """
        content = path.read_bytes() if path.exists() else b""
        try:
            self._logs, end = _parse(content)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{original_address(path)} is damaged: {error}. Nothing was changed.") from error
        if end < len(content) and self._logs:
            os.truncate(path, end)
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
        self._path = path
        self._read = 0
        """Bytes of the file."""
        self._logs: list[dict[str, Any]] = []
        self._first = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on; those before it are read already and are let go.

        Raises:
            OSError: the file cannot be read.
            ValueError, TypeError: it is damaged.
        """
        with self._path.open("rb") as file:
            file.seek(self._read)
            logs, end = _parse(file.read())
        self._read += end
        self._logs = [*self._logs, *logs][log_number_from - self._first :]
        self._first = log_number_from
        return list(self._logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse.

        Raises:
            PermissionError: always.
        """
        raise PermissionError(f"The journal is read-only: {len(logs)} changes were refused.")


def _parse(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the logs in whole lines, and where the last of them ends; file systems of networks leave blank lines.

    Raises:
        ValueError, TypeError: a line is no log.
    """
    logs, position, end = [], 0, 0
    for line in content.split(b"\n")[:-1]:
        position += len(line) + 1
        if line.strip():
            logs.append(dict(json.loads(line)))
            end = position
    return logs, end


class UtcStorage(JournalStorage):
    """Optuna's storage on a journal, whose trials have their moments in UTC, as the journal has them.

    Optuna 5 turns them into local times without a zone. At the end of summer time these repeat an hour, and nobody can
    tell which of the two was meant.
    """

    def __init__(self, journal: BaseJournalBackend):
        self._moments = _Moments(journal)
        self._shown: dict[int, tuple[FrozenTrial, FrozenTrial]] = {}
        """By id: a trial as Optuna has it, which replaces it at every change, and as it is shown."""
        super().__init__(self._moments)

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
        known, shown = self._shown.get(number, (None, trial))
        if known is not trial:
            shown = copy.copy(trial)
            shown.datetime_start = self._moments.started[number]
            shown.datetime_complete = self._moments.ended[number]
            self._shown[number] = trial, shown
        return shown


class _Moments(BaseJournalBackend):
    """Passes the logs of a journal on, and keeps when each trial began and ended, by its id."""

    def __init__(self, journal: BaseJournalBackend):
        self._journal = journal
        self._read = 0
        """Logs."""
        self.started: list[datetime | None] = []
        self.ended: list[datetime | None] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from a number on."""
        logs = list(self._journal.read_logs(log_number_from))
        for log in logs[self._read - log_number_from :]:  # Optuna asks for those again that follow one it refuses
            self._note(log)
        self._read = log_number_from + len(logs)
        return logs

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add logs."""
        self._journal.append_logs(logs)

    def _note(self, log: Mapping[str, Any]) -> None:
        """Take the moments from a log that creates a trial, or changes its state; what is known already stays."""
        started, ended = (_moment(log.get(name)) for name in ("datetime_start", "datetime_complete"))
        if "study_id" in log and "datetime_start" in log:
            self.started.append(started)
            self.ended.append(ended)
        elif "trial_id" in log:
            number = log["trial_id"]
            self.started[number] = self.started[number] or started
            self.ended[number] = self.ended[number] or ended


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
