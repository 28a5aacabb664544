"""Trials as values: a row of the tables, which of them wins, and reading them from the Optuna journal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from vae_tune.config import names
from vae_tune.config.errors import UsageError
from vae_tune.config.local_copies import original_address
from vae_tune.config.metric import loss_of
from vae_tune.record.basis import Basis
from vae_tune.record.journal import Journal, UtcStorage

DECISION_ATTRIBUTE = "decision:"
"""User attribute of an Optuna trial that holds what the decision saw that started an epoch, whose number follows."""
REPORT_ATTRIBUTE = "report:"
"""User attribute of an Optuna trial that holds the report of an epoch, whose number follows."""
_REPORTED = {*names.REPORT_COLUMNS, names.TIME, names.ORDER, names.RANKED_LOSS}
"""The entries of a report; any other is a value of a user's metric."""
VALUES_ATTRIBUTE = "values"
"""User attribute that holds the hyperparameters of a reference that lies outside of the space."""


@dataclass(frozen=True)
class TrialRow:
    """One trial as it stands: a row of ``trials.csv``."""

    trial: int
    values: Mapping[str, Any]
    """The hyperparameters by their own names."""
    started: str
    """UTC, ISO 8601."""
    state: str = names.RUNNING
    reason: str = ""
    """Why it failed, and other notes, separated by ``; ``."""
    reports: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """One per epoch, in order: the columns of ``epochs.csv`` without the trial."""
    decisions: Mapping[int, Basis] = field(default_factory=dict, repr=False)
    """What the decision saw that started an epoch, by epoch; of schedulers that need it to derive a decision again."""
    ended: str = ""
    """UTC, ISO 8601; empty while it runs."""
    node: str = ""
    device: str = ""
    audited: int | None = None
    """The epoch at which its rung would have stopped it, had it not been audited."""
    collapsed: bool = False
    """Whether it ended with below a tenth of its latents active."""
    diverged: bool = False
    """Whether it failed since its loss was no longer finite."""
    complete_at: int = 0
    """The last epoch before the search was made longer, if the trial was COMPLETE there."""
    closed: int | None = None
    """Of a trial that could not go on when the search was opened again: the first decision that could not choose it.
    """

    @property
    def epochs(self) -> int:
        """Epochs reported."""
        return int(self.reports[-1][names.EPOCH]) if self.reports else 0

    @property
    def val_loss(self) -> float | None:
        """Newest validation negative ELBO, nats per image."""
        return self._last(names.VAL_LOSS)

    @property
    def loss(self) -> float | None:
        """Newest loss that ranks the trial: ``val_loss``, or a user's metric as a loss, lower is better."""
        return loss_of(self.reports[-1]) if self.reports else None

    @property
    def seconds(self) -> float:
        """Time spent in this trial's epochs."""
        return math.fsum(report[names.SECONDS] for report in self.reports)

    @property
    def images_per_second(self) -> float | None:
        """Training speed of the newest epoch."""
        return self._last(names.IMAGES_PER_SECOND)

    def cells(self) -> dict[str, Any]:
        """Return the row by column name."""
        newest = self.reports[-1] if self.reports else {}
        before, after = (
            {name: getattr(self, name, newest.get(name)) for name in columns}
            for columns in (names.TRIAL_COLUMNS_BEFORE, names.TRIAL_COLUMNS_AFTER)
        )
        own = {name: value for name, value in newest.items() if name not in _REPORTED}
        return {**before, **own, **self.values, **after, names.SECONDS: round(self.seconds, 3)}

    def _last(self, name: str) -> float | None:
        return self.reports[-1][name] if self.reports else None


def ranked(rows: Iterable[TrialRow], max_epochs: int) -> list[TrialRow]:
    """Return the trials that could win, the best first: COMPLETE at ``max_epochs``, by ``loss``.

    Where none is complete it is those at the deepest epoch that any trial reached; in a search that was made longer,
    those that reached its last epoch of before. FAIL trials never win. The rows of ``trials.csv`` as named tuples,
    with their ``loss`` and ``complete_at``, are ranked alike.
    """
    candidates = [row for row in rows if row.epochs and row.state != names.FAIL]
    best = [row for row in candidates if row.state == names.COMPLETE and row.epochs == max_epochs]
    if not best and candidates:
        least = max(row.complete_at for row in candidates) or max(row.epochs for row in candidates)
        best = [row for row in candidates if row.epochs >= least]
    return sorted(best, key=lambda row: (row.loss or 0, row.trial))


def winner(rows: Iterable[TrialRow], max_epochs: int) -> TrialRow | None:
    """Return the best trial by the one rule of :func:`ranked`, or None where there is none."""
    return next(iter(ranked(rows, max_epochs)), None)


def settled(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Return the trials that have ended; one that goes on after it was COMPLETE, as it was then."""
    return [_as_complete(row) for row in rows if row.state != names.RUNNING or row.complete_at]


def _as_complete(row: TrialRow) -> TrialRow:
    return replace(row, reports=row.reports[: row.complete_at]) if row.state == names.RUNNING else row


def read_study(folder: Path) -> UtcStorage:
    """Return the Optuna storage on a study's journal, which is read once; another driver may be writing it.

    Raises:
        UsageError: the journal is missing or damaged.
    """
    path = folder / names.JOURNAL_FILE
    try:
        if not path.exists():
            raise FileNotFoundError(f"{names.JOURNAL_FILE} is missing")
        storage = UtcStorage(Journal(path))
        trials_in(storage)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{original_address(folder)} is no study: its journal cannot be read ({error}).") from error
    return storage


def trials_in(storage: UtcStorage) -> list[FrozenTrial]:
    """Return all trials of the one study in a storage, with times in UTC."""
    study = storage.get_study_id_from_name(storage.get_all_studies()[0].study_name)
    return storage.get_all_trials(study, deepcopy=False)


def read_trials(folder: Path) -> list[FrozenTrial]:
    """Return all trials in a study's journal: see :func:`read_study`."""
    return trials_in(read_study(folder))


def row_from_trial(trial: FrozenTrial) -> TrialRow:
    """Return the row of a trial from the Optuna study alone."""
    attributes = trial.user_attrs
    epochs = sorted(int(key.partition(":")[2]) for key in attributes if key.startswith(REPORT_ATTRIBUTE))
    bases = {key.partition(":")[2]: attributes[key] for key in attributes if key.startswith(DECISION_ATTRIBUTE)}
    marks = {name: attributes[name] for name in (names.AUDITED, names.COLLAPSED, names.DIVERGED) if name in attributes}
    if names.COLLAPSED not in marks:  # it goes on, or it ended under schema 1
        marks = marks_of_schema_1(attributes.get(names.REASON, "")) | marks
    return TrialRow(
        trial=trial.number,
        values=attributes.get(VALUES_ATTRIBUTE, trial.params),
        started=iso(trial.datetime_start),
        state=trial.state.name,
        reason=attributes.get(names.REASON, ""),
        reports=tuple(attributes[f"{REPORT_ATTRIBUTE}{epoch}"] for epoch in epochs),
        decisions={
            int(epoch): Basis(order, reports, trials, tuple(running), *rest)
            for epoch, (order, reports, trials, running, *rest) in bases.items()
        },
        complete_at=attributes.get(names.COMPLETE_AT, 0),
        closed=attributes.get(names.CLOSED),
        ended=iso(trial.datetime_complete),
        node=attributes.get(names.NODE, ""),
        device=attributes.get(names.DEVICE, ""),
        **marks,
    )


def add_note(reason: str, note: str) -> str:
    """Return a trial's ``reason`` with a note more, unless it is there already."""
    return reason if note in reason else "; ".join(filter(None, (reason, note)))


def marks_of_schema_1(reason: str) -> dict[str, Any]:
    """Return the fields ``audited``, ``collapsed`` and ``diverged`` that a trial holds only in ``reason``."""
    notes = reason.split("; ")
    audited = re.search(rf"(?:^|; ){names.AUDITED}: the rung at epoch (\d+) ", reason)
    return {
        names.AUDITED: int(audited[1]) if audited else None,
        **{name: any(note.startswith(name) for note in notes) for name in (names.COLLAPSED, names.DIVERGED)},
    }


def now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return iso(datetime.now(UTC))


def iso(moment: datetime | None) -> str:
    """Return a time that has a zone in UTC, ISO 8601 with milliseconds; for None an empty text."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds") if moment else ""
