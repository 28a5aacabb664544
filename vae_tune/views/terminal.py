"""What a person sees while a search runs: a live view on a terminal, a plain line per trial elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vae_tune.config import suggestions
from vae_tune.config.files import address, is_remote
from vae_tune.config.names import (
    COMPLETE,
    FAIL,
    PRUNED,
    REFERENCE_TRIAL,
    REPORT_FILE,
    RUNNING,
    STATE_WORDS,
    TEST_LOSS,
    VAL_LOSS,
)
from vae_tune.record import diagnostics as guards
from vae_tune.record.trials import TrialRow, winner
from vae_tune.views.console import make_console
from vae_tune.views.formatting import format_duration, format_interval, format_value, format_values

_COLOURS = {COMPLETE: "green", PRUNED: "yellow", FAIL: "red", RUNNING: "cyan"}
_OTHER_COLUMNS, _COLUMN = 46, 11
"""Characters of the table of the best trials: without its hyperparameters, and of each of these."""


class View(Protocol):
    """Shows a search; the record calls it with each trial that changed."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, num_samples: int, max_epochs: int, known: Sequence[TrialRow]) -> None:
        """Say how long the search is and what is there already."""

    def __call__(self, row: TrialRow) -> None:
        """Show one trial that changed."""

    def say(self, text: str) -> None:
        """Show what happens outside of the trials."""

    def warn(self, text: str) -> None:
        """Show, to stay, what went wrong beside the search; any thread may call it."""

    def end(
        self, rows: Sequence[TrialRow], metrics: Mapping[str, Any] | None, folder: Path, advice: Sequence[str] = ()
    ) -> None:
        """Show what the search found; ``metrics`` is what ``best/metrics.json`` holds, ``advice`` sentences."""


def make_view(console: Console | None = None) -> View:
    """Return the view that fits where the output goes."""
    console = console or make_console()
    return LiveView(console) if console.is_terminal else PlainView(console)


class PlainView:
    """One line per finished trial: for pipes, logs and notebooks."""

    def __init__(self, console: Console):
        self._console = console
        self._rows: dict[int, TrialRow] = {}
        self._num_samples = self._max_epochs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, num_samples: int, max_epochs: int, known: Sequence[TrialRow]) -> None:
        """Take note of the search's size."""
        self._num_samples, self._max_epochs = num_samples, max_epochs
        self._rows = {row.trial: row for row in known}

    def __call__(self, row: TrialRow) -> None:
        """Print a finished trial."""
        self._rows[row.trial] = row
        if row.state == RUNNING:
            return
        finished = sum(other.state != RUNNING for other in self._rows.values())
        width = len(str(self._num_samples))
        loss = "" if row.val_loss is None else f" {row.val_loss:8.2f} nats"
        best = winner(self._rows.values(), self._max_epochs)
        mark = "  best so far" if best is row else ""
        reason = f"  {row.reason}" if row.reason else ""
        self._print(
            f"[{finished:{width}d}/{self._num_samples}] trial {row.trial:{width}d} {row.state:8s}"
            f" epoch {row.epochs:2d}{loss}  {format_values(row.values)}{reason}{mark}"
        )

    def say(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def warn(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def end(
        self, rows: Sequence[TrialRow], metrics: Mapping[str, Any] | None, folder: Path, advice: Sequence[str] = ()
    ) -> None:
        """Print the summary."""
        summary(self._console, rows, self._num_samples, self._max_epochs, metrics, folder, advice)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


class LiveView:
    """A picture of the search that redraws itself in place."""

    def __init__(self, console: Console):
        self._console = console
        self._rows: dict[int, TrialRow] = {}
        self._num_samples = self._max_epochs = 0
        self._known = 0
        self._start = time.monotonic()
        self._message = "Reading the images and starting Ray"
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, num_samples: int, max_epochs: int, known: Sequence[TrialRow]) -> None:
        """Start the clock of the trials."""
        self._num_samples, self._max_epochs = num_samples, max_epochs
        self._rows = {row.trial: row for row in known}
        self._known = sum(row.state != RUNNING for row in known)
        self._start = time.monotonic()
        self._message = ""

    def __call__(self, row: TrialRow) -> None:
        """Take note of a change; the next redraw shows it."""
        self._rows = {
            **self._rows,
            row.trial: row,
        }  # a new dict: the drawing thread may be reading the old one

    def say(self, text: str) -> None:
        """Show a line below the picture."""
        self._message = text

    def warn(self, text: str) -> None:
        """Print a line above the picture."""
        self._console.print(text, style="yellow", soft_wrap=True)

    def end(
        self, rows: Sequence[TrialRow], metrics: Mapping[str, Any] | None, folder: Path, advice: Sequence[str] = ()
    ) -> None:
        """Stop redrawing and print the summary."""
        self._live.stop()
        summary(self._console, rows, self._num_samples, self._max_epochs, metrics, folder, advice)

    def _draw(self) -> RenderableType:
        rows = self._rows
        parts: list[RenderableType] = []
        if self._num_samples:
            parts += [self._progress(rows), self._summary(rows), self._running(rows)]
        if self._message:
            parts.append(Text(self._message, style="dim"))
        return Group(*parts)

    def _progress(self, rows: Mapping[int, TrialRow]) -> RenderableType:
        finished = sum(row.state != RUNNING for row in rows.values())
        elapsed = time.monotonic() - self._start
        remaining = ""
        if finished > self._known:
            left = elapsed / (finished - self._known) * (self._num_samples - finished)
            remaining = f", about {format_duration(left)} left"
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text("trials"),
            ProgressBar(total=self._num_samples, completed=finished, width=30),
            Text(f"{finished}/{self._num_samples}  {format_duration(elapsed)}{remaining}"),
        )
        return line

    def _summary(self, rows: Mapping[int, TrialRow]) -> RenderableType:
        counts = Counter(row.state for row in rows.values())
        text = Text()
        for state in (COMPLETE, PRUNED, FAIL):
            text.append(f"{STATE_WORDS[state]} {counts[state]}  ", style=_COLOURS[state])
        speed = sum(row.images_per_second or 0 for row in rows.values() if row.state == RUNNING)
        text.append(f"{speed:,.0f} images/s", style="dim")
        best = winner(rows.values(), self._max_epochs)
        if best is not None:
            text.append(f"\nbest {best.val_loss:.2f} nats at epoch {best.epochs}", style="bold")
            text.append(f"  trial {best.trial}: {format_values(best.values)}")
        return text

    def _running(self, rows: Mapping[int, TrialRow]) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        room = max(4, self._console.height - 8)
        running = [row for row in rows.values() if row.state == RUNNING]
        for row in running[:room]:
            loss = "" if row.val_loss is None else f"{row.val_loss:.2f}"
            table.add_row(
                Text(f"trial {row.trial}", style=_COLOURS[RUNNING]),
                f"epoch {row.epochs}/{self._max_epochs}",
                Text(loss, justify="right"),
                format_values(row.values),
            )
        if len(running) > room:
            table.add_row(f"and {len(running) - room} more")
        return table


def summary(
    console: Console,
    rows: Sequence[TrialRow],
    num_samples: int,
    max_epochs: int,
    metrics: Mapping[str, Any] | None,
    folder: Path,
    advice: Sequence[str] = (),
) -> None:
    """Print what the search found: the ten best trials, the winner against the reference, advice, where things are."""
    ranked = sorted(
        (row for row in rows if row.val_loss is not None and row.state != FAIL),
        key=lambda row: (-row.epochs, row.val_loss),
    )
    table = _table(f"The best of {len(rows)} trials")
    names = list(rows[0].values) if rows else []
    names = names[: max(1, (console.width - _OTHER_COLUMNS) // _COLUMN)]  # trials.csv has them all
    for name in ("trial", "state", "epochs", "val_loss", *names, "seconds"):
        table.add_column(name.replace("_", "\n"), justify="left" if name == "state" else "right")
    for row in ranked[:10]:
        table.add_row(
            ("ref. " if row.trial == REFERENCE_TRIAL else "") + str(row.trial),
            Text(row.state, style=_COLOURS[row.state]),
            str(row.epochs),
            f"{row.val_loss:.2f}",
            *(format_value(row.values[name]) for name in names),
            f"{row.seconds:.0f}",
        )
    if ranked:
        console.print(table)
    counts = Counter(row.state for row in rows)
    console.print(
        f"{counts[COMPLETE]} trained to epoch {max_epochs}, {counts[PRUNED]} pruned, {counts[FAIL]} failed; "
        f"{sum(row.epochs for row in rows)} epochs instead of {len(rows) * max_epochs}.",
    )
    if metrics is None:
        console.print("No trial reported a loss: there is no winner.", style="red")
    else:
        _compare(console, metrics)
    _show_confirmation(console, (metrics or {}).get("confirmation", ()))
    for line in [*guards.advice(rows), *advice]:
        console.print(line, soft_wrap=True)
    _outlook(console, folder, unfinished=len(rows) < num_samples or counts[RUNNING] > 0)


def _compare(console: Console, metrics: Mapping[str, Any]) -> None:
    best = metrics["winner"]
    console.print(
        f"Winner: trial {best['trial']} ({format_values(best['hyperparameters'])}), {metrics['rule']}.",
        soft_wrap=True,
    )
    table = _table(f"Negative ELBO, {metrics['unit']}, {metrics['kind']} values")
    splits = [split for split in ("validation", "test") if split in best]
    for name in ("", *splits, *(["test reconstruction", "test KL"] if "test" in best else [])):
        table.add_column(name, justify="right" if name else "left")
    for who in ("reference", "winner"):
        if who in metrics:
            test = metrics[who].get("test")
            parts = [f"{test['reconstruction']:.2f}", f"{test['kl']:.2f}"] if test else []
            table.add_row(who, *(f"{metrics[who][split]['negative_elbo']:.2f}" for split in splits), *parts)
    if "improvement" in metrics:
        table.add_row("gain", *(f"{metrics['improvement'][split]:.2f}" for split in splits), style="bold")
    console.print(table)


def _show_confirmation(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what fresh seeds said; ``rows`` are those of :func:`vae_tune.tasks.confirm.compare`, the winner first."""
    if not rows:
        return
    table = _table("Confirmed with fresh seeds: mean with 95 % interval")
    for name in ("trial", "search", "validation", "optimism", "test", "trainings"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            ("ref. " if row["trial"] == REFERENCE_TRIAL else "") + str(row["trial"]),
            f"{row['searched_val_loss']:.2f}",
            format_interval(row, VAL_LOSS),
            f"{row['optimism']:+.2f}",
            format_interval(row, TEST_LOSS),
            str(int(row["trials"])),
        )
    console.print(table)
    optimism = rows[0]["optimism"]
    told = f"{optimism:.2f} nats better than" if optimism > 0 else "no better than"
    console.print(f"In the search, trial {rows[0]['trial']} was {told} the mean of its fresh seeds.")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)


def _outlook(console: Console, folder: Path, *, unfinished: bool) -> None:
    study = address(folder)
    if is_remote(folder) or (folder / REPORT_FILE).is_file():
        console.print(f"Report: {address(folder / REPORT_FILE)}", soft_wrap=True)
    files = "best/, trials.csv, epochs.csv, optuna.journal, study.json"
    console.print(f"Record: {study}   ({files})", soft_wrap=True)
    console.print("Look further:" if not unfinished else "Go on, or look further:")
    code = f"from vae_tune import load_study; print(load_study({json.dumps(study)}).trials)"
    for command in (
        *([suggestions.resume(folder)] if unfinished else []),
        suggestions.python(code),
        suggestions.command("dashboard", folder),
    ):
        console.print(f"  {command}", soft_wrap=True)
