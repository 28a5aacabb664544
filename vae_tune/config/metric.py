"""The metric that ranks trials, its name, unit and direction: the validation loss, or one of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from vae_tune.config import names

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Metric:
    """A number that each epoch reports, by which trials are compared.

    What decides (scheduler, winner, advice) compares losses, lower is better: a metric to maximize, negated. Records
    and tables hold it with its own sign.
    """

    name: str
    """Its column in ``epochs.csv`` and ``trials.csv``."""
    unit: str
    """Its unit in the record; empty for a user's metric."""
    direction: Direction
    """As Optuna spells it."""
    columns: tuple[str, ...] = ()
    """All values of a user's metric, ``name`` the first; none of the validation loss."""

    @classmethod
    def of_users(cls, name: str, *, maximize: bool) -> Self:
        """Return the metric that a function of the user's computes; what it returns is not known yet."""
        return cls(name, "", "maximize" if maximize else "minimize")

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Self:
        """Return the metric that ``metric`` of a ``study.json`` describes."""
        columns = tuple(recorded.get(names.COLUMNS, ()))
        return cls(recorded["name"], recorded["unit"], recorded["direction"], columns)

    @property
    def mode(self) -> Literal["min", "max"]:
        """The direction as Ray Tune spells it."""
        return "max" if self.maximize else "min"

    @property
    def maximize(self) -> bool:
        """Whether a higher value is better."""
        return self.direction == "maximize"

    @property
    def best(self) -> str:
        """The word for the best value."""
        return "highest" if self.maximize else "lowest"

    @property
    def is_users(self) -> bool:
        """Whether it is a function of the user's."""
        return bool(self.columns)

    def loss(self, value: Any) -> Any:
        """Return a value, or a series of them, as a loss; and a loss as the value."""
        return -value if self.maximize else value

    @property
    def key(self) -> str:
        """Its key in ``best/metrics.json``."""
        return self.name if self.is_users else "negative_elbo"

    @property
    def test_name(self) -> str:
        """The name of the same number on the test images."""
        return f"test_{self.name}" if self.is_users else names.TEST_LOSS

    def improvement(self, reference: Mapping[str, float], winner: Mapping[str, float]) -> float:
        """Return by how much the winner's numbers are better than the reference's, of ``best/metrics.json``."""
        return float(self.loss(reference[self.key]) - self.loss(winner[self.key]))

    @property
    def report_columns(self) -> dict[str, str]:
        """The columns of a report with their pandas types."""
        return names.REPORT_COLUMNS | dict.fromkeys(self.columns, "float64")

    @property
    def epoch_columns(self) -> dict[str, str]:
        """The columns of ``epochs.csv``, in their order."""
        return {names.TRIAL: "int64", **self.report_columns, names.TIME: names.MOMENT}

    @property
    def trial_columns_before(self) -> dict[str, str]:
        """The columns of ``trials.csv`` before the hyperparameters."""
        return names.TRIAL_COLUMNS_BEFORE | dict.fromkeys(self.columns, "float64")


METRIC = Metric(names.VAL_LOSS, "nats per image", "minimize")
"""The validation negative ELBO at KL weight 1, of every search. All other losses have its unit, too."""


def loss_of(report: Mapping[str, Any]) -> float:
    """Return the loss of a report that ranks its trial, lower is better."""
    return float(report.get(names.RANKED_LOSS, report[names.VAL_LOSS]))
