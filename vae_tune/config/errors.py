"""The errors that a person is told in a line or two."""

from __future__ import annotations


class UsageError(Exception):
    """Input that cannot be used: one or two lines that say what was wrong, which value, and what to do."""


class SearchError(Exception):
    """A search that could not go on: what happened, and how to go on from its record."""


def telling_line(error: object) -> str:
    """Return the first line of an error that does not merely announce the next, as ``Error(s) in loading x:`` does."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
