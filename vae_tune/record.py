"""The study folder while a search writes it: the Optuna study is the record, the tables are derived from it.

One driver writes. Each report goes into the Optuna journal in full (its loss as intermediate value, the rest as
a user attribute), so that ``trials.csv`` and ``epochs.csv`` can be made again from the journal alone.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from vae_tune.files import atomic, read_json, write_json
from vae_tune.names import (
    COMPLETE,
    DEVICE,
    EPOCH,
    EPOCH_COLUMNS,
    EPOCHS,
    EPOCHS_FILE,
    FAIL,
    IMAGES_PER_SECOND,
    JOURNAL_FILE,
    NODE,
    PRUNED,
    REASON,
    REPORT_COLUMNS,
    RUNNING,
    SECONDS,
    STARTED,
    STATE,
    STUDY_FILE,
    TIME,
    TRIAL,
    TRIAL_COLUMNS_AFTER,
    TRIAL_COLUMNS_BEFORE,
    TRIALS_FILE,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)
from vae_tune.space import Space

_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAIL: TrialState.FAIL}
_REPORT_ATTRIBUTE = "report:"
_REFERENCE_ATTRIBUTE = "reference"


@dataclass(frozen=True)
class TrialRow:
    """One trial as it stands: a row of ``trials.csv``."""

    trial: int
    values: Mapping[str, Any]
    """The hyperparameters by their own names."""
    started: str
    """UTC, ISO 8601."""
    state: str = RUNNING
    reason: str = ""
    reports: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """One per epoch, in order: the columns of ``epochs.csv`` without the trial."""
    node: str = ""
    device: str = ""

    @property
    def epochs(self) -> int:
        """Epochs reported."""
        return int(self.reports[-1][EPOCH]) if self.reports else 0

    @property
    def val_loss(self) -> float | None:
        """Newest validation negative ELBO, nats per image."""
        return self._last(VAL_LOSS)

    @property
    def seconds(self) -> float:
        """Time spent in this trial's epochs."""
        return math.fsum(report[SECONDS] for report in self.reports)

    @property
    def images_per_second(self) -> float | None:
        """Training speed of the newest epoch."""
        return self._last(IMAGES_PER_SECOND)

    def cells(self) -> dict[str, Any]:
        """Return the row by column name."""
        return {
            TRIAL: self.trial,
            STATE: self.state,
            REASON: self.reason,
            EPOCHS: self.epochs,
            VAL_LOSS: self.val_loss,
            VAL_RECONSTRUCTION: self._last(VAL_RECONSTRUCTION),
            VAL_KL: self._last(VAL_KL),
            **self.values,
            STARTED: self.started,
            SECONDS: round(self.seconds, 3),
            NODE: self.node,
            DEVICE: self.device,
        }

    def _last(self, name: str) -> Any:
        return self.reports[-1][name] if self.reports else None


class Ranked(Protocol):
    """What it takes to rank a trial."""

    @property
    def trial(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def val_loss(self) -> float | None: ...


_Row = TypeVar("_Row", bound=Ranked)


def winner(rows: Iterable[_Row], max_epochs: int) -> _Row | None:
    """Return the best trial: the lowest ``val_loss`` among COMPLETE trials at ``max_epochs``.

    Where none is complete it is the lowest at the deepest epoch that any trial reached; FAIL trials never win.
    """
    candidates = [row for row in rows if row.epochs and row.state != FAIL]
    best = [row for row in candidates if row.state == COMPLETE and row.epochs == max_epochs]
    if not best and candidates:
        deepest = max(row.epochs for row in candidates)
        best = [row for row in candidates if row.epochs == deepest]
    return min(best, key=lambda row: (row.val_loss or 0, row.trial), default=None)


def open_journal(path: Path, *, read_only_lock: bool = False) -> JournalStorage:
    """Open the Optuna journal at ``path``.

    The driver holds the study's own lock, so Optuna's lock per write (30 s of waiting after a crash) is left
    out; appending one line is atomic for those who only watch.
    """
    return JournalStorage(JournalFileBackend(str(path), lock_obj=None if read_only_lock else _NoLock()))  # type: ignore[arg-type]


class StudyRecord:
    """A study folder, opened for writing by the one driver."""

    def __init__(self, folder: Path, manifest: dict[str, Any], space: Space):
        """Create the folder's files; see :meth:`create`."""
        self.folder = folder
        self.manifest = manifest
        self.listeners: list[Callable[[TrialRow], None]] = []
        self._hyperparameters = tuple(space.distributions)
        self._rows: dict[int, TrialRow] = {}
        self._trials: dict[int, optuna.Trial] = {}
        self._lines: dict[int, str] = {}
        self.study = optuna.create_study(
            storage=open_journal(folder / JOURNAL_FILE), study_name=folder.name, direction="minimize"
        )
        self._epochs = (folder / EPOCHS_FILE).open("a", newline="", encoding="utf-8")
        self._write_epochs(EPOCH_COLUMNS)
        self._write_trials()
        write_json(folder / STUDY_FILE, manifest)

    @classmethod
    def create(cls, folder: Path, manifest: dict[str, Any], space: Space) -> StudyRecord:
        """Make a new study folder.

        Raises:
            FileExistsError: there is one already.

        """
        folder.mkdir(parents=True)
        return cls(folder, manifest, space)

    @property
    def rows(self) -> Sequence[TrialRow]:
        """All trials by number."""
        return [self._rows[number] for number in sorted(self._rows)]

    def start(self, trial: optuna.Trial, values: Mapping[str, Any], *, reference: bool = False) -> None:
        """Note that a trial was asked for; ``values`` are its hyperparameters."""
        if reference and dict(values) != trial.params:
            trial.set_user_attr(_REFERENCE_ATTRIBUTE, dict(values))
        self._trials[trial.number] = trial
        self._update(TrialRow(trial.number, dict(values), now()))

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """Record one epoch; an epoch that is known already (a trial came back from a checkpoint) is ignored."""
        row = self._rows[number]
        if result[EPOCH] <= row.epochs:
            return
        report = {name: result[name] for name in REPORT_COLUMNS} | {TIME: now()}
        trial = self._trials[number]
        for name in (NODE, DEVICE):
            if result.get(name) and result[name] != getattr(row, name):
                trial.set_user_attr(name, result[name])
        trial.set_user_attr(f"{_REPORT_ATTRIBUTE}{report[EPOCH]}", report)
        trial.report(report[VAL_LOSS], report[EPOCH])
        self._write_epochs([number, *report.values()])
        where = {name: result.get(name) or getattr(row, name) for name in (NODE, DEVICE)}
        self._update(replace(row, reports=(*row.reports, report), **where))

    def finish(self, number: int, state: str, reason: str = "") -> None:
        """Tell Optuna how a trial ended: COMPLETE, PRUNED or FAIL, with a reason for FAIL."""
        trial, row = self._trials.pop(number), self._rows[number]
        if reason:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, row.val_loss if state == COMPLETE else None, _STATES[state])
        self._update(replace(row, state=state, reason=reason))

    def set_status(self, status: str, **more: Any) -> None:
        """Write what became of the search into ``study.json``."""
        self.manifest = {**self.manifest, "status": status, **more}
        write_json(self.folder / STUDY_FILE, self.manifest)

    def close(self) -> None:
        """Close the files."""
        self._epochs.close()

    def _update(self, row: TrialRow) -> None:
        known = self._rows.get(row.trial)
        self._rows[row.trial] = row
        if known is None or known.state != row.state:
            self._write_trials(row)
        for listener in self.listeners:
            listener(row)

    def _write_epochs(self, cells: Iterable[Any]) -> None:
        csv.writer(self._epochs, lineterminator="\n").writerow(cells)
        self._epochs.flush()

    def _write_trials(self, row: TrialRow | None = None) -> None:
        columns = (*TRIAL_COLUMNS_BEFORE, *self._hyperparameters, *TRIAL_COLUMNS_AFTER)
        if row is not None:
            cells = row.cells()
            self._lines[row.trial] = _line(cells.get(column, "") for column in columns)
        with atomic(self.folder / TRIALS_FILE) as file:
            lines = [_line(columns), *(self._lines[number] for number in sorted(self._lines))]
            file.write("".join(lines).encode())


def row_from_trial(trial: optuna.trial.FrozenTrial) -> TrialRow:
    """Return the row of a trial from the Optuna study alone."""
    attributes = trial.user_attrs
    epochs = sorted(int(key.partition(":")[2]) for key in attributes if key.startswith(_REPORT_ATTRIBUTE))
    return TrialRow(
        trial=trial.number,
        values=attributes.get(_REFERENCE_ATTRIBUTE, trial.params),
        started=_iso(trial.datetime_start.astimezone(UTC)) if trial.datetime_start else "",
        state=trial.state.name,
        reason=attributes.get(REASON, ""),
        reports=tuple(attributes[f"{_REPORT_ATTRIBUTE}{epoch}"] for epoch in epochs),
        node=attributes.get(NODE, ""),
        device=attributes.get(DEVICE, ""),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return ``study.json``.

    Raises:
        OSError, ValueError: the folder is no study.

    """
    manifest = read_json(folder / STUDY_FILE)
    if not isinstance(manifest, dict) or "config" not in manifest:
        raise ValueError(f"{folder / STUDY_FILE} is no study")
    return manifest


def now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return _iso(datetime.now(UTC))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow("" if cell is None else cell for cell in cells)
    return text.getvalue()


class _NoLock:
    """A lock that is always free."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
