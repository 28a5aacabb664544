"""How far the preparation of images is: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown_preparation(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows on ``console`` how many pictures are prepared, and of how many."""
    if not console.is_terminal:
        yield preparation_lines(console.print)
        return
    columns = TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TextColumn("pictures"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield show


def preparation_lines(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return what passes a line to ``say`` every five seconds on how many pictures are prepared."""
    next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

    def show(done: int, total: int) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            say(f"Prepared {done:,} of {total:,} pictures")

    return show
