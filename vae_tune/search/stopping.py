"""When a search ends before its last trial: a signal, a time budget, a loss that is good enough, an error.

An unfinished trial stays RUNNING in the study and goes on from its checkpoint when the search is resumed.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from vae_tune.cluster.pause_signal import HeldPause
from vae_tune.config.names import (
    COMPLETE,
    EPOCH_BUDGET,
    EVALUATION_SECONDS,
    FAILED,
    INTERRUPTED,
    PAUSED,
    SECONDS,
    TARGET_LOSS,
    TIME_BUDGET,
)
from vae_tune.config.settings import SearchConfig
from vae_tune.record.trials import TrialRow

_MARGIN = 1.25
"""An epoch may take this much longer than the one before it."""
_CLOSING_SECONDS = 8.0
"""Reserved for the report and for ending Ray, besides two evaluations (winner and reference) as long as measured."""
_PAUSE_SECONDS = 60.0
"""Time for the trials to save themselves at a pause; the epochs of those that have not are lost."""


@dataclass(frozen=True)
class Trainings:
    """Full trainings after a search, on its slots: as many side by side as there are slots."""

    count: int = 0
    epochs: int = 0


class Stopping:
    """Knows whether the search should end, and why."""

    def __init__(
        self,
        time_budget: float | None = None,
        target_loss: float | None = None,
        max_total_epochs: int | None = None,
    ):
        """Start the clock.

        Args:
            time_budget: seconds from now until everything has ended, the final evaluation included.
            target_loss: the loss that ranks trials, of a COMPLETE trial that is good enough.
            max_total_epochs: epochs of all trials together after which the search ends.
        """
        self.reason = ""
        self.error = ""
        """The error that ended the search, if one did."""
        self.handles_signals = False
        """Whether a block of :func:`interruptible` turns signals into an orderly end now."""
        self.follow_up = Trainings()
        """Trainings that the budget must leave time for: as many rounds of them as half of the budget holds."""
        self.slots = 1
        """Trainings that run side by side."""
        self.warn: Callable[[str], None] = lambda _: None
        """Called when not all of ``follow_up`` fits, and when a signal was received."""
        self._deadline = None if time_budget is None else time.monotonic() + time_budget
        self._most_for_follow_up = math.inf if time_budget is None else time_budget / 2
        self._warned = ""
        self._target_loss = target_loss
        self._max_total_epochs = math.inf if max_total_epochs is None else max_total_epochs
        self._epochs: dict[int, int] = {}
        """Epochs of each trial that :meth:`listen` was told of."""
        self._total_epochs = 0
        self._at_once = False
        self._pause_deadline = math.inf
        self._longest_epoch = self._longest_evaluation = self._start_seconds = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Start to measure how long trials take to start: until the first epoch begins."""
        self._began = time.monotonic()

    def after_report(self, result: Mapping[str, Any]) -> bool:
        """Learn durations from a trial's report; return whether it is too late for the trial's next epoch."""
        seconds = result.get(SECONDS, 0.0)
        if self._began is not None:
            self._start_seconds, self._began = max(0.0, time.monotonic() - self._began - seconds), None
        self._longest_evaluation = max(self._longest_evaluation, result.get(EVALUATION_SECONDS, 0.0))
        self._learn(seconds)
        return bool(self.reason) or self._is_too_late(seconds)

    def stop_all(self) -> bool:
        """Return whether to end everything now, epochs in flight included."""
        if self._deadline is not None and time.monotonic() > self._deadline - self.closing_seconds:
            self.request(TIME_BUDGET, at_once=True)
        return self._at_once or time.monotonic() > self._pause_deadline

    def refuses_new_trials(self) -> bool:
        """Return whether it is too late for the first epoch of another trial."""
        if not self.reason and self._is_too_late(self._longest_epoch):
            self.request(TIME_BUDGET)
        return bool(self.reason)

    def listen(self, row: TrialRow) -> None:
        """Learn how long the epochs of a trial took; end the search when a COMPLETE one reaches the target.

        End it too when the trials have trained as many epochs as they may.
        """
        self._total_epochs += row.epochs - self._epochs.get(row.trial, 0)
        self._epochs[row.trial] = row.epochs
        if self._total_epochs >= self._max_total_epochs:
            self.request(EPOCH_BUDGET)
        self._learn(max((report[SECONDS] for report in row.reports), default=0.0))
        if self._target_loss is not None and row.state == COMPLETE and (row.loss or 0) <= self._target_loss:
            self.request(TARGET_LOSS)

    def fail(self, error: str) -> None:
        """End the search at once: what it would go on to compute would be lost."""
        self.error = self.error or error
        self.request(FAILED, at_once=True)

    def pause(self) -> None:
        """End the search soon: the trials save themselves in the middle of their epochs."""
        self.request(PAUSED)
        self._pause_deadline = min(self._pause_deadline, time.monotonic() + _PAUSE_SECONDS)

    def interrupt(self) -> None:
        """End the search at once, as a person or the system asks."""
        self.request(INTERRUPTED, at_once=True)

    @property
    def was_asked(self) -> bool:
        """Whether a person or the system ended the search or paused it: it does nothing more than close the record."""
        return self.reason in (INTERRUPTED, PAUSED)

    def request(self, reason: str, *, at_once: bool = False) -> None:
        """End the search after the running epochs, or at once. An interruption overrides an earlier reason."""
        self.reason = reason if reason == INTERRUPTED else self.reason or reason
        self._at_once = self._at_once or at_once

    def with_same_deadline(self) -> Stopping:
        """Return the stopping of what follows the search: the same deadline, but no target and no reason yet."""
        other = Stopping()
        other._deadline, other._longest_epoch = self._deadline, self._longest_epoch
        other._longest_evaluation, other.slots, other.warn = self._longest_evaluation, self.slots, self.warn
        return other

    @property
    def spare_seconds(self) -> float:
        """Time left before what must follow the last epoch; infinite without a time budget."""
        return math.inf if self._deadline is None else self._deadline - time.monotonic() - _CLOSING_SECONDS

    @property
    def closing_seconds(self) -> float:
        """Time reserved for what follows the last epoch."""
        fit = self._rounds_that_fit
        follow_up = fit * self._round_seconds + (_MARGIN * self._start_seconds if fit and self.follow_up.epochs else 0)
        return _CLOSING_SECONDS + _MARGIN * 2 * self._longest_evaluation + follow_up

    @property
    def _rounds(self) -> int:
        """Rounds that the follow-up takes; the last one may not fill all slots."""
        return math.ceil(self.follow_up.count / self.slots)

    @property
    def _rounds_that_fit(self) -> int:
        seconds = self._round_seconds
        room = max(0.0, self._most_for_follow_up - _MARGIN * self._start_seconds)
        return math.floor(min(self._rounds, room / seconds)) if seconds else 0

    @property
    def _round_seconds(self) -> float:
        """Length of a round: its epochs, and its evaluations one after another."""
        evaluations = min(self.slots, self.follow_up.count) * self._longest_evaluation
        return _MARGIN * (self.follow_up.epochs * self._longest_epoch + evaluations)

    def _learn(self, epoch_seconds: float) -> None:
        """Note the length of an epoch; warn where it leaves too little time for the follow-up."""
        self._longest_epoch = max(self._longest_epoch, epoch_seconds)
        fit = self._rounds_that_fit
        if not self._round_seconds or fit >= self._rounds or (self._warned and fit) or self._warned == "none":
            return
        self._warned = "some" if fit else "none"
        room = f"{fit * self.slots} of {self.follow_up.count}" if fit else "none"
        enough = math.ceil(2 * (self._rounds * self._round_seconds + _MARGIN * self._start_seconds) / 60)
        self.warn(
            f"--time-budget is too short to confirm all: a training may take {math.ceil(self._round_seconds)} s, and "
            f"the half of the budget that is kept for them has room for {room}.\n"
            f"To confirm all, begin with --time-budget {enough}m or more; or go on with --resume afterwards."
        )

    def _is_too_late(self, epoch_seconds: float) -> bool:
        if self._deadline is None:
            return False
        return time.monotonic() + _MARGIN * epoch_seconds > self._deadline - self.closing_seconds


def explain(status: str, config: SearchConfig, left: int) -> str:
    """Return why a search ended with ``left`` trials to go, and how to go on; "" where that is plain."""
    if left and status == TIME_BUDGET:
        why = f"The time budget is used up with {left} trials to go; a resume gets the same budget again"
        return f"{why}; --time-budget sets another (None for no limit)."
    if left and status == EPOCH_BUDGET:
        why = f"The trials have trained {config.max_total_epochs} epochs, with {left} trials to go"
        return f"{why}; to go on, resume with a higher --max-total-epochs (None for no limit)."
    if left and status == TARGET_LOSS:
        why = f"The target loss of {config.target_loss:g} is reached with {left} trials to go; a resume ends at once"
        return f"{why}, unless --target-loss says otherwise (None for no target)."
    return ""


@contextlib.contextmanager
def interruptible(stopping: Stopping) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into an orderly end, and say so at once; a second one ends this process.

    Its exit code is 130 then, or 143. SIGUSR1 pauses the search. ``stopping`` knows which signal was the first, so a
    search may be interruptible in several blocks, one after another or one within another.
    """
    in_thread = threading.current_thread() is not threading.main_thread()
    if in_thread or stopping.handles_signals or stopping.reason == INTERRUPTED:
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def say(text: str) -> None:
        threading.Thread(target=stopping.warn, args=[text]).start()  # this one may be in the middle of a line

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stopping.interrupt()
        # Ray ends a process with another exit code than shells do
        end = before[signal.SIGINT] if number == signal.SIGINT else lambda *_: sys.exit(128 + number)
        signal.signal(number, end)
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        say(f"{name}: the search is ending, which takes some seconds. A second {name} ends it at once.")

    def pause(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not stopping.reason:
            say("SIGUSR1: the search is pausing; trials in progress save their state.")
        stopping.pause()

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: interrupt, signal.SIGUSR1: pause}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    held = before[signal.SIGUSR1]
    if isinstance(held, HeldPause) and held.asked:
        pause(signal.SIGUSR1, None)
    stopping.handles_signals = True
    try:
        yield
    finally:
        stopping.handles_signals = False
        for number, previous in before.items():
            if signal.getsignal(number) is handlers[number]:  # else Ray has put its own there, as it starts
                signal.signal(number, previous)
