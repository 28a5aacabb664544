"""A node that is about to be taken away, as spot machines are: Ray calls it draining, and sets a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from vae_tune.config.compat.ray import state

_POLL_SECONDS = 2.0
_AGAIN_SECONDS = 15.0


def on_notice(save: Callable[[], None]) -> Callable[[], None]:
    """Return what calls ``save`` as soon as this node is draining, and every 15 seconds from then on.

    It costs nothing to call often: Ray is asked every two seconds at most.
    """
    node = ray.get_runtime_context().get_node_id()
    due = 0.0

    def check() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + _POLL_SECONDS
        if node in state.get_draining_nodes():
            save()
            due = time.monotonic() + _AGAIN_SECONDS

    return check
