"""Rich's console for this package's messages, in which every text is shown as it is."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """Return a console that takes nothing in a text for markup or an emoji's name: both may be names of users.

    ``options`` are those of :class:`rich.console.Console`.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)
