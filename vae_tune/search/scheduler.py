"""The protocol of a scheduler, which decides after each epoch which trials continue; scheduler_factory makes one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from vae_tune.config.settings import AshaConfig

if TYPE_CHECKING:
    from vae_tune.config.space import Space
    from vae_tune.record.basis import Basis
    from vae_tune.record.trials import TrialRow


@dataclass(frozen=True)
class Decision:
    """The next step of a trial after a report."""

    action: Literal["continue", "pause", "stop"]
    """continue: train another epoch now. pause: free the worker; the trial can be resumed. stop: never train again."""
    stopped_at: int | None = None
    """Of an audited trial, which continues although a rung stopped it: the epoch of that rung."""


CONTINUE, PAUSE, STOP = Decision("continue"), Decision("pause"), Decision("stop")


@dataclass(frozen=True)
class Outlook:
    """What training all paused trials to the end is expected to bring."""

    mean: float
    """Expected gain over the best complete trial, in the unit of the losses."""
    high: float
    """The gain that is not exceeded with a probability of 90 %."""
    trials: int
    epochs: int
    """Epochs that it takes."""
    min_gain: float
    """Gain for which a trial is trained on once all have begun."""


class Scheduler(Protocol):
    """Decides which trials train on. Its decisions follow from its settings and the reports alone."""

    resumes: ClassVar[bool]
    """Whether it resumes trials that it paused."""
    proposes: ClassVar[bool]
    """Whether it proposes the new configurations too, in place of the sampler."""
    reopens: ClassVar[bool]
    """Whether a trial that was paused when the search ended goes on when there is more to do: its checkpoint stays."""
    basis: Basis | None
    """What the last decision saw, if a record needs to keep it."""

    def __init__(self, config: AshaConfig, max_epochs: int, seed: int = 0) -> None:
        """Start before the first report."""

    @property
    def pauses(self) -> Sequence[int]:
        """Epochs after which a trial may wait, without a worker, to be resumed; none where no trial is resumed."""

    def open(self, space: Space, num_samples: int | None) -> None:
        """Learn what is searched, and with how many trials, before the first decision."""

    def begin(self, trial: int, values: Mapping[str, Any]) -> None:
        """Learn that a worker trains a trial with these hyperparameters."""

    def decide(self, trial: int, epoch: int, loss: float) -> Decision:
        """Take a report of trial number ``trial`` and decide what happens to the trial.

        Called once per report, in the order in which the reports are recorded. The caller ends a trial at
        ``max_epochs`` and one whose loss is not finite, whatever the decision.
        """

    def quota(self, reached: int) -> int:
        """Return how many of the ``reached`` trials of a rung pass it; called only if the settings have rungs."""

    def next_paused(self, *, may_open: bool = False) -> int | None:
        """Return the paused trial that a free worker resumes, or None where it takes a new configuration instead.

        ``may_open`` says whether there is a new one to take.
        """

    def proposal(self) -> Mapping[str, Any] | None:
        """Return the new configuration that a free worker takes, or None where the sampler proposes it."""

    def rebuild(self, rows: Sequence[TrialRow]) -> Mapping[int, Decision]:
        """Take the reports of all recorded trials; return the decision that stands for each that has reported."""

    def verify(self, rows: Sequence[TrialRow]) -> Iterator[str]:
        """Derive each decision again from the record, and yield a sentence for each that contradicts it."""

    def outlook(self, rows: Sequence[TrialRow]) -> Outlook | None:
        """Return what going on with the recorded trials is expected to bring; None if it is not known."""

    def describe(self) -> str:
        """Describe the scheduler in a few words, for reports."""
