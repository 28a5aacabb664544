"""Refuse searches whose trials would have losses of different kinds, which cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vae_tune.config.errors import UsageError
from vae_tune.config.names import LIKELIHOOD
from vae_tune.config.settings import Binarization, DataConfig, LikelihoodName, TrialConfig
from vae_tune.config.space import Space
from vae_tune.vae.likelihoods.registry import kind_of, likelihood_name


def refuse_kinds(space: Space, base: TrialConfig, channels: int, binarization: Binarization) -> None:
    """Check that all choices of ``space`` and the reference ``base`` have likelihoods of one kind.

    Raises:
        UsageError: they have several kinds, or a likelihood does not fit the pixels.
    """
    searched: Any = space.distributions.get(LIKELIHOOD)
    choices = [] if searched is None else list(searched.choices)
    reference = likelihood_name(base, channels)

    def kinds_of(names: Sequence[LikelihoodName]) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for name in names:
            kind = kind_of(replace(base, likelihood=name), channels, binarization).name
            kinds.setdefault(kind, []).append(name)
        return kinds

    kinds, way = kinds_of(choices), "Choose likelihoods of one kind"
    if len(kinds) < 2:
        kinds = kinds_of([reference, *(name for name in choices if name != reference)])
        way = f"Choose a reference of the same kind: --likelihood {choices[0]}" if choices else way
    if len(kinds) > 1:
        found = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in kinds.items())
        found += "" if reference in choices or len(kinds_of(choices)) > 1 else f"; the reference has {reference}"
        raise UsageError(
            f"likelihood would give losses of different kinds, which cannot be compared: {found}.\n{way}."
        )


def refuse_kinds_for_all(space: Space, base: TrialConfig, data: DataConfig) -> None:
    """Check the likelihoods before any image is read. Refuse what gray and color images would both be refused for.

    Raises:
        UsageError: see :func:`refuse_kinds`.
    """
    refused = []
    for channels in {"grey": (1,), "rgb": (3,)}.get(data.colour, (1, 3)):
        try:
            refuse_kinds(space, base, channels, data.binarization)
        except UsageError as error:
            refused.append(error)
        else:
            return
    raise refused[0]
