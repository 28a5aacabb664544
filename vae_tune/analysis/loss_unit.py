"""The unit in which losses are shown: nats per image, bits per dimension for pixel levels, or a user's metric.

Records, tables and Python values are in nats per image for every kind of loss. Pages, terminals and figures convert
them here, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vae_tune.config.metric import METRIC, Metric
from vae_tune.config.names import COLUMNS, DIMENSIONS
from vae_tune.vae.likelihoods.likelihood import Kind
from vae_tune.vae.likelihoods.registry import kind_named


@dataclass(frozen=True)
class LossUnit:
    """The unit in which the losses of a study or a model are shown."""

    kind: Kind
    dimensions: int | None = None
    """Channels x height x width of an image if losses are shown in bits per dimension, otherwise None."""
    ranking: Metric = METRIC
    """The user's metric, where the losses are its values."""

    @classmethod
    def of(cls, metric: Mapping[str, Any]) -> LossUnit:
        """Return the unit for ``metric`` of a ``study.json``, or for another mapping with a kind and dimensions."""
        if metric.get(COLUMNS):
            name = str(metric["kind"])
            return cls(Kind(name, name, is_likelihood=False), ranking=Metric.of(metric))
        kind = kind_named(str(metric["kind"]))
        return cls(kind, metric.get(DIMENSIONS) if kind.in_bits else None)

    @property
    def name(self) -> str:
        """The unit in full: ``nats per image`` or ``bits/dim``; of a user's metric its name."""
        if self.ranking.is_users:
            return self.ranking.name
        return "bits/dim" if self.dimensions else METRIC.unit

    @property
    def short(self) -> str:
        """The unit that follows a number in a sentence: ``nats`` or ``bits/dim``; of a user's metric its name."""
        return self.name if self.dimensions or self.ranking.is_users else "nats"

    @property
    def noun(self) -> str:
        """The noun for the numbers: ``loss``, or the name of a user's metric."""
        return self.ranking.name if self.ranking.is_users else "loss"

    @property
    def title(self) -> str:
        """Unit and kind: ``nats per image, grey values``."""
        return self.kind.words if self.ranking.is_users else f"{self.name}, {self.kind.words}"

    @property
    def announcement(self) -> str:
        """The numbers that rank trials, in words: ``losses in nats per image (grey values)``."""
        if self.ranking.is_users:
            return f"trials are ranked by {self.kind.words}"
        return f"losses in {self.name} ({self.kind.words})"

    @property
    def nats(self) -> float:
        """Nats per image in one unit: dimensions x ln 2, or 1."""
        return self.dimensions * math.log(2) if self.dimensions else 1.0

    @property
    def digits(self) -> int:
        """Decimals of a loss. With 3, one step in bits per dimension is 2 nats for a 32 x 32 color image."""
        return 3 if self.dimensions else 2

    def text(self, nats: float, sign: str = "", digits: int | None = None) -> str:
        """Convert nats per image to this unit and format them, without the unit's name. ``sign`` may be ``+``."""
        if self.ranking.is_users:
            return f"{nats:{sign}.4g}"
        return f"{nats / self.nats:{sign}.{self.digits if digits is None else digits}f}"

    def with_name(self, nats: float) -> str:
        """Convert nats per image to this unit and format them with its short name: ``109.51 nats``."""
        return f"{self.text(nats)} {self.short}"

    def level(self, loss: float) -> str:
        """Return the value of which ``loss`` is the loss, formatted without a name: a metric has its own sign."""
        return self.text(self.ranking.loss(loss))


NATS = LossUnit(kind_named("grey"))
"""The unit as long as no study has set another."""
