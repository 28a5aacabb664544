"""A search outlives its Ray: where a local Ray dies, it is started again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from vae_tune.cluster.ray_processes import RayDied
from vae_tune.cluster.ray_runtime import RunningRay
from vae_tune.config.errors import SearchError
from vae_tune.config.names import FAILED
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import now
from vae_tune.search.stopping import Stopping

_MAX_RESTARTS = 3
"""Times in a row that Ray is started again without a finished epoch between."""


def run_with_restarts(
    run: Callable[[], None], record: StudyRecord, stopping: Stopping, ray: RunningRay, warn: Callable[[str], None]
) -> None:
    """Call ``run``, which runs trials; where a local Ray dies, start it again and go on, as a resume would.

    Raises:
        SearchError: Ray died again after the last restart that is tried without a finished epoch between.
    """
    starts, before, has_died = 0, -1, False
    while True:
        try:
            if has_died:
                ray.restart()
            ray.check()
            run()
            return
        except RayDied as died:
            if stopping.was_asked:
                return
            has_died = True
            epochs = sum(row.epochs for row in record.rows)
            starts = 1 if epochs != before else starts + 1
            before = epochs
            if stopping.error or not ray.can_restart:
                raise failed(record, stopping.error or str(died)) from died
            if starts > _MAX_RESTARTS:
                times = f"{_MAX_RESTARTS} times in a row, and no epoch was finished"
                raise failed(record, f"{died} It was started again {times}.") from died
            warn(f"{died} It is started again, and the search goes on (attempt {starts} of {_MAX_RESTARTS}).")


def failed(record: StudyRecord, error: str) -> SearchError:
    """Record that an error ended the search, and return the error to raise."""
    with contextlib.suppress(OSError):
        record.set_status(FAILED, ended=now())
    return SearchError(f"{error}\nFix the cause, then resume: {record.resume_command}")
