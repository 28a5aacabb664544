"""Samples of a trial's model for the live views, drawn in their threads from its newest checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from vae_tune.config.files import is_remote
from vae_tune.config.names import COMPLETE, PRUNED
from vae_tune.config.storage import read_bytes
from vae_tune.record.trials import TrialRow

_COLUMNS = 8


class Sketch:
    """A sheet of 8 x 8 samples, drawn when it is first asked for.

    A checkpoint on disk is opened at once, which costs microseconds, and read later: the search may have deleted it by
    then. One on object storage is read later, and where it is gone there is no picture.
    """

    def __init__(self, checkpoint: Callable[[], bytes], shape: tuple[int, ...]):
        self._checkpoint = checkpoint
        self._shape = shape
        self._lock = threading.Lock()
        self._sheet: npt.NDArray[np.uint8] | None = None

    def __call__(self) -> npt.NDArray[np.uint8] | None:
        """Return the sheet: (height, width), grey values; None where the checkpoint is gone."""
        from vae_tune.vae.checkpoint import model_from_bytes
        from vae_tune.vae.sampling import grid, samples

        with self._lock:
            if self._sheet is None:
                try:
                    model, _ = model_from_bytes(self._checkpoint())
                except FileNotFoundError:
                    return None
                self._sheet = grid(samples(model, _COLUMNS * _COLUMNS, self._shape), _COLUMNS)
            return self._sheet


def sketch(folder: Path, row: TrialRow, shape: tuple[int, ...]) -> Sketch | None:
    """Return the samples of an ended trial of the study in ``folder``; None while it runs, or without checkpoint."""
    from vae_tune.vae.checkpoint import checkpoint_file, checkpoint_folder

    if row.state not in (COMPLETE, PRUNED):
        return None
    path = checkpoint_file(checkpoint_folder(folder, row.trial), row.epochs)
    if is_remote(path):
        return Sketch(partial(read_bytes, path), shape)
    try:
        return Sketch(partial(_read_and_close, path.open("rb")), shape)
    except OSError:
        return None


def _read_and_close(file: BinaryIO) -> bytes:
    with file:
        return file.read()
