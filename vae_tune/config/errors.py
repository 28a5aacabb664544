"""Errors whose one or two lines are shown to the user without a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """Invalid input: one or two lines that name what is wrong, its value and the remedy."""


class SearchError(Exception):
    """A search that had to stop: what happened, and how to resume it."""


class SearchPaused(KeyboardInterrupt):
    """A search that was paused, as SIGUSR1 asks: its trials saved themselves in the middle of their epochs."""


class PausedAtStart(SearchPaused):
    """A search that was paused before it had started anything."""


def telling_line(error: object) -> str:
    """Return the first line of an error that does not merely announce the next, as ``Error(s) in x:`` does."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
