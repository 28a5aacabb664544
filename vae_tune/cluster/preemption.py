"""Notice that a trial must leave its node soon: Ray marks the node as draining, or the driver pauses the search."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from vae_tune.config.compat.ray import draining_nodes, read_mark, write_mark

_POLL_SECONDS = 1.0
_SAVE_SECONDS = 15.0
_PAUSE = "vae_tune_pause"
"""The name of the mark that tells all workers of a Ray to pause."""


class Paused(Exception):
    """The search pauses; the trial has saved itself in the middle of its epoch."""


def ask_to_pause(*, pausing: bool) -> None:
    """Tell the workers of this Ray to save their trials and to end them; or, at a start, that they train."""
    write_mark(_PAUSE, pausing)


def on_notice(save: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls ``save`` once this node is draining, and every 15 seconds from then on.

    Call it as often as you like: it asks Ray every second at most. Once the search pauses, it calls ``save`` and
    raises Paused.
    """
    node = ray.get_runtime_context().get_node_id()
    due = 0.0

    def check() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + _POLL_SECONDS
        if read_mark(_PAUSE):
            save()
            raise Paused
        if node in draining_nodes():
            save()
            due = time.monotonic() + _SAVE_SECONDS

    return check
