"""The slots of a run of a search over time: a cluster grows and shrinks while the search runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vae_tune.config.names import SLOT_CHANGES, SLOTS, STARTED, TIME


@dataclass(frozen=True)
class RunSlots:
    """How many trials of a run could train side by side from a moment on, and with what."""

    time: str
    """When the run started, or when the search noticed the change: ISO 8601, UTC."""
    count: int
    """0 while a cluster had no node that could run a trial."""
    cpus: int
    """Of each trial."""
    gpus: float
    """Of each trial that had any."""


def slots_of_run(run: Mapping[str, Any]) -> tuple[RunSlots, ...]:
    """Return the slots at the start of ``run``, an entry of the study's runs, and after each change.

    The result is empty if the record lacks them. Older versions recorded only those at the start.
    """
    if not run.get(SLOTS):
        return ()
    entries = [{TIME: run[STARTED], **run[SLOTS]}, *run.get(SLOT_CHANGES, [])]
    return tuple(RunSlots(each[TIME], each["count"], each["cpus"], each["gpus"]) for each in entries)


def most_slots(slots: Sequence[RunSlots]) -> RunSlots | None:
    """Return those with the largest count, None of a run whose slots are not recorded."""
    return max(slots, key=lambda each: each.count, default=None)


def up_to(slots: Sequence[RunSlots]) -> str:
    """Return the words before the largest count: "up to " if the count changed, else ""."""
    return "up to " if len({each.count for each in slots}) > 1 else ""


def with_change(run: Mapping[str, Any], slots: Mapping[str, Any], time: str) -> dict[str, Any]:
    """Return the entry of ``run`` for the changes of its slots, with that to ``slots`` at ``time`` as the last."""
    return {SLOT_CHANGES: [*run.get(SLOT_CHANGES, []), {TIME: time, **slots}]}
