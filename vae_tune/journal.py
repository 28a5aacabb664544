"""The file behind the Optuna study: opening it, mending it after a crash, and keeping other drivers away."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from vae_tune.config import UsageError
from vae_tune.names import LOCK_FILE


def open_journal(path: Path) -> JournalStorage:
    """Open the Optuna journal at ``path``; the caller holds the study's lock.

    Optuna's own lock around each line is left out: there is one writer, and after a crash that lock costs 30 s.
    """
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_NoLock()))  # type: ignore[arg-type]


def mend_journal(path: Path) -> int:
    """Cut off a last line that a crash tore and return how many bytes went; the rest is never touched."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return len(content) - whole


class StudyLock:
    """Only one driver writes a study. The lock ends with its process, so a stale one does not exist.

    The file names the holder; what counts is the kernel's lock on it.
    """

    def __init__(self, folder: Path):
        """Take the lock.

        Raises:
            UsageError: another driver holds it.

        """
        path = folder / LOCK_FILE
        self._file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        """Give the lock back."""
        self._file.truncate(0)
        self._file.close()


def _holder(text: str) -> dict[str, Any]:
    try:
        return {"pid": "?", "host": "?", **json.loads(text)}
    except ValueError:
        return {"pid": "?", "host": "?"}


class _NoLock:
    """A lock that is always free."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
