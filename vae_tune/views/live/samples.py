"""Samples of a trial's model for the live views, drawn in their threads from the trial's newest checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vae_tune.config.names import COMPLETE, PRUNED
from vae_tune.config.storage import open_bytes
from vae_tune.record.trials import TrialRow

_COLUMNS = 8


class LazySamples:
    """A sheet of 8 x 8 samples that is drawn on the first call and shared by all views."""

    def __init__(self, read_checkpoint: Callable[[], bytes]):
        self._read_checkpoint = read_checkpoint
        self._lock = threading.Lock()
        self._sheet: npt.NDArray[np.uint8] | None = None

    def __call__(self) -> npt.NDArray[np.uint8] | None:
        """Return the sheet, (height, width) or in colour (height, width, 3); None if the checkpoint is gone."""
        from vae_tune.vae.checkpoint import model_from_bytes
        from vae_tune.vae.pictures import fit_page, grid, samples

        with self._lock:
            if self._sheet is None:
                try:
                    model, _ = model_from_bytes(self._read_checkpoint())
                except FileNotFoundError:
                    return None
                self._sheet = fit_page(grid(samples(model, _COLUMNS * _COLUMNS), _COLUMNS))
            return self._sheet


def samples_of(folder: Path, row: TrialRow) -> LazySamples | None:
    """Return the samples of a trial of the study in ``folder``; None while it runs, or if it has no checkpoint.

    A checkpoint on disk is opened now, which takes microseconds, because the search may delete it before a view reads
    it. One on object storage is read when it is drawn.
    """
    from vae_tune.vae.checkpoint import checkpoint_file, checkpoint_folder

    if row.state not in (COMPLETE, PRUNED):
        return None
    path = checkpoint_file(checkpoint_folder(folder, row.trial), row.epochs)
    try:
        return LazySamples(open_bytes(path))
    except OSError:
        return None
