"""Samples of a trial's model for the live views, drawn in their threads from the trial's newest checkpoint."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vae_tune.config.names import COMPLETE, PRUNED
from vae_tune.config.storage import open_bytes
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.view import DrawSamples

_COLUMNS = 8


def samples_of(folder: Path, row: TrialRow) -> DrawSamples | None:
    """Return the samples of a trial of the study in ``folder``; None while it runs, or if it has no checkpoint.

    A checkpoint on disk is opened now, which takes microseconds, because the search may delete it before a view reads
    it. One on object storage is read when it is drawn: on the first call, for all views.
    """
    from vae_tune.vae.checkpoint import checkpoint_file, checkpoint_folder, model_from_bytes

    if row.state not in (COMPLETE, PRUNED):
        return None
    path = checkpoint_file(checkpoint_folder(folder, row.trial), row.epochs)
    try:
        read_checkpoint = open_bytes(path)
    except OSError:
        return None
    lock = threading.Lock()

    @cache
    def sheet() -> npt.NDArray[np.uint8]:
        from vae_tune.vae.pictures import fit_page, grid, samples

        model, _ = model_from_bytes(read_checkpoint())
        return fit_page(grid(samples(model, _COLUMNS * _COLUMNS), _COLUMNS))

    def draw() -> npt.NDArray[np.uint8] | None:
        with lock, suppress(FileNotFoundError):
            return sheet()
        return None

    return draw
