"""The settings that a replay compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vae_tune.config.settings import AshaConfig, Sampler

Bridge = Literal["ours", "pruned", "stock"]
"""How the sampler learns of a trial that is stopped or running.

ours shows it the loss that such a trial is expected to reach; pruned leaves it to Optuna, which ranks a stopped trial
behind all others; stock is the OptunaSearch of Ray, which reports a stopped trial as complete.
"""


@dataclass(frozen=True)
class Setting:
    """The sampler, scheduler and number of workers of a search."""

    sampler: Sampler
    asha: AshaConfig
    workers: int
    bridge: Bridge = "ours"

    def __str__(self) -> str:
        """Return the setting as its row in a table is named."""
        asha = self.asha
        stopping = f"{asha.scheduler}/{asha.reduction_factor}" if asha.has_rungs else asha.scheduler
        stopping += f" from {asha.grace_period}" if asha.has_rungs and asha.grace_period > 1 else ""
        bridge = "" if self.bridge == "ours" else f" ({self.bridge})"
        return f"{self.sampler}{bridge}, {stopping}, {self.workers} worker{'s' if self.workers > 1 else ''}"
