"""The lock on a study folder: only one driver writes a study at a time.

The kernel's lock (``flock``) ends with its process, even after ``kill -9``, so it never has to be cleaned up. The
file also names the holder, for messages only.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from vae_tune.config.errors import UsageError
from vae_tune.config.files import is_remote
from vae_tune.config.local_copies import original_address, was_being_written
from vae_tune.config.names import LOCK_FILE, SLURM_JOB
from vae_tune.config.slurm_job import job_id
from vae_tune.config.storage import is_claimed, parse_holder

_PROBE_SECONDS = 0.5
"""Maximum time for which a process that only probes the lock can delay the next driver."""


class StudyLock:
    """The right to write the study in a folder, held until it is released or the process ends."""

    def __init__(self, folder: Path):
        """Take the lock.

        Raises:
            UsageError: another driver holds it, or the file system does not support locks.
            OSError: the folder cannot be written.
        """
        self._file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
        try:
            _lock(self._file, folder)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = parse_holder(self._file.read())
            self._file.close()
            raise UsageError(being_written_message(original_address(folder), holder)) from error
        self._file.truncate(0)
        self._file.write(json.dumps(this_holder()))
        self._file.flush()

    def release(self) -> None:
        """Release the lock, if it is still held."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()


def refuse_without_locks(folder: Path) -> None:
    """Check that files in an existing folder can be locked.

    Raises:
        UsageError: its file system does not support locks.
        OSError: the folder cannot be written.
    """
    with tempfile.TemporaryFile("w", dir=folder) as file:
        _lock(file, folder)


def is_being_written(study: Path) -> bool:
    """Return whether a driver is writing a study; of a copy, whether one was when it was made.

    Raises:
        OSError: the study is on object storage, which does not answer.
    """
    if is_remote(study):
        return is_claimed(study)
    try:
        with (study / LOCK_FILE).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file: the study was copied from elsewhere; or no locks at all: no driver writes there
        return was_being_written(study)
    return False


def being_written_message(study: str, holder: Mapping[str, Any]) -> str:
    """Return the message that refuses a second driver of a study; ``holder`` is the first."""
    end = f" (scancel {holder[SLURM_JOB]})" if SLURM_JOB in holder else ""
    return (
        f"The study {study} is being written by {holder_name(holder)}.\n"
        f"Wait until it ends, or end it{end}, before resuming."
    )


def this_holder() -> dict[str, Any]:
    """Return what a lock or a claim says of this process: its pid, its host, and its Slurm job if it has one."""
    job = job_id(os.environ)
    return {"pid": os.getpid(), "host": socket.gethostname(), **({SLURM_JOB: job} if job else {})}


def lock_holder(study: Path) -> dict[str, Any]:
    """Return who wrote its name into the lock file of a study last; empty if nobody did."""
    try:
        return parse_holder((study / LOCK_FILE).read_bytes())
    except OSError:
        return {}


def holder_name(holder: Mapping[str, Any]) -> str:
    """Return the name of the holder of a lock or a claim for a message."""
    process = f"process {holder.get('pid', '?')} on host {holder.get('host', '?')}"
    return f"Slurm job {holder[SLURM_JOB]}, {process}" if SLURM_JOB in holder else process


def _lock(file: IO[str], folder: Path) -> None:
    """Lock a file; try for a moment, since a process that probes the lock holds it briefly."""
    end = time.monotonic() + _PROBE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        except OSError as error:
            raise UsageError(
                f"{folder} is on a file system without file locks (flock: {error.strerror}), so nothing would keep a "
                "second driver from writing the same study.\n"
                "Choose a --results-dir on another file system, or mount this one with locks (NFS: with lockd or "
                "-o local_lock=flock; Lustre: -o flock)."
            ) from error
        time.sleep(0.01)
