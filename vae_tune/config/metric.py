"""The metric that ranks trials: its name, unit and direction, written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vae_tune.config.names import VAL_LOSS


@dataclass(frozen=True)
class Metric:
    """A number that each epoch reports, by which trials are compared."""

    name: str
    """Its column in ``epochs.csv`` and ``trials.csv``."""
    unit: str
    """Its unit in the record."""
    direction: Literal["minimize", "maximize"]
    """As Optuna spells it."""

    @property
    def mode(self) -> Literal["min", "max"]:
        """The direction as Ray Tune spells it."""
        return "min" if self.direction == "minimize" else "max"


METRIC = Metric(VAL_LOSS, "nats per image", "minimize")
"""The validation negative ELBO at KL weight 1, of every search. All other losses have its unit, too."""
