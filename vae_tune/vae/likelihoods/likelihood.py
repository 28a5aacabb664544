"""The protocol of a likelihood, and the kinds of numbers that likelihoods give. It does not load torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vae_tune.config.errors import UsageError
from vae_tune.config.names import DIMENSIONS, UNIT
from vae_tune.config.settings import Binarization, LikelihoodName, TrialConfig

if TYPE_CHECKING:
    from torch import Tensor


class Likelihood(Protocol):
    """p(x|z), by the parameters that a network's decoder gives for each pixel."""

    def outputs(self, channels: int) -> int:
        """Return the number of parameters per pixel of an image with so many channels."""

    def nats(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z) of each image, summed over pixels and channels: (batch,) nats per image.

        Args:
            parameters: (batch, outputs, height, width), float32 or float64 whatever the precision of the products.
            x: (batch, channels, height, width) in [0, 1]; or (1, ...), one image under all rows of ``parameters``.
        """

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the mean of p(x|z) for pictures: (batch, channels, height, width) in [0, 1]."""


@dataclass(frozen=True)
class Kind:
    """A kind of loss. Only losses of one kind, on images of one checksum, compare with each other."""

    name: str
    words: str
    """The pixels, as people read it: ``grey values``."""
    in_bits: bool = False
    """Whether people are shown bits per dimension (pixel and channel) first; records hold nats all the same."""
    is_likelihood: bool = True
    """Whether -log p(x|z) is one of the pixels as they are, so that an NLL compares with published ones."""


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
"""By how the pixels were made black and white: of grey values, the Bernoulli cross-entropy is no likelihood."""


def likelihood_name(config: TrialConfig, channels: int) -> LikelihoodName:
    """Return the likelihood of ``config`` for images with so many channels."""
    return config.likelihood or ("bernoulli" if channels == 1 else "logistic")


def parameters_per_pixel(config: TrialConfig, channels: int) -> int:
    """Return how many parameters the likelihood of ``config`` takes per pixel: the ``outputs`` of its class."""
    per_channel = {"logistic": 2, "logistic-mixture": 3 * config.mixture_components, "categorical": 256}
    return channels * per_channel.get(likelihood_name(config, channels), 1)


def metric_of(kind: Kind, dimensions: int) -> dict[str, Any]:
    """Return the unit and the kind of recorded losses as JSON values.

    Args:
        kind: of the losses.
        dimensions: values of an image: channels x height x width. They turn nats per image into bits per dimension.
    """
    return {"unit": UNIT, "kind": kind.name} | ({DIMENSIONS: dimensions} if kind.in_bits else {})


def kind_named(name: str) -> Kind:
    """Return the kind that ``study.json`` calls ``name``; a kind of that name alone where it is unknown."""
    known = {kind.name: kind for kind in (*_KINDS.values(), *_BERNOULLI.values())}
    return known.get(name, Kind(name, f"{name} values"))


def kind_of(config: TrialConfig, channels: int, binarization: Binarization) -> Kind:
    """Return the kind of number that the likelihood of ``config`` gives for such images.

    Raises:
        UsageError: the likelihood and the pixels do not belong together.
    """
    name = likelihood_name(config, channels)
    if name == "bernoulli":
        return _BERNOULLI[binarization]
    if binarization != "grey":
        raise UsageError(
            f"likelihood must be bernoulli for black and white pixels ({binarization}), but got {name!r}."
        )
    return _KINDS[name]
