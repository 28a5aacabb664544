"""What a check found: a value that says what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (error), or that will cost money, time or safety (warning)."""

    level: Level
    where: str
    """``file:line``, or a node."""
    what: str
    advice: str

    def __str__(self) -> str:
        """Say it on one line."""
        return f"{self.where}: {self.level}: {self.what} {self.advice}".rstrip().replace("\n", " ")


def names(text: str) -> tuple[str, ...]:
    """Return the words of a list that is easier to read as a text."""
    return tuple(text.split())


def nearest(name: object, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the one of ``known`` that ``name`` probably meant, whatever its case."""
    by_case = {word.lower(): word for word in sorted(known)}
    found = difflib.get_close_matches(str(name).lower(), by_case, n=1, cutoff=likeness)
    return by_case[found[0]] if found else None


def meant(name: object, known: Iterable[str]) -> str:
    """Return the advice for a key that nobody knows."""
    known = sorted(known)
    guess = nearest(name, known)
    return (
        f"Did you mean {guess!r}?" if guess else f"Known are {', '.join(known)}." if len(known) < 20 else "Remove it."
    )
