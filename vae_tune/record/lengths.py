"""The last epoch of a search, which a resume may put later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vae_tune.config import names
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import with_values
from vae_tune.vae.schedule import depends_on_end

_SCHEDULE = "lr_schedule"
_WAY = "Leave out --max-epochs to go on, or start a new study."


def refuse_length(before: TrialConfig, now: int, space: Space) -> None:
    """Refuse fewer epochs than a study has, and more where a schedule depends on the last one, or the space fixes it.

    ``before`` is the configuration in the study, ``now`` the epochs asked for.

    Raises:
        UsageError: it names both numbers, and the schedule.
    """
    if now == before.max_epochs:
        return
    if names.MAX_EPOCHS in space.fixed:
        fixed = space.fixed[names.MAX_EPOCHS]
        raise UsageError(f"max_epochs is {fixed} in the space of this study, but got {now}.\n{_WAY}")
    was = f"max_epochs is {before.max_epochs} in this study, but got {now}"
    if now < before.max_epochs:
        raise UsageError(
            f"{was}: it can grow, not shrink.\nGo on with --max-epochs {before.max_epochs}, or start a new study."
        )
    searched: Any = space.distributions.get(_SCHEDULE)
    base = with_values(before, {name: value for name, value in space.fixed.items() if name == _SCHEDULE})
    others = [replace(base, lr_schedule=choice) for choice in searched.choices] if searched else []
    if ending := next(filter(depends_on_end, [base, *others]), None):
        raise UsageError(
            f"{was}: lr_schedule {ending.lr_schedule} depends on it, so the epochs up to now would have been "
            f"different.\n{_WAY}"
        )


def earlier_end(metadata: Mapping[str, Any]) -> int:
    """Return the last epoch before a search was made longer, if a trial was complete there; else 0."""
    before = metadata.get(names.REOPENED, {}).get("before", [])
    last = metadata["reference"]["max_epochs"]
    return max(
        (entry["max_epochs"] for entry in before if entry["complete"] and entry["max_epochs"] < last), default=0
    )
