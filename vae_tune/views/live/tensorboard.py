"""TensorBoard: event files below the study folder, one folder a trial.

The events are written here, without a writer thread of TensorBoard's: these threads print what goes wrong.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from vae_tune.config.names import EPOCH, FAIL, REPORT_COLUMNS, RUNNING, TIME, VAL_LOSS
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.channel import Draw

_WHOLE = ".whole"
"""Marks the folder of an ended trial whose events are all there."""


class TensorBoard:
    """Writes each trial as TensorBoard shows it: scalars by epoch, hyperparameters, samples at its end.

    What an earlier search left behind of a trial is written again from its reports, except where it was whole.
    """

    def __init__(self, folder: Path):
        """Write below ``folder``."""
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event

        self._folder = folder
        self._summary = summary
        self._new_writer = EventsWriter
        self._new_event = Event
        self._writers: dict[int, Any] = {}
        self._written: dict[int, int] = {}

    def show(self, row: TrialRow, draw: Draw | None) -> None:
        """Write what is new of a trial."""
        folder = self._folder / f"trial_{row.trial:05d}"
        if (folder / _WHOLE).exists():
            return
        if row.trial not in self._writers:
            self._open(row, folder)
        for report in row.reports[self._written[row.trial] :]:
            for name in REPORT_COLUMNS:
                if name != EPOCH:
                    self._write(row, self._summary.scalar(name, report[name]), report)
            self._written[row.trial] += 1
        if row.state == RUNNING:
            self._writers[row.trial].flush()
        else:
            self._end(row, folder, draw)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self, status: str) -> None:  # noqa: ARG002
        """Close the files of the trials that have not ended."""
        for writer in self._writers.values():
            writer.close()

    def _open(self, row: TrialRow, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._writers[row.trial] = self._new_writer(str(folder / "events"))
        self._written[row.trial] = 0
        experiment, start, _ = self._hparams(row)
        self._write(row, experiment)
        self._write(row, start)

    def _end(self, row: TrialRow, folder: Path, draw: Draw | None) -> None:
        if draw is not None and (sheet := draw()) is not None:
            self._write(row, self._summary.image("samples", sheet, dataformats="HW"), row.reports[-1])
        if row.state != FAIL:
            self._write(row, self._hparams(row)[2])  # says that the trial was a success
        self._writers.pop(row.trial).close()
        (folder / _WHOLE).touch()

    def _hparams(self, row: TrialRow) -> tuple[Any, Any, Any]:
        parts: tuple[Any, Any, Any] = self._summary.hparams(dict(row.values), {VAL_LOSS: None})
        return parts

    def _write(self, row: TrialRow, summary: Any, report: Any = None) -> None:
        """Write a summary at the epoch and time of a report, or at the trial's start."""
        moment = datetime.fromisoformat(report[TIME] if report else row.started).timestamp()
        step = report[EPOCH] if report else 0
        self._writers[row.trial].write_event(self._new_event(wall_time=moment, step=step, summary=summary))
