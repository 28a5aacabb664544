"""The unit in which people are shown losses: nats per image, or bits per dimension where pixels are levels.

Records, tables and Python values are in nats per image, whatever the kind of the losses. Pages, terminals and figures
convert them here, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vae_tune.config.names import DIMENSIONS, UNIT
from vae_tune.vae.likelihoods.likelihood import Kind, kind_named


@dataclass(frozen=True)
class LossUnit:
    """How the losses of a study, or of a model, are shown."""

    kind: Kind
    dimensions: int | None = None
    """Values of an image (channels x height x width) where bits per dimension are shown, else None."""

    @classmethod
    def of(cls, metric: Mapping[str, Any]) -> LossUnit:
        """Return the unit for ``metric`` of a ``study.json``, or for other numbers with their kind and dimensions."""
        kind = kind_named(str(metric["kind"]))
        return cls(kind, metric.get(DIMENSIONS) if kind.in_bits else None)

    @property
    def name(self) -> str:
        """The unit in full: ``nats per image`` or ``bits/dim``."""
        return "bits/dim" if self.dimensions else UNIT

    @property
    def short(self) -> str:
        """The unit after a number in a line: ``nats`` or ``bits/dim``."""
        return "bits/dim" if self.dimensions else "nats"

    @property
    def title(self) -> str:
        """Unit and kind: ``nats per image, grey values``."""
        return f"{self.name}, {self.kind.words}"

    @property
    def nats(self) -> float:
        """Nats per image in one of this unit: dimensions x ln 2, or 1."""
        return self.dimensions * math.log(2) if self.dimensions else 1.0

    @property
    def digits(self) -> int:
        """Decimals of a loss: with 3, a bit per dimension of a 32 x 32 color image has steps of 2 nats."""
        return 3 if self.dimensions else 2

    def text(self, nats: float, sign: str = "", digits: int | None = None) -> str:
        """Return a number of nats per image in this unit, without its name; ``sign`` may be ``+``."""
        return f"{nats / self.nats:{sign}.{self.digits if digits is None else digits}f}"

    def with_name(self, nats: float) -> str:
        """Return a number of nats per image in this unit, with its short name: ``109.51 nats``."""
        return f"{self.text(nats)} {self.short}"


NATS = LossUnit(kind_named("grey"))
"""The unit before a study says which it is."""
