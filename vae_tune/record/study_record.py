"""The study folder while a search writes it: the Optuna study is the record, the tables are derived from it.

One driver writes. Each report goes into the Optuna journal in full (its loss as an intermediate value, everything as
a user attribute), so that ``trials.csv`` and ``epochs.csv`` can be made again from the journal alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from vae_tune.config import names
from vae_tune.config.compat.optuna import trial_id
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict
from vae_tune.config.files import delete_temporary_files, write_json
from vae_tune.config.local_copies import original_address
from vae_tune.config.metric import Metric
from vae_tune.config.settings import SearchConfig
from vae_tune.record.basis import Basis
from vae_tune.record.diagnostics import collapse_reason
from vae_tune.record.journal import Journal, UtcStorage
from vae_tune.record.lock import StudyLock
from vae_tune.record.metadata import read_metadata, resume_command
from vae_tune.record.recovery import refuse_lost_epochs
from vae_tune.record.reopening import Reopening, reopen
from vae_tune.record.sampler_view import SET_ASIDE, read_warm_start_trials, sampler_view
from vae_tune.record.tables import Tables
from vae_tune.record.trials import (
    DECISION_ATTRIBUTE,
    REPORT_ATTRIBUTE,
    VALUES_ATTRIBUTE,
    TrialRow,
    add_note,
    now,
    read_study,
    row_from_trial,
)


class _Change(NamedTuple):
    """A trial as it is after a change."""

    row: TrialRow
    report: Mapping[str, Any] | None
    """The report that it adds, if any."""
    logs: int
    """The length of the journal with which it is recorded."""


class StudyRecord:
    """A study folder, opened for writing by the one driver.

    Each change is logged in the journal first. A trial's row is then made from the Optuna study, as after a resume;
    the watchers get it at once, the tables and the listeners once it is on disk.
    """

    def __init__(
        self,
        folder: Path,
        metadata: dict[str, Any],
        lock: StudyLock,
        study: optuna.Study,
        storage: UtcStorage,
        place: Path | None = None,
    ):
        """Open the tables; use :meth:`create` or :meth:`resume`."""
        self.folder = folder
        self.place = place or folder
        """The study, with the checkpoints: the folder itself, or the place on object storage of which it is a copy."""
        self.after_upload: Callable[[Callable[[], None]], None] = lambda action: action()
        """Calls a function as soon as the record as it is now is safe at ``place``."""
        self.metadata = metadata
        self.watchers: list[Callable[[TrialRow], None]] = []
        """Called with each trial that changed, once this is written to the journal."""
        self.listeners: list[Callable[[TrialRow], None]] = []
        """Called with each trial that changed, once this is on disk."""
        self._ranking = Metric.of(metadata["metric"])
        self._least_epochs = from_dict(SearchConfig, metadata["config"]).least_epochs
        self.study = study
        self._lock = lock
        self._journal = storage.journal
        self._rows: dict[int, TrialRow] = {}
        self._ended: set[int] = set()
        self._unfinished: dict[int, optuna.Trial] = {}
        self._unwatched: list[TrialRow] = []
        self._changed: deque[_Change] = deque()
        """What the tables are yet to be told."""
        self._untold: deque[TrialRow] = deque()
        """What is in the tables, and the listeners are yet to be told."""
        self._writing_tables = threading.Lock()
        lent = read_warm_start_trials(study)
        self.sampler_view = sampler_view(metadata["name"], storage, lent)
        trials = study.get_trials(deepcopy=False)
        among_own = (trial for trial in trials if names.WARM_START in trial.user_attrs)
        self.warm_start_trials: Sequence[FrozenTrial] = [*lent, *among_own]
        """Trials of other studies; older versions put them among the study's own."""
        for trial in trials:
            if trial.state != TrialState.WAITING and names.WARM_START not in trial.user_attrs:
                self._adopt(trial)
        self._reports = sum(len(row.reports) for row in self._rows.values())
        self._tables = Tables(folder, self._ranking, tuple(metadata["space"]), self.rows)
        self.set_status("running")

    @classmethod
    def create(
        cls,
        folder: Path,
        metadata: dict[str, Any],
        enqueue: Callable[[optuna.Study], None] | None = None,
        place: Path | None = None,
    ) -> StudyRecord:
        """Make a new study folder; ``enqueue`` gives the study its first trials, before the folder counts as one.

        Leftovers of a creation that was killed are deleted: without ``study.json`` a folder is no study yet.

        Raises:
            FileExistsError: there is a study already.
            UsageError: another driver is creating it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with _released_on_error(StudyLock(folder)) as lock:
            if (folder / names.STUDY_FILE).exists():
                raise FileExistsError(folder)
            for name in (names.JOURNAL_FILE, names.EPOCHS_FILE, names.TRIALS_FILE):
                (folder / name).unlink(missing_ok=True)
            delete_temporary_files(folder)
            journal = Journal(folder / names.JOURNAL_FILE)
            journal.open()
            storage = UtcStorage(journal)
            study = optuna.create_study(
                storage=storage, study_name=metadata["name"], direction=metadata["metric"]["direction"]
            )
            if enqueue is not None:
                with journal.transaction():
                    enqueue(study)
            return cls(folder, metadata, lock, study, storage, place)

    @classmethod
    def resume(
        cls,
        folder: Path,
        metadata: dict[str, Any],
        place: Path | None = None,
        known: Mapping[str, Any] | None = None,
        storage: UtcStorage | None = None,
        *,
        reopening: Reopening | None = None,
    ) -> StudyRecord:
        """Open an existing study folder after any kind of end; the tables are made again from the journal.

        ``study.json`` gets the content ``metadata``; ``known`` is its content when it was decided to resume. The
        journal is read unless it was already, into ``storage``, by :func:`vae_tune.record.trials.read_study`. With
        ``reopening``, it is written anew first.

        Raises:
            UsageError: another driver writes it, or has since ``known``; or its journal is missing or damaged. Nothing
                was changed. Or it cannot be written.
        """
        name = original_address(folder)
        if not (folder / names.JOURNAL_FILE).exists():
            raise UsageError(f"{name} cannot be resumed: {names.JOURNAL_FILE} is missing. Nothing was changed.")
        try:
            storage = storage or read_study(folder)
            refuse_lost_epochs(folder, storage)
            with _released_on_error(StudyLock(folder)) as lock:
                if known is not None and read_metadata(folder) != known:
                    raise UsageError(f"Another driver wrote {name} meanwhile. Nothing was changed: run this again.")
                try:
                    if reopening:
                        storage = reopen(folder, storage, reopening)
                    storage.journal.open()
                    study = optuna.load_study(study_name=metadata["name"], storage=storage)
                except (ValueError, TypeError, LookupError) as error:
                    damage = f"{original_address(folder / names.JOURNAL_FILE)} is damaged: {error}"
                    raise UsageError(f"{damage}. Nothing was changed.") from error
                delete_temporary_files(folder)
                return cls(folder, metadata, lock, study, storage, place)
        except OSError as error:
            reason = f"{error.strerror or error}. The record is intact up to there"
            raise UsageError(f"The study {name} cannot be read or written: {reason}.") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is logged in the block at once, at its end.

        Raises:
            OSError: it cannot be written, or what was written before cannot be brought to disk.
        """
        with self._journal.transaction():
            yield
        while self._unwatched and not self._journal.is_in_transaction:
            row = self._unwatched.pop(0)
            for watcher in self.watchers:
                watcher(row)
        self.refresh()

    @contextlib.contextmanager
    def synced_in_background(self) -> Iterator[None]:
        """Do not wait in the block until what is written is on disk; it is by the end of the block.

        A driver that is killed loses nothing. If the machine loses its power, the record lacks what was written while
        the disk was busy, usually some milliseconds; the trials resume from their checkpoints, which may be ahead.
        """
        with self._journal.synced_in_background():
            yield

    def wait(self) -> None:
        """Wait until all changes are on disk, in the tables, and known to the listeners.

        Raises:
            OSError: they cannot be brought to disk.
        """
        self._journal.wait()
        self.refresh()

    @property
    def resume_command(self) -> str:
        """The command that resumes the study."""
        return resume_command(self.metadata, self.place)

    @property
    def rows(self) -> Sequence[TrialRow]:
        """All trials by number, which is the order in which Optuna creates them."""
        return list(self._rows.values())

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return len(self._ended)

    def row(self, number: int) -> TrialRow:
        """Return the trial with that number, which can differ from its index in ``rows``.

        See :attr:`warm_start_trials`.
        """
        return self._rows[number]

    def optuna_trial(self, number: int) -> optuna.Trial:
        """Return an unfinished trial as Optuna has it."""
        return self._unfinished[number]

    def start(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None:
        """Record that a trial is about to run; ``values`` are its hyperparameters."""
        self._unfinished[trial.number] = trial
        with self.transaction():
            if dict(values) != trial.params:
                trial.set_user_attr(VALUES_ATTRIBUTE, dict(values))
            self._update(trial)

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """Record one epoch; of an epoch that is known (a trial was restored from a checkpoint) only the note is."""
        row, trial = self._rows[number], self._unfinished[number]
        with self.transaction():
            if result.get(names.REASON):
                self.note(number, result[names.REASON])
            if result[names.EPOCH] <= row.epochs:
                return
            self._reports += 1
            report = {name: result[name] for name in names.REPORT_COLUMNS}
            report |= {name: result[f"{names.METRICS_PREFIX}{name}"] for name in self._ranking.columns}
            if self._ranking.columns:
                report[names.RANKED_LOSS] = result[names.RANKED_LOSS]
            report |= {names.TIME: now(), names.ORDER: self._reports}
            for name in (names.NODE, names.DEVICE):
                if result.get(name) not in ("", None, getattr(row, name)):
                    trial.set_user_attr(name, result[name])
            trial.set_user_attr(f"{REPORT_ATTRIBUTE}{report[names.EPOCH]}", report)
            trial.report(report[self._ranking.name], report[names.EPOCH])
            self._update(trial, report)

    def note(self, number: int, note: str) -> None:
        """Add a note to the ``reason`` of a trial that goes on."""
        trial, before = self._unfinished[number], self._rows[number].reason
        with self.transaction():
            trial.set_user_attr(names.REASON, add_note(before, note))
            self._update(trial)

    def set_aside(self, number: int, epoch: int) -> None:
        """Present an unfinished trial to the sampler as pruned at ``epoch``; 0 presents it as it is."""
        self._unfinished[number].set_user_attr(SET_ASIDE, epoch)

    def decided(self, number: int, epoch: int, basis: Basis) -> None:
        """Record what the decision saw that starts an epoch of a trial."""
        trial = self._unfinished[number]
        with self.transaction():
            trial.set_user_attr(f"{DECISION_ATTRIBUTE}{epoch}", [value for value in basis if value is not None])
            self._update(trial)

    def audit(self, number: int, epoch: int) -> None:
        """Record that a trial goes on although the rung at ``epoch`` stopped it; the sampler takes it for pruned."""
        with self.transaction():
            self.set_aside(number, epoch)
            self._unfinished[number].set_user_attr(names.AUDITED, epoch)
            self.note(number, f"{names.AUDITED}: the rung at epoch {epoch} would have stopped it")

    def finish(self, number: int, state: str, reason: str = "", diverged: bool = False) -> None:
        """Tell Optuna the final state of a trial: COMPLETE, PRUNED or FAIL.

        The reason of a FAIL, or the note that the trial collapsed, is added to what was noted before.
        """
        trial, row = self._unfinished.pop(number), self._rows[number]
        latent_size = row.values.get("latent_size", self.metadata["reference"]["latent_size"])
        collapsed = "" if reason else collapse_reason(row, latent_size, self._least_epochs)
        reason = add_note(row.reason, reason or collapsed)
        marks: dict[str, Any] = {names.COLLAPSED: bool(collapsed), names.DIVERGED: diverged}
        with self.transaction():
            for name, value in (({names.REASON: reason} if reason else {}) | marks).items():
                trial.set_user_attr(name, value)
            value = row.reports[-1][self._ranking.name] if state == names.COMPLETE else None
            self.study.tell(trial, value, TrialState[state])
            self._update(trial)

    def refresh(self) -> None:
        """Tell tables and listeners what is on disk by now; ``trials.csv`` unless it was written a moment ago."""
        with self._writing_tables:
            self._update_tables()
            self._tables.refresh()
        while self._untold:
            row = self._untold.popleft()
            for listener in self.listeners:
                listener(row)

    def set_status(self, status: str, ended: str | None = None, **entries: Any) -> None:
        """Write the status of the search into ``study.json``, and the tables as they are now; tell no listener.

        ``ended`` is when this run of the search ended, for its entry among the study's runs, which gets ``entries``
        too. Any thread may call this, also while a listener works or after one has failed.
        """
        with self._writing_tables:
            self._update_tables()
            self._tables.write_trials()
        runs = list(self.metadata.get("runs", []))
        entries |= {} if ended is None else {"ended": ended}
        if runs:
            runs[-1] = {**runs[-1], **entries}
        self.metadata = {**self.metadata, "status": status, "runs": runs}
        write_json(self.folder / names.STUDY_FILE, self.metadata)

    def close(self) -> None:
        """Write and close the files, and release the lock, also when the disk is full."""
        if self._tables.are_stale:
            with contextlib.suppress(OSError):
                self._tables.write_trials()
        for file in (self._tables, self._journal):
            with contextlib.suppress(OSError):
                file.close()
        self._lock.release()

    def _adopt(self, frozen: FrozenTrial) -> None:
        """Take over a trial from the journal; an unfinished one gets the loss of a report that a crash cut short."""
        row = self._set_row(frozen)
        if row.state == names.RUNNING:
            trial = self._unfinished[row.trial] = optuna.Trial(self.sampler_view, trial_id(frozen))
            for report in row.reports:
                if report[names.EPOCH] not in frozen.intermediate_values:
                    trial.report(report[self._ranking.name], report[names.EPOCH])

    def _set_row(self, frozen: FrozenTrial) -> TrialRow:
        row = row_from_trial(frozen)
        self._rows[row.trial] = row
        if row.state != names.RUNNING:
            self._ended.add(row.trial)
        return row

    def _update(self, trial: optuna.Trial, report: Mapping[str, Any] | None = None) -> None:
        """Make a trial's row again from the study; call this in a transaction."""
        row = self._set_row(trial.storage.get_trial(trial_id(trial)))
        self._unwatched.append(row)
        self._changed.append(_Change(row, report, self._journal.logged))

    def _update_tables(self) -> None:
        """Give the tables what changed and is on disk, so that they never have what the journal lacks."""
        while self._changed and self._changed[0].logs <= self._journal.on_disk:
            row, report, _ = self._changed.popleft()
            self._tables.update(row, report)
            self._untold.append(row)


@contextlib.contextmanager
def _released_on_error(lock: StudyLock) -> Iterator[StudyLock]:
    try:
        yield lock
    except BaseException:
        lock.release()
        raise
