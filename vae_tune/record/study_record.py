"""The study folder while a search writes it: the Optuna study is the record, the tables are derived from it.

One driver writes. Each report goes into the Optuna journal in full (its loss as intermediate value, the rest as
a user attribute), so that ``trials.csv`` and ``epochs.csv`` can be made again from the journal alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vae_tune.config.compat.optuna import trial_id
from vae_tune.config.csv_tables import csv_line
from vae_tune.config.files import atomic, delete_temporary_files, write_json
from vae_tune.config.local_copies import original_address
from vae_tune.config.names import (
    AUDITED,
    COLLAPSED,
    COMPLETE,
    DEVICE,
    DIRECTION,
    DIVERGED,
    EPOCH,
    EPOCH_COLUMNS,
    EPOCHS_FILE,
    FAIL,
    JOURNAL_FILE,
    NODE,
    ORDER,
    PRUNED,
    REASON,
    REPORT_COLUMNS,
    RUNNING,
    STUDY_FILE,
    TIME,
    TRIAL_COLUMNS_AFTER,
    TRIAL_COLUMNS_BEFORE,
    TRIALS_FILE,
    VAL_LOSS,
    WARM_START,
)
from vae_tune.config.settings import UsageError
from vae_tune.record.diagnostics import collapse_reason
from vae_tune.record.journal import Journal, UtcStorage
from vae_tune.record.lock import StudyLock
from vae_tune.record.metadata import read_manifest, resume_command
from vae_tune.record.recovery import refuse_lost_epochs
from vae_tune.record.sampler_view import SET_ASIDE, borrowed_trials, seen_study
from vae_tune.record.trials import (
    REPORT_ATTRIBUTE,
    VALUES_ATTRIBUTE,
    TrialRow,
    add_note,
    iso,
    now,
    row_from_trial,
)

_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAIL: TrialState.FAIL}
_TABLE_SECONDS = 1.0  # a running trial's row in trials.csv may be this old
_TABLE_SHARE = 0.05  # of the driver's time at most goes into trials.csv, which is written whole


class StudyRecord:
    """A study folder, opened for writing by the one driver.

    What changes is written into the tables, and told to the listeners, once it is in the journal.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        lock: StudyLock,
        journal: Journal,
        plant: Callable[[optuna.Study], None] | None = None,
        place: Path | None = None,
    ):
        """Open the files; use :meth:`create` or :meth:`resume`."""
        self.folder = folder
        self.place = place or folder
        """The study: the folder, or where on object storage it is a working copy of. There the checkpoints are."""
        self.after_upload: Callable[[Callable[[], None]], None] = _at_once
        """Does something as soon as the record as it is now is safe at ``place``."""
        self.manifest = manifest
        self.listeners: list[Callable[[TrialRow], None]] = []
        self._lock = lock
        self._rows: dict[int, TrialRow] = {}
        self._trials: dict[int, optuna.Trial] = {}
        self._lines: dict[int, str] = {}
        self._changed: list[tuple[TrialRow, str]] = []
        self._stale = False
        self._written = self._next_table = 0.0
        self._journal = journal
        storage = UtcStorage(self._journal)
        self.study = optuna.create_study(
            storage=storage, study_name=manifest["name"], direction=DIRECTION, load_if_exists=True
        )
        if plant is not None:
            with self.transaction():
                plant(self.study)
        lent = borrowed_trials(self.study)
        self.seen = seen_study(manifest["name"], storage, lent)
        trials = self.study.get_trials(deepcopy=False)
        self.borrowed: Sequence[FrozenTrial] = [*lent, *(trial for trial in trials if WARM_START in trial.user_attrs)]
        """Trials of other studies; older versions put them among the study's own."""
        for trial in trials:
            if trial.state != TrialState.WAITING and WARM_START not in trial.user_attrs:
                self._adopt(trial)
        reports = [(row.trial, report) for row in self._rows.values() for report in row.reports]
        reports.sort(key=lambda pair: pair[1][ORDER])
        self._reports = len(reports)
        self._rewrite_epochs(reports)
        self._epochs = (folder / EPOCHS_FILE).open("a", newline="", encoding="utf-8")
        self.set_status("running")

    @classmethod
    def create(
        cls,
        folder: Path,
        manifest: dict[str, Any],
        plant: Callable[[optuna.Study], None] | None = None,
        place: Path | None = None,
    ) -> StudyRecord:
        """Make a new study folder; ``plant`` gives the study what it starts from, before the folder counts as one.

        What a creation that was killed left behind gives way: without ``study.json`` a folder is no study yet.

        Raises:
            FileExistsError: there is a study already.
            UsageError: another driver is creating it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = StudyLock(folder)
        try:
            if (folder / STUDY_FILE).exists():
                raise FileExistsError(folder)
            for name in (JOURNAL_FILE, EPOCHS_FILE, TRIALS_FILE):
                (folder / name).unlink(missing_ok=True)
            delete_temporary_files(folder)
            return cls(folder, manifest, lock, Journal(folder / JOURNAL_FILE), plant, place)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(
        cls, folder: Path, manifest: dict[str, Any], place: Path | None = None, known: Mapping[str, Any] | None = None
    ) -> StudyRecord:
        """Open an existing study folder after any kind of end; the tables are made again from the journal.

        ``known`` is what ``study.json`` held when it was decided to resume.

        Raises:
            UsageError: another driver writes it, or did since; or its journal is missing or damaged. Nothing was
                changed. Or it cannot be written.
        """
        path, name = folder / JOURNAL_FILE, original_address(folder)
        if not path.exists():
            raise UsageError(f"{name} cannot be resumed: {JOURNAL_FILE} is missing. Nothing was changed.")
        try:
            refuse_lost_epochs(folder)
            lock = StudyLock(folder)
            try:
                if known is not None and read_manifest(folder) != known:
                    raise UsageError(f"Another driver wrote {name} meanwhile. Nothing was changed: run this again.")
                journal = Journal(path)
                if not journal.holds(manifest["name"]):
                    what = f"it holds no study {manifest['name']!r}"
                    raise UsageError(f"{original_address(path)} is damaged: {what}. Nothing was changed.")
                delete_temporary_files(folder)
                return cls(folder, manifest, lock, journal, place=place)
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            reason = f"{error.strerror or error}. What it holds is whole"
            raise UsageError(f"The study {name} cannot be read or written: {reason}.") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is logged in the block in one piece, at its end."""
        with self._journal.transaction():
            yield
        self._tell()

    @property
    def resume_command(self) -> str:
        """What to type to go on with the study."""
        return resume_command(self.manifest["kind"], self.place)

    @property
    def rows(self) -> Sequence[TrialRow]:
        """All trials by number, which is the order in which Optuna hands them out."""
        return list(self._rows.values())

    def row(self, number: int) -> TrialRow:
        """Return the trial of that number; it need not be the place in ``rows``, see :attr:`borrowed`."""
        return self._rows[number]

    def unfinished(self) -> list[optuna.Trial]:
        """Return the trials that a search that ended early left RUNNING, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    def start(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None:
        """Note that a trial is about to run; ``values`` are its hyperparameters."""
        if dict(values) != trial.params:
            trial.set_user_attr(VALUES_ATTRIBUTE, dict(values))
        self._trials[trial.number] = trial
        row = self._rows.get(trial.number) or TrialRow(trial.number, {}, iso(trial.datetime_start))
        self._update(replace(row, values=dict(values)))

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """Record one epoch; an epoch that is known already (a trial came back from a checkpoint) is ignored."""
        row = self._rows[number]
        if result.get(REASON):
            self.note(number, result[REASON])
            row = self._rows[number]
        if result[EPOCH] <= row.epochs:
            return
        self._reports += 1
        report = {name: result[name] for name in REPORT_COLUMNS} | {TIME: now(), ORDER: self._reports}
        where = {name: result.get(name) or getattr(row, name) for name in (NODE, DEVICE)}
        trial = self._trials[number]
        with self.transaction():
            for name, value in where.items():
                if value != getattr(row, name):
                    trial.set_user_attr(name, value)
            trial.set_user_attr(f"{REPORT_ATTRIBUTE}{report[EPOCH]}", report)
            trial.report(report[VAL_LOSS], report[EPOCH])
        self._update(replace(row, reports=(*row.reports, report), **where), _epochs_line(number, report))

    def note(self, number: int, reason: str) -> None:
        """Note something about a trial that goes on, for its ``reason`` column."""
        reason = add_note(self._rows[number].reason, reason)
        self._trials[number].set_user_attr(REASON, reason)
        self._update(replace(self._rows[number], reason=reason))

    def set_aside(self, number: int, epoch: int) -> None:
        """Let the sampler take a trial that goes on for one pruned at ``epoch``, 0 for no more."""
        self._trials[number].set_user_attr(SET_ASIDE, epoch)

    def audit(self, number: int, epoch: int) -> None:
        """Note that a trial goes on past a rung that condemned it, at ``epoch``; to the sampler it is pruned there."""
        with self.transaction():
            self.set_aside(number, epoch)
            self._trials[number].set_user_attr(AUDITED, epoch)
            self._rows[number] = replace(self._rows[number], audited=epoch)
            self.note(number, f"{AUDITED}: the rung at epoch {epoch} would have stopped it")

    def finish(self, number: int, state: str, reason: str = "", diverged: bool = False) -> None:
        """Tell Optuna how a trial ended: COMPLETE, PRUNED or FAIL, with a reason for FAIL or where it collapsed."""
        trial, row = self._trials.pop(number), self._rows[number]
        collapsed = "" if reason else self._collapse(row)
        reason = add_note(row.reason, reason or collapsed)
        marks: dict[str, Any] = {COLLAPSED: bool(collapsed), DIVERGED: diverged}
        with self.transaction():
            for name, value in (({REASON: reason} if reason else {}) | marks).items():
                trial.set_user_attr(name, value)
            told = self.study.tell(trial, row.val_loss if state == COMPLETE else None, _STATES[state])
        self._update(replace(row, state=state, reason=reason, ended=iso(told.datetime_complete), **marks))

    def refresh(self) -> None:
        """Write ``trials.csv`` where a trial changed since, unless it was written a moment ago."""
        if self._stale and time.monotonic() >= self._next_table:
            self._write_trials()

    def set_status(self, status: str, ended: str | None = None) -> None:
        """Write what became of the search into ``study.json``, and the tables as they are now.

        ``ended`` is when this run of the search ended, for its entry among the study's runs.
        """
        self._write_trials()
        runs = list(self.manifest.get("runs", []))
        if ended is not None and runs:
            runs[-1] = {**runs[-1], "ended": ended}
        self.manifest = {**self.manifest, "status": status, "runs": runs}
        write_json(self.folder / STUDY_FILE, self.manifest)

    def close(self) -> None:
        """Write and close the files, and let others write; a disk that is full changes nothing about that."""
        if self._stale:
            with contextlib.suppress(OSError):
                self._write_trials()
        for file in (self._epochs, self._journal):
            with contextlib.suppress(OSError):
                file.close()
        self._lock.release()

    def _collapse(self, row: TrialRow) -> str:
        latent_size = row.values.get("latent_size", self.manifest["reference"]["latent_size"])
        return collapse_reason(row, latent_size, self.manifest["config"]["asha"]["grace_period"])

    def _adopt(self, frozen: optuna.trial.FrozenTrial) -> None:
        """Take over a trial from the journal; one that is unfinished gets the report a crash cut short."""
        row = row_from_trial(frozen)
        self._rows[row.trial] = row
        self._lines[row.trial] = self._trials_line(row)
        if row.state == RUNNING:
            trial = optuna.Trial(self.seen, trial_id(frozen))
            self._trials[row.trial] = trial
            for report in row.reports:
                if report[EPOCH] not in frozen.intermediate_values:
                    trial.report(report[VAL_LOSS], report[EPOCH])

    def _update(self, row: TrialRow, epochs_line: str = "") -> None:
        known = self._rows.get(row.trial)
        self._rows[row.trial] = row
        self._lines[row.trial] = self._trials_line(row)
        changed = known is None or (known.state, known.reason, known.values) != (row.state, row.reason, row.values)
        self._stale = self._stale or changed
        self._changed.append((row, epochs_line))
        self._tell()

    def _tell(self) -> None:
        """Write and tell what changed, unless a transaction is open: a table never has what the journal lacks."""
        while self._changed and not self._journal.is_open:
            row, epochs_line = self._changed.pop(0)
            if epochs_line:
                self._epochs.write(epochs_line)
                self._epochs.flush()
            self._stale = self._stale or time.monotonic() - self._written > _TABLE_SECONDS
            self.refresh()
            for listener in self.listeners:
                listener(row)

    def _rewrite_epochs(self, reports: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        with atomic(self.folder / EPOCHS_FILE) as file:
            file.write(csv_line(EPOCH_COLUMNS).encode())
            file.writelines(_epochs_line(number, report).encode() for number, report in reports)

    def _trials_line(self, row: TrialRow) -> str:
        cells = row.cells()
        return csv_line(cells.get(column, "") for column in self._trial_columns())

    def _trial_columns(self) -> tuple[str, ...]:
        return (*TRIAL_COLUMNS_BEFORE, *self.manifest["space"], *TRIAL_COLUMNS_AFTER)

    def _write_trials(self) -> None:
        start, self._stale = time.monotonic(), False
        with atomic(self.folder / TRIALS_FILE) as file:
            lines = [csv_line(self._trial_columns()), *(self._lines[number] for number in sorted(self._lines))]
            file.write("".join(lines).encode())
        self._written = time.monotonic()
        self._next_table = self._written + (self._written - start) / _TABLE_SHARE


def _at_once(action: Callable[[], None]) -> None:
    action()


def _epochs_line(number: int, report: Mapping[str, Any]) -> str:
    return csv_line([number, *(report[column] for column in (*REPORT_COLUMNS, TIME))])
