"""The protocol of a likelihood, and the kinds of losses that likelihoods give. This module does not load torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vae_tune.config.errors import UsageError
from vae_tune.config.names import DIMENSIONS, UNIT
from vae_tune.config.settings import Binarization, LikelihoodName, TrialConfig

if TYPE_CHECKING:
    from torch import Tensor


class Likelihood(Protocol):
    """p(x|z), given the parameters that a network's decoder returns for each pixel."""

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


_LEVELS = Kind("levels", "pixel levels", in_bits=True)
_DENSITY = Kind("density", "pixel densities")
_KINDS = {
    "logistic": _LEVELS,
    "logistic-mixture": _LEVELS,
    "categorical": _LEVELS,
    "continuous-bernoulli": _DENSITY,
    "gaussian": _DENSITY,
}
_BERNOULLI = {
    name: Kind(name, f"{name} values", is_likelihood=name != "grey") for name in ("grey", "static", "dynamic")
}
"""By binarization. On gray values, the Bernoulli cross-entropy is not a likelihood."""


def likelihood_name(config: TrialConfig, channels: int) -> LikelihoodName:
    """Return the name of the likelihood of ``config`` for images with ``channels`` channels."""
    return config.likelihood or ("bernoulli" if channels == 1 else "logistic")


def parameters_per_pixel(config: TrialConfig, channels: int) -> int:
    """Return the number of parameters per pixel of the likelihood of ``config``: the ``outputs`` of its class."""
    per_channel = {"logistic": 2, "logistic-mixture": 3 * config.mixture_components, "categorical": 256}
    return channels * per_channel.get(likelihood_name(config, channels), 1)


def metric_of(kind: Kind, dimensions: int) -> dict[str, Any]:
    """Return the unit and the kind of recorded losses as JSON values.

    Args:
        kind: the kind of the losses.
        dimensions: channels x height x width, which convert nats per image into bits per dimension.
    """
    return {"unit": UNIT, "kind": kind.name} | ({DIMENSIONS: dimensions} if kind.in_bits else {})


def kind_named(name: str) -> Kind:
    """Return the kind with this name in ``study.json``. An unknown name gives a new kind of that name."""
    known = {kind.name: kind for kind in (*_KINDS.values(), *_BERNOULLI.values())}
    return known.get(name, Kind(name, f"{name} values"))


def kind_of(config: TrialConfig, channels: int, binarization: Binarization) -> Kind:
    """Return the kind of loss that the likelihood of ``config`` gives for such images.

    Raises:
        UsageError: the likelihood does not fit the pixels.
    """
    name = likelihood_name(config, channels)
    if name == "bernoulli":
        return _BERNOULLI[binarization]
    if binarization != "grey":
        raise UsageError(
            f"likelihood must be bernoulli for black and white pixels ({binarization}), but got {name!r}."
        )
    return _KINDS[name]
