"""The schedulers that a search can use.

To add one, write a module beside :mod:`vae_tune.search.asha` with a class that implements
:class:`vae_tune.search.scheduler.Scheduler`, return it here, and add its name to ``AshaConfig.scheduler``. Nothing
else knows which scheduler it is.
"""

from __future__ import annotations

from vae_tune.config.settings import AshaConfig
from vae_tune.search.asha import Asha, PromotionAsha
from vae_tune.search.scheduler import Scheduler


def make_scheduler(config: AshaConfig, max_epochs: int, seed: int) -> Scheduler:
    """Return the scheduler that ``config`` names, before any report."""
    return (PromotionAsha if config.scheduler == "asha-promotion" else Asha)(config, max_epochs, seed)
