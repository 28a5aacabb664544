"""Samples of a trial's model for the live views, drawn in their threads from its newest checkpoint."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from vae_tune.names import COMPLETE, PRUNED
from vae_tune.trials import TrialRow

_COLUMNS = 8


class Sketch:
    """A sheet of 8 x 8 samples, drawn when it is first asked for.

    The checkpoint is opened at once, which costs microseconds, and read later: the search may have deleted it by then.
    """

    def __init__(self, checkpoint: BinaryIO, shape: tuple[int, ...]):
        self._checkpoint = checkpoint
        self._shape = shape
        self._lock = threading.Lock()
        self._sheet: npt.NDArray[np.uint8] | None = None

    def __call__(self) -> npt.NDArray[np.uint8]:
        """Return the sheet: (height, width), grey values."""
        from vae_tune.checkpoint import model_from_bytes
        from vae_tune.generate import grid, samples

        with self._lock:
            if self._sheet is None:
                with self._checkpoint as file:
                    model, _ = model_from_bytes(file.read())
                self._sheet = grid(samples(model, _COLUMNS * _COLUMNS, self._shape), _COLUMNS)
            return self._sheet


def sketch(folder: Path, row: TrialRow, shape: tuple[int, ...]) -> Sketch | None:
    """Return the samples of an ended trial of the study in ``folder``; None while it runs, or without checkpoint."""
    from vae_tune.checkpoint import checkpoint_file, checkpoint_folder

    if row.state not in (COMPLETE, PRUNED):
        return None
    try:
        return Sketch(checkpoint_file(checkpoint_folder(folder, row.trial), row.epochs).open("rb"), shape)
    except OSError:
        return None
