"""TensorBoard: event files below the study folder, one folder per trial.

This module writes the events itself, without TensorBoard's writer threads, which print errors to the terminal.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from vae_tune.config.metric import Metric
from vae_tune.config.names import EPOCH, FAIL, RUNNING, TIME
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.view import DrawSamples, LiveView

_COMPLETE_MARKER = ".whole"  # a file in the folder of an ended trial whose events are all written: its epochs


class TensorBoard(LiveView):
    """Writes scalars by epoch, hyperparameters and, at a trial's end, samples.

    Events that an earlier run of the search left incomplete are written again from the trial's reports.
    """

    name = "TensorBoard"
    package = "tensorboardX"

    def __init__(self, address: str, folder: Path, metadata: Mapping[str, Any]):  # noqa: ARG002
        """Write below the folder ``address``."""
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event

        self._folder = Path(address)
        self._ranking = Metric.of(metadata["metric"])
        self._summary, self._new_writer, self._new_event = summary, EventsWriter, Event
        self._writers: dict[int, Any] = {}
        self._written: dict[int, int] = {}  # epochs, by trial

    def show(self, row: TrialRow, draw_samples: DrawSamples | None) -> None:
        """Write the new epochs of a trial; at its end also its samples."""
        folder = self._folder / f"trial_{row.trial:05d}"
        if self._is_whole(row, folder):
            return
        if row.trial not in self._writers:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._writers[row.trial] = self._new_writer(str(folder / "events"))
            self._written[row.trial] = 0
            for summary in self._hparams(row)[:2]:  # the experiment and the start of its session
                self._write(row, summary)
        for report in row.reports[self._written[row.trial] :]:
            for name in self._ranking.report_columns:
                if name != EPOCH:
                    self._write(row, self._summary.scalar(name, report[name]), report)
            self._written[row.trial] += 1
        if row.state == RUNNING:
            self._writers[row.trial].flush()
        else:
            self._finish(row, folder, draw_samples)

    def _is_whole(self, row: TrialRow, folder: Path) -> bool:
        """Return whether the events of a trial are all written; of one that goes on after its end, they are not."""
        try:
            epochs = (folder / _COMPLETE_MARKER).read_text()
        except OSError:
            return False
        return row.state != RUNNING and epochs in ("", str(row.epochs))  # older versions wrote nothing

    def close(self, status: str) -> None:  # noqa: ARG002
        """Close the files of unfinished trials."""
        for writer in self._writers.values():
            writer.close()

    def _finish(self, row: TrialRow, folder: Path, draw_samples: DrawSamples | None) -> None:
        if draw_samples is not None and (sheet := draw_samples()) is not None:
            self._write(row, self._summary.image("samples", sheet, dataformats="HWC"[: sheet.ndim]), row.reports[-1])
        if row.state != FAIL:
            self._write(row, self._hparams(row)[2])  # the session's end
        self._writers.pop(row.trial).close()
        (folder / _COMPLETE_MARKER).write_text(str(row.epochs))

    def _hparams(self, row: TrialRow) -> tuple[Any, Any, Any]:
        parts: tuple[Any, Any, Any] = self._summary.hparams(dict(row.values), {self._ranking.name: None})
        return parts

    def _write(self, row: TrialRow, summary: Any, report: Any = None) -> None:
        """Write a summary at the epoch and time of a report, or at the trial's start."""
        moment = datetime.fromisoformat(report[TIME] if report else row.started).timestamp()
        step = report[EPOCH] if report else 0
        self._writers[row.trial].write_event(self._new_event(wall_time=moment, step=step, summary=summary))
