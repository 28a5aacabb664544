"""One live view in a thread of its own: whatever it does, or fails to do, the search goes on.

A trial is a value that holds all of its reports, so nothing has to be queued: what waits is the newest value of
each trial, and a view that was away is brought up to date by showing it every trial again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vae_tune.config.settings import telling_line
from vae_tune.record.trials import TrialRow

Draw = Callable[[], npt.NDArray[np.uint8] | None]
"""Returns a sheet of samples of the trial's model: (height, width) grey values, or None where it cannot be drawn."""

_RETRY_SECONDS = 15.0
_STUCK_SECONDS = 30.0
_REST = 9
"""A view that keeps up rests this many times as long as it works: the driver has better things to do."""
_PICTURES = 16
"""Trials that wait with a picture at most; a view that is further behind gets none of the others."""


class Logger(Protocol):
    """A live view. All calls come from one thread; they may take their time, and raise."""

    def show(self, row: TrialRow, draw: Draw | None) -> None:
        """Bring the view of a trial up to date; ``row`` may be known already, in parts or in full."""

    def flush(self) -> None:
        """Nothing else waits to be shown at the moment."""

    def close(self, status: str) -> None:
        """The search has ended; ``status`` is that of ``study.json``."""


class Channel:
    """Shows trials in one view, in the background. Of all that goes wrong there it tells once."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Logger],
        warn: Callable[[str], None],
        retry_seconds: float = _RETRY_SECONDS,
        stuck_seconds: float = _STUCK_SECONDS,
    ):
        """Start the thread, which calls ``connect`` first, and again after each failure."""
        self.name = name
        self.progress = 0
        """Trials shown so far; a view that hangs makes none."""
        self._connect = connect
        self._warn = warn
        self._retry_seconds = retry_seconds
        self._stuck_seconds = stuck_seconds
        self._logger: Logger | None = None
        self._rows: dict[int, TrialRow] = {}
        self._waiting: dict[int, tuple[TrialRow, Draw | None]] = {}
        self._changed = threading.Condition()
        self._status = ""
        self._since = 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, row: TrialRow, draw: Draw | None = None) -> None:
        """Show a trial soon; never waits for the view."""
        with self._changed:
            self._rows[row.trial] = row
            self._waiting[row.trial] = (row, draw if len(self._waiting) < _PICTURES else None)
            self._changed.notify()
        if self._since and time.monotonic() - self._since > self._stuck_seconds:
            self._tell(f"no answer for {self._stuck_seconds:.0f} s")

    def end(self, status: str) -> None:
        """Let the thread show what waits, close the view and end; does not wait for it."""
        with self._changed:
            self._status = status
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the thread's end; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Leave a view behind that does not come to its end."""
        self._tell("no answer")

    def _work(self) -> None:
        while (task := self._next()) is not None:
            row, draw = task
            last = bool(self._status)
            try:
                self._show(row, draw)
            except Exception as error:  # whatever a library raises
                self._tell(_cause(error))
                if last:
                    break
                self._come_back(row)
        try:
            if self._logger is not None:
                self._logger.close(self._status)
        except Exception as error:
            self._tell(_cause(error))

    def _next(self) -> tuple[TrialRow, Draw | None] | None:
        """Wait for a trial to show; None at the end."""
        with self._changed:
            self._since = 0.0
            self._changed.wait_for(lambda: self._waiting or self._status)
            if not self._waiting:
                return None
            self._since = time.monotonic()
            return self._waiting.pop(next(iter(self._waiting)))

    def _show(self, row: TrialRow, draw: Draw | None) -> None:
        if self._logger is None:
            self._logger = self._connect()
        start = time.monotonic()
        self._logger.show(row, draw)
        if not self._waiting:
            self._logger.flush()
            self._rest(_REST * (time.monotonic() - start))
        self.progress += 1

    def _come_back(self, failed: TrialRow) -> None:
        """Wait, then show everything anew, the trial that failed last of all."""
        self._rest(self._retry_seconds)
        with self._changed:
            self._logger = None
            pictures = {number: draw for number, (_, draw) in self._waiting.items()}
            order = sorted(self._rows, key=lambda number: (number == failed.trial, number))
            self._waiting = {number: (self._rows[number], pictures.get(number)) for number in order}

    def _rest(self, seconds: float) -> None:
        """Do nothing for a while, or until the search ends."""
        with self._changed:
            self._since = 0.0
            self._changed.wait_for(lambda: self._status, seconds)

    def _tell(self, reason: str) -> None:
        """Warn once in the life of the view."""
        warn, self._warn = self._warn, lambda _: None
        warn(f"{self.name}: {reason}. Training goes on; the view is tried again, and brought up to date by --resume.")


def _cause(error: BaseException) -> str:
    """Return what lies at the bottom of an error, in a line: libraries wrap a refused connection many times."""
    reason = telling_line(error)
    links, seen = [error], set[int]()
    while links:
        link = links.pop()
        seen.add(id(link))
        if isinstance(link, OSError) and link.strerror:
            reason = link.strerror
        elif isinstance(link, TimeoutError):
            reason = "no answer in time"
        elif isinstance(link, ConnectionError):
            reason = telling_line(link)
        links += [below for below in (link.__context__, link.__cause__) if below is not None and id(below) not in seen]
    return reason.rstrip(".")[:200]
