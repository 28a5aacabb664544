"""What a decision of a scheduler saw, as the record keeps it."""

from __future__ import annotations

from typing import NamedTuple

MODEL_VERSION = 2
"""Version of the model that freeze-thaw decides by; it rises where the same record may lead to another decision."""


class Basis(NamedTuple):
    """What a decision saw that started an epoch, so that it can be derived again."""

    order: int
    """Decisions of this kind before it."""
    reports: int
    """Reports in the record."""
    trials: int
    """Trials that had begun: those with lower numbers."""
    running: tuple[int, ...]
    """Trials that workers trained."""
    may_open: bool
    """Whether a new configuration could be tried."""
    model: int = 1
    """Version of the model that made the decision; records older than versions leave it out."""
    max_epochs: int | None = None
    """The last epoch then, if the search was made longer since."""
