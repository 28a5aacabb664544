"""Refuse a search whose trials would give losses of different kinds, which cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vae_tune.config.names import LIKELIHOOD
from vae_tune.config.settings import Binarization, DataConfig, TrialConfig, UsageError
from vae_tune.config.space import Space
from vae_tune.vae.likelihoods.likelihood import kind_of, likelihood_name


def refuse_kinds(space: Space, base: TrialConfig, channels: int, binarization: Binarization) -> None:
    """Refuse likelihoods of different kinds among the choices of ``space`` and the reference ``base``.

    Raises:
        UsageError: there are several kinds, or a likelihood does not fit the pixels.
    """
    searched: Any = space.distributions.get(LIKELIHOOD)
    choices = [] if searched is None else list(searched.choices)
    reference = likelihood_name(base, channels)
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys([reference, *choices]):
        kind = kind_of(replace(base, likelihood=name), channels, binarization).name
        kinds.setdefault(kind, []).append(f"{name}, the reference" if name == reference else name)
    if len(kinds) < 2:
        return
    found = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in kinds.items())
    chosen = {kind_of(replace(base, likelihood=name), channels, binarization).name for name in choices}
    way = (
        "Search likelihoods of one kind"
        if len(chosen) > 1
        else f"Take a reference of that kind: --likelihood {choices[0]}"
    )
    raise UsageError(f"likelihood would give losses of different kinds, which cannot be compared: {found}.\n{way}.")


def refuse_kinds_for_all(space: Space, base: TrialConfig, data: DataConfig) -> None:
    """Refuse before any image is read what images in grey and in colour would both be refused for.

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
