"""The claim on a study on object storage: one driver writes it.

An object names the driver and changes while it lives. One that has not changed for a while was left behind, and
another driver may take the claim over; a driver that finds its own replaced writes nothing more.
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

from vae_tune.config.files import address, is_remote
from vae_tune.config.names import LOCK_FILE
from vae_tune.config.settings import UsageError
from vae_tune.config.storage import (
    QUICK,
    SILENCE,
    ClaimLost,
    delete_folder,
    entries,
    guard,
    holder,
    read_bytes,
    reason,
    remove,
    replace,
    taken_over,
    version,
)
from vae_tune.config.stores import Changed
from vae_tune.record.copies import working_copy
from vae_tune.record.journal import is_being_written

_BEAT_SECONDS = 2.5
"""Time between two changes of the object at least."""


class Claim:
    """The right to write a study on object storage: an object there that names the driver, and changes as it lives."""

    def __init__(self, place: Path, say: Callable[[str], None]):
        """Take it; where another driver left its mark, wait whether that changes, and ``say`` so.

        From now on this process writes the study only while the claim is its own: see
        :func:`vae_tune.config.storage.guard`.

        Raises:
            UsageError: another driver writes the study.
        """
        self._place = place
        self._path = place / LOCK_FILE
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._next = 0.0
        try:
            found, self._version = self._look(QUICK)
            if found and not self._was_killed(found) and self._changes(found, say):
                raise UsageError(_is_written(place, found))
            try:
                self.keep(QUICK)
                self._prove_conditions(say)
            except ClaimLost as error:  # two drivers have found it free at the same moment
                raise UsageError(_is_written(place, self._look(QUICK)[0])) from error
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{address(place)} cannot be written: {reason(error)}.\n"
                "Mend that (bucket, credentials, AWS_ENDPOINT_URL), or take another --results-dir."
            ) from error
        guard(place, self._token)

    def _was_killed(self, found: Mapping[str, Any]) -> bool:
        """Whether the driver of a mark was on this machine and is no more: no need to wait for it."""
        mine = found["host"] == socket.gethostname() and not is_being_written(working_copy(self._place))
        return mine and (found["pid"] == os.getpid() or not _is_alive(found["pid"]))

    def _changes(self, found: Mapping[str, Any], say: Callable[[str], None]) -> bool:
        """Whether the driver that left the mark ``found`` leaves another: it is alive."""
        say(f"Checking whether process {found['pid']} on host {found['host']} is still writing this study ...")
        end = time.monotonic() + SILENCE
        mark = found
        while mark == found and time.monotonic() < end:
            time.sleep(1.0)
            mark, self._version = self._look(QUICK)
        return mark not in (found, {})  # an empty one: it has just ended

    def keep(self, patience: float) -> None:
        """Show that this driver is alive, unless it did a moment ago.

        Raises:
            ClaimLost: another driver took the study over.
            OSError: the storage does not answer.
        """
        if time.monotonic() < self._next:
            return
        self._beats += 1
        self._write(self._version, patience)
        self._next = time.monotonic() + _BEAT_SECONDS

    def _write(self, expected: str | None, patience: float) -> None:
        mark = {"pid": os.getpid(), "host": socket.gethostname(), "token": self._token, "beat": self._beats}
        try:
            self._version = replace(self._path, json.dumps(mark).encode(), expected, patience)
        except Changed as error:
            found, its_version = self._look(patience)
            if found.get("token") != self._token:
                raise ClaimLost(taken_over(self._place, found)) from error
            self._version = its_version  # this driver wrote it, in a try whose answer was lost

    def _prove_conditions(self, say: Callable[[str], None]) -> None:
        """Tell where a store takes a write that it has to refuse: then nothing keeps two drivers apart for sure."""
        try:
            self._version = replace(self._path, read_bytes(self._path, QUICK), None, QUICK)
        except Changed:
            return
        say(
            f"The storage of {address(self._place)} ignores the conditions of a write (If-None-Match): see to it "
            "yourself that no other driver writes this study."
        )

    def release(self) -> None:
        """Let others write."""
        guard(self._place, None)
        with contextlib.suppress(OSError):
            found, its_version = self._look(QUICK)
            if found.get("token") != self._token:
                return
            remove(self._path, its_version, QUICK)
            if not entries(self._place, QUICK):  # nothing came of it, and nothing else was there
                delete_folder(self._place, QUICK)

    def _look(self, patience: float) -> tuple[dict[str, Any], str | None]:
        """Return the mark that is there, and the version of the object, of a moment before."""
        found = version(self._path, patience)
        try:
            return holder(read_bytes(self._path, patience)), found
        except FileNotFoundError:
            return {}, None


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


def _is_written(place: Path, found: Mapping[str, Any]) -> str:
    whom = f"process {found.get('pid', '?')} on host {found.get('host', '?')}"
    return f"The study {address(place)} is being written by {whom}.\nWait until it ends, or end it, before resuming."


def _is_alive(pid: Any) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
