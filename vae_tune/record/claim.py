"""The claim on a study on object storage: only the driver that holds it writes the study.

The claim is an object that names the driver and changes as long as the driver lives. If it has not changed for a
while, another driver may take it over; a driver that finds its own claim replaced writes nothing more.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vae_tune.config import storage
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, is_remote
from vae_tune.config.local_copies import working_copy
from vae_tune.config.names import LOCK_FILE
from vae_tune.config.object_stores import Changed
from vae_tune.record.lock import being_written_message, holder_name, is_being_written, this_holder

_BEAT_SECONDS = 2.5
"""Minimum time between two changes of the claim."""


@contextlib.contextmanager
def claimed(study: Path, say: Callable[[str], None]) -> Iterator[Claim | None]:
    """Hold the claim on a study; None if it is not on object storage.

    Raises:
        UsageError: another driver is writing it.
    """
    if not is_remote(study):
        yield None
        return
    claim = Claim(study, say)
    try:
        yield claim
    finally:
        claim.release()


class Claim:
    """The right to write a study on object storage, as long as it is kept alive."""

    def __init__(self, study: Path, say: Callable[[str], None]):
        """Take the claim; if another driver left one, wait for a while whether it changes, and ``say`` so.

        From now on this process writes the study only under this claim: see
        :func:`vae_tune.config.storage.set_claim`.

        Raises:
            UsageError: another driver is writing the study, or it cannot be written.
        """
        self._study = study
        self._path = study / LOCK_FILE
        self._token = uuid.uuid4().hex
        self._holder = this_holder()  # once: the name of a host may change with its network
        self._beats = 0
        self._next_beat = 0.0
        try:
            holder, self._version = self._look(storage.QUICK)
            if holder and not self._was_killed(holder) and self._is_alive(holder, say):
                raise UsageError(being_written_message(address(study), holder))
            try:
                self.keep_alive(storage.QUICK)
                self._check_conditions(say)
            except storage.ClaimLost as error:  # two drivers found it free at the same moment
                raise UsageError(being_written_message(address(study), self._look(storage.QUICK)[0])) from error
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{address(study)} cannot be written: {storage.reason(error)}.\n"
                "Fix that (bucket, credentials, AWS_ENDPOINT_URL), or choose another --results-dir."
            ) from error
        storage.set_claim(study, self._token)

    def keep_alive(self, patience: float) -> None:
        """Change the claim to show that this driver is alive, unless it did so a moment ago.

        Raises:
            ClaimLost: another driver took the study over.
            StorageError: the store does not answer.
        """
        if time.monotonic() < self._next_beat:
            return
        self._beats += 1
        content = {**self._holder, "token": self._token, "beat": self._beats}
        try:
            self._version = storage.replace(self._path, json.dumps(content).encode(), self._version, patience)
        except Changed as error:
            holder, current = self._look(patience)
            if holder.get("token") != self._token:
                raise storage.ClaimLost(storage.takeover_message(self._study, holder)) from error
            self._version = current  # this driver wrote it, in an attempt whose answer was lost
        self._next_beat = time.monotonic() + _BEAT_SECONDS

    def release(self) -> None:
        """Let others write."""
        storage.set_claim(self._study, None)
        with contextlib.suppress(OSError):
            holder, current = self._look(storage.QUICK)
            if current is None or holder.get("token") != self._token:
                return
            storage.remove(self._path, current, storage.QUICK)
            if not any(storage.list_folder(self._study)):  # the search has come to nothing, and nothing else was there
                storage.delete_folder(self._study, storage.QUICK)

    def _look(self, patience: float) -> tuple[dict[str, Any], str | None]:
        """Return the holder of the claim, and the claim's version from just before."""
        current = storage.version(self._path, patience)
        try:
            return storage.parse_holder(storage.read_bytes(self._path, patience)), current
        except FileNotFoundError:
            return {}, None

    def _was_killed(self, holder: Mapping[str, Any]) -> bool:
        """Return whether a driver ran on this machine and has ended, so that there is no need to wait for it."""
        if holder["host"] != socket.gethostname() or is_being_written(working_copy(self._study)):
            return False
        return holder["pid"] == os.getpid() or not _runs_here(holder["pid"])

    def _is_alive(self, holder: Mapping[str, Any], say: Callable[[str], None]) -> bool:
        """Return whether the holder changes its claim within SILENCE seconds."""
        say(f"Checking whether {holder_name(holder)} is still writing this study ...")
        end = time.monotonic() + storage.SILENCE
        latest = holder
        while latest == holder and time.monotonic() < end:
            time.sleep(1.0)
            latest, self._version = self._look(storage.QUICK)
        return latest not in (holder, {})  # empty: it has just ended

    def _check_conditions(self, say: Callable[[str], None]) -> None:
        """Warn if the store accepts a write that it must refuse: then nothing reliably keeps two drivers apart."""
        try:
            self._version = storage.replace(self._path, storage.read_bytes(self._path), None, storage.QUICK)
        except Changed:
            return
        say(
            f"The storage of {address(self._study)} ignores the conditions of a write (If-None-Match): make sure "
            "yourself that no other driver writes this study."
        )


def _runs_here(pid: Any) -> bool:
    """Return whether a process with that id runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
