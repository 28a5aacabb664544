"""The protocol of a scheduler, which decides after each epoch which trials continue; scheduler_factory makes one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from vae_tune.config.settings import AshaConfig

if TYPE_CHECKING:
    from vae_tune.record.trials import TrialRow


@dataclass(frozen=True)
class Decision:
    """The next step of a trial after a report."""

    action: Literal["continue", "pause", "stop"]
    """continue: train another epoch now. pause: free the worker; the trial can be resumed. stop: never train again."""
    stopped_at: int | None = None
    """Of an audited trial, which continues although a rung stopped it: the epoch of that rung."""


CONTINUE, PAUSE, STOP = Decision("continue"), Decision("pause"), Decision("stop")


class Scheduler(Protocol):
    """Decides which trials train on. Its decisions follow from its settings and the reports alone."""

    resumes: ClassVar[bool]
    """Whether it resumes trials that it paused."""

    def __init__(self, config: AshaConfig, max_epochs: int, seed: int = 0) -> None:
        """Start before the first report."""

    @property
    def pauses(self) -> Sequence[int]:
        """Epochs after which a trial may wait, without a worker, to be resumed; none where no trial is resumed."""

    def decide(self, trial: int, epoch: int, loss: float) -> Decision:
        """Take a report of trial number ``trial`` and decide what happens to the trial.

        Called once per report, in the order in which the reports are recorded. The caller ends a trial at
        ``max_epochs`` and one whose loss is not finite, whatever the decision.
        """

    def quota(self, reached: int) -> int:
        """Return how many of the ``reached`` trials of a rung pass it; called only if the settings have rungs."""

    def next_paused(self) -> int | None:
        """Return the paused trial that a free worker resumes, or None where it takes a new configuration instead."""

    def rebuild(self, rows: Sequence[TrialRow]) -> Mapping[int, Decision]:
        """Take the reports of all recorded trials; return the decision that stands for each that has reported."""

    def verify(self, rows: Sequence[TrialRow]) -> Iterator[str]:
        """Derive each decision again from the record, and yield a sentence for each that contradicts it."""

    def describe(self) -> str:
        """Describe the scheduler in a few words, for reports."""
