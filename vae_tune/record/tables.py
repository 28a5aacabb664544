"""``trials.csv`` and ``epochs.csv`` of a study while a search writes them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_tune.config import names
from vae_tune.config.csv_tables import csv_line
from vae_tune.config.files import atomic
from vae_tune.config.metric import Metric
from vae_tune.record.trials import TrialRow

_SECONDS = 1.0  # a running trial's row in trials.csv may be this old
_SHARE = 0.05  # of the driver's time at most goes into trials.csv, which is written whole


class Tables:
    """The two tables: a report is added to one at once, the other is written anew from time to time."""

    def __init__(self, folder: Path, ranking: Metric, searched: Sequence[str], rows: Sequence[TrialRow]):
        """Write the reports of ``rows``; ``searched`` are the hyperparameters."""
        self._folder = folder
        self._epoch_columns = tuple(ranking.epoch_columns)
        self._trial_columns = (*ranking.trial_columns_before, *searched, *names.TRIAL_COLUMNS_AFTER)
        self._rows = {row.trial: row for row in rows}
        self._lines: dict[int, str] = {}
        """The lines of ``trials.csv`` that hold the rows as they are now, by trial."""
        self._stale = False
        self._written = self._next = 0.0
        reports = [(row.trial, report) for row in rows for report in row.reports]
        reports.sort(key=lambda pair: pair[1][names.ORDER])
        with atomic(folder / names.EPOCHS_FILE) as file:
            file.write(csv_line(self._epoch_columns).encode())
            file.writelines(self._epochs_line(number, report).encode() for number, report in reports)
        self._epochs = (folder / names.EPOCHS_FILE).open("a", newline="", encoding="utf-8")

    def update(self, row: TrialRow, report: Mapping[str, Any] | None) -> None:
        """Take a trial that changed, perhaps by a report."""
        known = self._rows.get(row.trial)
        changed = known is None or (known.state, known.reason, known.values) != (row.state, row.reason, row.values)
        self._rows[row.trial] = row
        self._lines.pop(row.trial, None)
        if report is not None:
            self._epochs.write(self._epochs_line(row.trial, report))
            self._epochs.flush()
        self._stale = self._stale or changed or time.monotonic() - self._written > _SECONDS

    def refresh(self) -> None:
        """Write ``trials.csv`` where a trial changed since, unless it was written a moment ago."""
        if self._stale and time.monotonic() >= self._next:
            self.write_trials()

    def write_trials(self) -> None:
        """Write ``trials.csv``."""
        start, self._stale = time.monotonic(), False
        for number in self._rows.keys() - self._lines.keys():
            self._lines[number] = self._trials_line(self._rows[number])
        with atomic(self._folder / names.TRIALS_FILE) as file:
            lines = [csv_line(self._trial_columns), *(self._lines[number] for number in sorted(self._lines))]
            file.write("".join(lines).encode())
        self._written = time.monotonic()
        self._next = self._written + (self._written - start) / _SHARE

    @property
    def are_stale(self) -> bool:
        """Whether ``trials.csv`` lacks the change of a trial."""
        return self._stale

    def close(self) -> None:
        """Close ``epochs.csv``."""
        self._epochs.close()

    def _trials_line(self, row: TrialRow) -> str:
        cells = row.cells()
        return csv_line(cells.get(column, "") for column in self._trial_columns)

    def _epochs_line(self, number: int, report: Mapping[str, Any]) -> str:
        return csv_line(number if column == names.TRIAL else report[column] for column in self._epoch_columns)
