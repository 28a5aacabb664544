"""The likelihoods that a configuration can name: the class of each, and properties that do not need torch.

To add one, write a module beside :mod:`vae_tune.vae.likelihoods.gaussian` with a class that implements
:class:`vae_tune.vae.likelihoods.likelihood.Likelihood`, add an entry to :data:`LIKELIHOODS`, and add its name to
``vae_tune.config.settings.LikelihoodName``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from vae_tune.config.errors import UsageError
from vae_tune.config.settings import Binarization, LikelihoodName, TrialConfig
from vae_tune.vae.likelihoods.likelihood import CROSS_ENTROPY, DENSITY, LEVELS, Kind, Kinds, Likelihood


@dataclass(frozen=True)
class Facts:
    """The class of a likelihood, and its properties that are needed before torch is loaded."""

    build: str
    """Its class, as MODULE:CLASS; imported only when it is built."""
    kinds: Kinds
    """The ``kinds`` of its class."""
    copies: int
    """Numbers per parameter of a pixel while the likelihood is computed, as measured; twice that with a gradient."""
    outputs: Callable[[TrialConfig], int] = lambda _: 1
    """Returns the parameters per pixel and channel, as ``outputs`` of its class does."""
    arguments: Callable[[TrialConfig, int], tuple[Any, ...]] = lambda *_: ()
    """Returns the arguments of its class, given the configuration and the channels of the images."""
    own_parameters: int = 0
    """Trained parameters of its own, per channel."""
    is_fused: bool = False
    """Whether :mod:`vae_tune.vae.fused_step` computes it."""


_ROOM = "vae_tune.vae.likelihoods"
LIKELIHOODS: Mapping[LikelihoodName, Facts] = {
    "bernoulli": Facts(f"{_ROOM}.bernoulli:Bernoulli", CROSS_ENTROPY, copies=2, is_fused=True),
    "logistic": Facts(f"{_ROOM}.discretized_logistic:DiscretizedLogistic", LEVELS, copies=3, outputs=lambda _: 2),
    "logistic-mixture": Facts(
        f"{_ROOM}.discretized_logistic:LogisticMixture",
        LEVELS,
        copies=3,
        outputs=lambda config: 3 * config.mixture_components,
        arguments=lambda config, _: (config.mixture_components,),
    ),
    "categorical": Facts(f"{_ROOM}.categorical:Categorical", LEVELS, copies=2, outputs=lambda _: 256),
    "continuous-bernoulli": Facts(f"{_ROOM}.continuous_bernoulli:ContinuousBernoulli", DENSITY, copies=14),
    "gaussian": Facts(
        f"{_ROOM}.gaussian:Gaussian",
        DENSITY,
        copies=6,
        own_parameters=1,
        arguments=lambda _, channels: (channels,),
    ),
}


def build_likelihood(config: TrialConfig, channels: int) -> Likelihood:
    """Return the likelihood that ``config`` names, for images with ``channels`` channels; import its module."""
    facts = likelihood_facts(config, channels)
    built: Likelihood = resolve_name(facts.build)(*facts.arguments(config, channels))
    return built


def likelihood_name(config: TrialConfig, channels: int) -> LikelihoodName:
    """Return the name of the likelihood of ``config`` for images with ``channels`` channels."""
    return config.likelihood or ("bernoulli" if channels == 1 else "logistic")


def likelihood_facts(config: TrialConfig, channels: int) -> Facts:
    """Return what is known of the likelihood of ``config`` for images with ``channels`` channels."""
    return LIKELIHOODS[likelihood_name(config, channels)]


def kind_named(name: str) -> Kind:
    """Return the kind with this name in ``study.json``. An unknown name gives a new kind of that name."""
    known = {kind.name: kind for facts in LIKELIHOODS.values() for kind in facts.kinds.values()}
    return known.get(name, Kind(name, f"{name} values"))


def kind_of(config: TrialConfig, channels: int, binarization: Binarization) -> Kind:
    """Return the kind of loss that the likelihood of ``config`` gives for such images.

    Raises:
        UsageError: the likelihood does not fit the pixels.
    """
    kinds = likelihood_facts(config, channels).kinds
    if binarization in kinds:
        return kinds[binarization]
    others = " or ".join(name for name, facts in LIKELIHOODS.items() if binarization in facts.kinds)
    name = likelihood_name(config, channels)
    raise UsageError(f"likelihood must be {others} for black and white pixels ({binarization}), but got {name!r}.")
