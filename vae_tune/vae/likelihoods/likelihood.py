"""The protocol of a likelihood, and the kinds of losses that likelihoods give. This module does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vae_tune.config.metric import METRIC
from vae_tune.config.names import DIMENSIONS
from vae_tune.config.settings import Binarization

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """A kind of loss. Losses can only be compared if they have the same kind and the same checksum of the images."""

    name: str
    words: str
    """The pixels, as shown to users: ``grey values``."""
    in_bits: bool = False
    """Whether users see bits per dimension (pixel and channel). Records are in nats either way."""
    is_likelihood: bool = True
    """Whether p(x|z) is a likelihood of the pixels as they are, so that an NLL can be compared with published ones."""


Kinds = Mapping[Binarization, Kind]
"""The kind of number that a likelihood gives, by how the pixels were made; other pixels do not belong to it."""
CROSS_ENTROPY: Kinds = {
    "grey": Kind("grey", "grey values", is_likelihood=False),
    "static": Kind("static", "static values"),
    "dynamic": Kind("dynamic", "dynamic values"),
}
"""On gray values, the Bernoulli cross-entropy is not a likelihood."""
LEVELS: Kinds = {"grey": Kind("levels", "pixel levels", in_bits=True)}
DENSITY: Kinds = {"grey": Kind("density", "pixel densities")}


class Likelihood(Protocol):
    """p(x|z), given the parameters that a network's decoder returns for each pixel."""

    kinds: Kinds
    """One of the three above, or another."""

    def outputs(self, channels: int) -> int:
        """Return the number of parameters per pixel of an image with ``channels`` channels."""

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) of each image, summed over pixels and channels: (batch,) nats per image.

        Args:
            parameters: (batch, outputs, height, width), float32 or float64, whatever the precision of the products.
            x: (batch, channels, height, width) in [0, 1]; or (1, ...), one image for all rows of ``parameters``.
        """

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the mean of p(x|z) for pictures: (batch, channels, height, width) in [0, 1]."""


def metric_of(kind: Kind, dimensions: int) -> dict[str, Any]:
    """Return the unit and the kind of recorded losses as JSON values.

    Args:
        kind: the kind of the losses.
        dimensions: channels x height x width, which convert nats per image into bits per dimension.
    """
    return {"unit": METRIC.unit, "kind": kind.name} | ({DIMENSIONS: dimensions} if kind.in_bits else {})
