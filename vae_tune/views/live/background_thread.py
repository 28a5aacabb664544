"""Run one live view in a thread of its own, so that nothing it does can hold up or break the search.

No queue of events is needed: a trial is a value that holds all of its reports. Only the newest value of each trial
waits, and a view that was away catches up by being shown every trial again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vae_tune.config.errors import telling_line
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.view import DrawSamples, LiveView

_IDLE_PER_WORK = 9  # a view that keeps up pauses this many times as long as it worked, to leave the CPU to the search
_MAX_SAMPLES = 16  # trials that wait with samples at most; a view that is further behind gets the others without


class BackgroundView:
    """Shows trials in a live view, in a background thread; warns once if the view fails."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], LiveView],
        warn: Callable[[str], None],
        retry_seconds: float = 15.0,
        stuck_seconds: float = 30.0,
    ):
        """Start the thread, which calls ``connect`` first, and again after each failure."""
        self.name = name
        self.progress = 0
        """Trials shown so far; it stands still if the view hangs."""
        self._connect = connect
        self._warn = warn
        self._retry_seconds = retry_seconds
        self._stuck_seconds = stuck_seconds
        self._view: LiveView | None = None
        self._rows: dict[int, TrialRow] = {}
        self._waiting: dict[int, tuple[TrialRow, DrawSamples | None]] = {}
        self._changed = threading.Condition()
        self._status = ""
        self._busy_since = 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, row: TrialRow, draw_samples: DrawSamples | None = None) -> None:
        """Have a trial shown soon; never wait for the view."""
        with self._changed:
            self._rows[row.trial] = row
            self._waiting[row.trial] = (row, draw_samples if len(self._waiting) < _MAX_SAMPLES else None)
            self._changed.notify()
        if self._busy_since and time.monotonic() - self._busy_since > self._stuck_seconds:
            self._warn_once(f"no answer for {self._stuck_seconds:.0f} s")

    def close(self, status: str) -> None:
        """Let the thread show the trials that wait, close the view and end; do not wait for it."""
        with self._changed:
            self._status = status
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the end of the thread; return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Warn that the view has not ended, and leave it behind."""
        self._warn_once("no answer")

    def _work(self) -> None:
        while (task := self._next()) is not None:
            row, draw_samples = task
            closing = bool(self._status)
            try:
                self._show(row, draw_samples)
            except Exception as error:  # whatever a library raises
                self._warn_once(_root_cause(error))
                if closing:
                    break
                self._reset(row)
        try:
            if self._view is not None:
                self._view.close(self._status)
        except Exception as error:
            self._warn_once(_root_cause(error))

    def _next(self) -> tuple[TrialRow, DrawSamples | None] | None:
        """Wait for a trial to show; return None at the end."""
        with self._changed:
            self._busy_since = 0.0
            self._changed.wait_for(lambda: self._waiting or self._status)
            if not self._waiting:
                return None
            self._busy_since = time.monotonic()
            return self._waiting.pop(next(iter(self._waiting)))

    def _show(self, row: TrialRow, draw_samples: DrawSamples | None) -> None:
        if self._view is None:
            self._view = self._connect()
        start = time.monotonic()
        self._view.show(row, draw_samples)
        if not self._waiting:
            self._view.flush()
            self._pause(_IDLE_PER_WORK * (time.monotonic() - start))
        self.progress += 1

    def _reset(self, failed: TrialRow) -> None:
        """Pause, drop the view, and have every trial shown again, the one that failed last."""
        self._pause(self._retry_seconds)
        with self._changed:
            self._view = None
            drawings = {number: draw_samples for number, (_, draw_samples) in self._waiting.items()}
            order = sorted(self._rows, key=lambda number: (number == failed.trial, number))
            self._waiting = {number: (self._rows[number], drawings.get(number)) for number in order}

    def _pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the search."""
        with self._changed:
            self._busy_since = 0.0
            self._changed.wait_for(lambda: self._status, seconds)

    def _warn_once(self, reason: str) -> None:
        warn, self._warn = self._warn, lambda _: None
        warn(f"{self.name}: {reason}. Training continues; the view is retried, and --resume brings it up to date.")


def _root_cause(error: BaseException) -> str:
    """Return one line on the error at the bottom of a chain: libraries wrap a refused connection many times."""
    reason = telling_line(error)
    chain, visited = [error], set[int]()
    while chain:
        link = chain.pop()
        visited.add(id(link))
        if isinstance(link, OSError) and link.strerror:
            reason = link.strerror
        elif isinstance(link, TimeoutError):
            reason = "no answer in time"
        elif isinstance(link, ConnectionError):
            reason = telling_line(link)
        causes = (link.__context__, link.__cause__)
        chain += [cause for cause in causes if cause is not None and id(cause) not in visited]
    return reason.rstrip(".")[:200]
