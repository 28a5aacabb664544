"""SIGUSR1, which pauses a search: kept by a job until its search can pause."""

from __future__ import annotations

import signal
from types import FrameType


class HeldPause:
    """A signal handler that keeps SIGUSR1 for later; without one, the signal would end the process."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Note that the signal came."""
        self.asked = True


def hold_pause() -> HeldPause:
    """Keep SIGUSR1 from now on, between the blocks in which the search can pause."""
    held = HeldPause()
    signal.signal(signal.SIGUSR1, held)
    return held
