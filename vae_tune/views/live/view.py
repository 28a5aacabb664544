"""The protocol of a live view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from vae_tune.record.trials import TrialRow

DrawSamples = Callable[[], npt.NDArray[np.uint8] | None]
"""Returns a sheet of samples of the trial's model, None if the checkpoint is gone.

The sheet is (height, width), or in color (height, width, 3)."""


class LiveView(ABC):
    """Shows the trials of one study. All calls come from one thread; they may block and raise.

    A view that raised is replaced by a new one, which is shown every trial again.
    """

    name: ClassVar[str]
    """The view's name in messages."""
    package: ClassVar[str]
    """The package that the view imports; the extra of vae_tune that installs it has the name of the view's module."""

    @abstractmethod
    def __init__(self, address: str, folder: Path, metadata: Mapping[str, Any]):
        """Connect the view of the study in ``folder``; ``metadata`` is the content of its ``study.json``.

        ``address`` is the value of the view's field in :class:`~vae_tune.config.settings.ViewsConfig`; of a field that
        is a flag, the folder to write to.
        """

    @abstractmethod
    def show(self, row: TrialRow, draw_samples: DrawSamples | None) -> None:
        """Bring the view of a trial up to date; it may have been shown already, in part or in full."""

    def flush(self) -> None:  # noqa: B027  # a view that collects nothing has nothing to do here
        """Show what :meth:`show` has collected: no other trial is waiting."""

    def close(self, status: str) -> None:  # noqa: B027  # nor one that holds nothing open
        """End the view; ``status`` is that of ``study.json``."""
