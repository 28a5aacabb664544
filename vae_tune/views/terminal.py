"""The view of a running search on a console: redrawn in place on a terminal, plain lines in a pipe or notebook."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vae_tune.analysis.loss_unit import NATS, LossUnit
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, RUNNING, STATE_WORDS
from vae_tune.record.leaderboard import Leaderboard
from vae_tune.record.trials import TrialRow, settled
from vae_tune.views.console import STATE_COLORS, make_console
from vae_tune.views.end_summary import print_summary
from vae_tune.views.formatting import format_duration, format_values
from vae_tune.views.preparation import preparation_lines

_NAMED_TRIALS = 4  # running trials that a status line names at most


def make_view(console: Console | None = None, *, with_summary: bool = True) -> View:
    """Return the view that fits the console; by default one on standard output."""
    console = console or make_console()
    return (TerminalView if console.is_terminal else PlainView)(console, with_summary=with_summary)


class View:
    """Shows a search on a console; a context manager. The record calls it with each trial that changed."""

    def __init__(self, console: Console, *, with_summary: bool = True):
        """Show nothing yet; :meth:`end` prints the summary only ``with_summary``."""
        self._console = console
        self._with_summary = with_summary
        self._trials = _Trials(0, ())
        self._num_samples = self._max_epochs = 0
        self._unit = NATS
        self._message = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def begin(self, num_samples: int, max_epochs: int, known: Sequence[TrialRow], unit: LossUnit = NATS) -> None:
        """Start to show trials, with losses in ``unit``; ``known`` are those of earlier runs."""
        self._num_samples, self._max_epochs, self._unit = num_samples, max_epochs, unit
        self._trials = _Trials(max_epochs, known)
        self._message = ""

    def __call__(self, row: TrialRow) -> None:
        """Show a trial that changed."""
        self._trials.update(row)

    def say(self, text: str) -> None:
        """Show what the search does besides training; a text that ends with ``...`` announces work that takes time."""
        self._message = text

    def prepare(self, done: int, total: int) -> None:
        """Show how many pictures are prepared, and of how many; any thread may call it."""

    def warn(self, text: str) -> None:
        """Print a warning that stays visible; any thread may call it."""
        self._print(text, style="yellow")

    def end(
        self,
        rows: Sequence[TrialRow],
        metrics: Mapping[str, Any] | None,
        folder: Path,
        advice: Sequence[str] = (),
        resume: str = "",
    ) -> None:
        """Print the summary; the arguments are as in :func:`vae_tune.views.end_summary.print_summary`."""
        self._stop()
        if self._with_summary:
            counts = self._num_samples, self._max_epochs
            print_summary(self._console, rows, *counts, metrics, folder, advice, self._unit, resume)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, soft_wrap=True)

    def _stop(self) -> None:
        """Show no more progress."""

    def _loss(self, row: TrialRow) -> str:
        return "" if row.loss is None else f"{self._unit.level(row.loss)} {self._unit.short}"


class _Trials:
    """What a view shows of the trials; one thread updates it, others may read it."""

    def __init__(self, max_epochs: int, known: Sequence[TrialRow]):
        self._lock = threading.Lock()
        self._running: dict[int, TrialRow] = {}
        """The newest change last."""
        self._final_states: dict[int, str] = {}
        self._all, self._ended = Leaderboard(max_epochs), Leaderboard(max_epochs)
        for row in known:
            self.update(row)

    def update(self, row: TrialRow) -> None:
        """Take a trial that changed."""
        with self._lock:
            self._running.pop(row.trial, None)
            if row.state == RUNNING:
                self._running[row.trial] = row
            else:
                self._final_states[row.trial] = row.state
            for one in settled([row]):
                self._ended.update(one)
            self._all.update(row)

    @property
    def finished(self) -> int:
        """How many have ended."""
        return len(self._final_states)

    def running(self) -> list[TrialRow]:
        """Return those that have not ended, the newest change last."""
        with self._lock:
            return list(self._running.values())

    def counts(self) -> Counter[str]:
        """Return how many have ended in each state."""
        with self._lock:
            return Counter(self._final_states.values())

    def winner(self, *, ended: bool = False) -> TrialRow | None:
        """Return the best trial, or the best of those that have ended."""
        with self._lock:
            return (self._ended if ended else self._all).winner


class PlainView(View):
    """Prints one line per finished trial, and a status line after each half minute without one."""

    def __init__(self, console: Console, *, with_summary: bool = True, silence_seconds: float = 30.0):
        """Print nothing yet; ``silence_seconds`` without a line is when a status line is due."""
        super().__init__(console, with_summary=with_summary)
        self._silence_seconds = silence_seconds
        self._printed, self._stopped = threading.Event(), False
        self._message_since = time.monotonic()
        self._thread: threading.Thread | None = None
        self._prepared_line = preparation_lines(self.say)

    def __enter__(self) -> Self:
        self._stopped = False
        self._thread = threading.Thread(target=self._break_silence, name="status lines", daemon=True)
        self._thread.start()
        return self

    def __call__(self, row: TrialRow) -> None:
        """Print a trial once it has finished."""
        super().__call__(row)
        self._message = ""
        if row.state == RUNNING:
            return
        width = len(str(self._num_samples))
        loss = "" if row.loss is None else f" {self._unit.level(row.loss):>8} {self._unit.short}"
        mark = "  best so far" if self._trials.winner() is row else ""
        reason = f"  {row.reason}" if row.reason else ""
        self._print(
            f"[{self._trials.finished:{width}d}/{self._num_samples}] trial {row.trial:{width}d} {row.state:8s}"
            f" epoch {row.epochs:2d}{loss}  {format_values(row.values)}{reason}{mark}"
        )

    def say(self, text: str) -> None:
        """Print a line."""
        super().say(text)
        self._message_since = time.monotonic()
        self._print(text)

    def prepare(self, done: int, total: int) -> None:
        """Print a line every five seconds."""
        self._prepared_line(done, total)

    def _print(self, text: str, style: str = "") -> None:
        super()._print(text, style)
        self._printed.set()

    def _break_silence(self) -> None:
        while not self._stopped:
            if not self._printed.wait(self._silence_seconds):
                super()._print(self._status())
            self._printed.clear()

    def _status(self) -> str:
        """Return one line on the work in progress: the last announcement, else the running trials."""
        if self._message.endswith("..."):
            return f"{self._message} {format_duration(time.monotonic() - self._message_since)}"
        running = self._trials.running()
        shown = [f"trial {row.trial} at epoch {row.epochs}/{self._max_epochs}" for row in running[-_NAMED_TRIALS:]]
        shown += [f"{len(running) - len(shown)} more"] if len(running) > len(shown) else []
        best = self._trials.winner(ended=True)
        loss = "" if best is None else f"; best {self._loss(best)} (trial {best.trial})"
        training = f"training {', '.join(shown)}" if running else "no trial is training"
        return f"[{self._trials.finished}/{self._num_samples}] {training}{loss}"

    def _stop(self) -> None:
        self._stopped = True
        self._printed.set()
        if self._thread is not None:
            self._thread.join()


class TerminalView(View):
    """Redraws progress, counts, the best trial and the running trials in place."""

    def __init__(self, console: Console, *, with_summary: bool = True):
        super().__init__(console, with_summary=with_summary)
        self._message = "Reading the images and starting Ray"
        self._known = 0
        self._prepared: tuple[int, int] | None = None
        self._start = time.monotonic()
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def begin(self, num_samples: int, max_epochs: int, known: Sequence[TrialRow], unit: LossUnit = NATS) -> None:
        """Start to show trials, and the clock."""
        super().begin(num_samples, max_epochs, known, unit)
        self._known = self._trials.finished
        self._prepared = None
        self._start = time.monotonic()

    def prepare(self, done: int, total: int) -> None:
        """Show a bar until all are prepared."""
        self._prepared = (done, total) if done < total else None

    def _stop(self) -> None:
        self._live.stop()

    def _draw(self) -> RenderableType:
        running = self._trials.running()
        trials = [self._progress(), self._counts(running), self._running(running)] if self._num_samples else []
        preparing = [_preparation(*self._prepared)] if self._prepared else []
        return Group(*trials, *([Text(self._message, style="dim")] if self._message else []), *preparing)

    def _progress(self) -> RenderableType:
        finished, elapsed, remaining = self._trials.finished, time.monotonic() - self._start, ""
        if finished > self._known:
            left = elapsed / (finished - self._known) * (self._num_samples - finished)
            remaining = f", about {format_duration(left)} left"
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._num_samples, completed=finished, width=30)
        line.add_row("trials", bar, f"{finished}/{self._num_samples}  {format_duration(elapsed)}{remaining}")
        return line

    def _counts(self, running: Sequence[TrialRow]) -> RenderableType:
        counts = self._trials.counts()
        text = Text()
        for state in (COMPLETE, PRUNED, FAIL):
            text.append(f"{STATE_WORDS[state]} {counts[state]}  ", style=STATE_COLORS[state])
        speed = sum(row.images_per_second or 0 for row in running)
        text.append(f"{speed:,.0f} images/s", style="dim")
        if (best := self._trials.winner()) is not None:
            text.append(f"\nbest {self._loss(best)} at epoch {best.epochs}", style="bold")
            text.append(f"  trial {best.trial}: {format_values(best.values)}")
        return text

    def _running(self, running: Sequence[TrialRow]) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        lines = max(4, self._console.height - 8)
        for row in sorted(running, key=lambda row: row.trial)[:lines]:
            table.add_row(
                Text(f"trial {row.trial}", style=STATE_COLORS[RUNNING]),
                f"epoch {row.epochs}/{self._max_epochs}",
                Text("" if row.loss is None else self._unit.level(row.loss), justify="right"),
                format_values(row.values),
            )
        if len(running) > lines:
            table.add_row(f"and {len(running) - lines} more")
        return table


def _preparation(done: int, total: int) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_row("pictures", ProgressBar(total=total, completed=done, width=30), f"{done:,}/{total:,}")
    return line
