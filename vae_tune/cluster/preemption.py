"""Notice of preemption: Ray marks a spot machine that is about to be taken away as draining, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from vae_tune.config.compat.ray import draining_nodes

_POLL_SECONDS = 2.0
_SAVE_SECONDS = 15.0


def on_notice(save: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls ``save`` once this node is draining, and every 15 seconds from then on.

    Call it as often as you like: it asks Ray every two seconds at most.
    """
    node = ray.get_runtime_context().get_node_id()
    due = 0.0

    def check() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + _POLL_SECONDS
        if node in draining_nodes():
            save()
            due = time.monotonic() + _SAVE_SECONDS

    return check
