"""The end of a search whose cluster ends at the same moment, as when a job scheduler signals all processes of a job.

Ray would wait for its servers for a minute and then end this process, without a word in the record.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vae_tune.cluster.ray_runtime import RunningRay
from vae_tune.config.names import INTERRUPTED
from vae_tune.search.stopping import Stopping

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 1.0
"""Time for the search to end by itself, once its cluster is gone: Ray's core may end this process in some seconds."""


@contextmanager
def ending_without_cluster(ray: RunningRay, stopping: Stopping, record_end: Callable[[], None]) -> Iterator[None]:
    """End this process soon if the search is interrupted in the block and its cluster no longer answers.

    ``record_end`` is called first. The exit code is 130. A Ray that this process started outlives the signal.
    """
    if ray.can_restart:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            if stopping.reason == INTERRUPTED and not ray.answers() and not ended.wait(_PATIENCE_SECONDS):
                try:
                    record_end()
                finally:
                    os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
