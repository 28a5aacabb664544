"""The schedulers that a search can use.

To add one, write a module beside :mod:`vae_tune.search.asha` with a class that implements
:class:`vae_tune.search.scheduler.Scheduler`, add it to ``_SCHEDULERS``, and add its name to ``AshaConfig.scheduler``.
"""

from __future__ import annotations

from collections.abc import Callable

from vae_tune.config.settings import AshaConfig
from vae_tune.search.asha import Asha, PromotionAsha
from vae_tune.search.scheduler import Scheduler

_SCHEDULERS: dict[str, Callable[[AshaConfig, int, int], Scheduler]] = {
    "asha": Asha,
    "asha-promotion": PromotionAsha,
    "none": Asha,  # its settings have no rungs then
}


def make_scheduler(config: AshaConfig, max_epochs: int, seed: int) -> Scheduler:
    """Return the scheduler that ``config`` names, before any report."""
    return _SCHEDULERS[config.scheduler](config, max_epochs, seed)
