"""The Rich console that prints this package's messages, and its colors for trial states."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from vae_tune.config.names import COMPLETE, FAIL, PRUNED, RUNNING

STATE_COLORS = {COMPLETE: "green", PRUNED: "yellow", FAIL: "red", RUNNING: "cyan"}


def make_console(**options: Any) -> Console:
    """Return a console that prints text as it is: names given by users are never read as markup or emoji.

    ``options`` are those of :class:`rich.console.Console`.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)
