"""The schedulers that a search can use.

To add one, write a module beside :mod:`vae_tune.search.asha` with a class that implements
:class:`vae_tune.search.scheduler.Scheduler`, add it to :data:`SCHEDULERS`, and add its name to
``vae_tune.config.settings.SchedulerName``.
"""

from __future__ import annotations

from collections.abc import Mapping

from vae_tune.config.settings import AshaConfig, SchedulerName
from vae_tune.search.asha import Asha, PromotionAsha
from vae_tune.search.freeze_thaw import FreezeThaw
from vae_tune.search.scheduler import Scheduler

SCHEDULERS: Mapping[SchedulerName, type[Scheduler]] = {
    "asha": Asha,
    "asha-promotion": PromotionAsha,
    "freeze-thaw": FreezeThaw,
    "none": Asha,  # its settings have no rungs then
}


def make_scheduler(config: AshaConfig, max_epochs: int, seed: int) -> Scheduler:
    """Return the scheduler that ``config`` names, before any report."""
    return SCHEDULERS[config.scheduler](config, max_epochs, seed)
