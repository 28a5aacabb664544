"""A study that is opened again: trials that have ended go on, as far as before or to a later epoch.

Optuna does not open a finished trial again. So the journal is written anew: the same trials with the same numbers,
reports and times, some of them unfinished again. It replaces the old one in one step, which is the moment from which
the study counts as opened: what ``study.json`` says then yields to the journal (:mod:`vae_tune.record.metadata`). The
old journal is kept beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from vae_tune.config import names
from vae_tune.config.files import atomic
from vae_tune.record.basis import Basis
from vae_tune.record.diagnostics import without_collapse
from vae_tune.record.journal import UtcStorage, to_lines
from vae_tune.record.trials import DECISION_ATTRIBUTE, REPORT_ATTRIBUTE, add_note, now, read_study, trials_in


@dataclass(frozen=True)
class Reopening:
    """Which trials of a study are opened again."""

    max_epochs: int
    before: int
    """The last epoch up to now; the same where the search is not made longer."""
    going_on: frozenset[int]
    """Trials that have ended and are opened again."""
    closed: frozenset[int]
    """Trials that could go on if they had a checkpoint; they count as stopped where they are."""
    entry: Mapping[str, Any]
    """What the record keeps of the study as it was: see :data:`vae_tune.config.names.REOPENED`."""

    @property
    def is_longer(self) -> bool:
        """Whether the trials get a later last epoch."""
        return self.max_epochs > self.before

    def __str__(self) -> str:
        """Say how many trials are open again."""
        where = f", from epoch {self.before} to {self.max_epochs}" if self.is_longer else ""
        stopped = f"; stopped {len(self.closed)} without a checkpoint" if self.closed else ""
        trials = "1 trial" if len(self.going_on) == 1 else f"{len(self.going_on)} trials"
        return f"Reopened {trials}{where}{stopped}."

    def note(self, earlier: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what the record says from now on; ``earlier`` is what it said before, if it did."""
        return {"max_epochs": self.max_epochs, "before": [*(earlier or {}).get("before", []), dict(self.entry)]}


def plan_reopening(
    trials: Sequence[FrozenTrial], present: Collection[int], max_epochs: int, before: int, *, paused: bool
) -> Reopening:
    """Return which of a study's trials go on up to ``max_epochs``, where they had ``before``.

    These are the COMPLETE ones, if that is later, and with ``paused`` also the PRUNED ones, which the scheduler had
    only paused: of both, those in ``present``, the trials that have checkpoints. The reference goes on in any case: if
    its checkpoint is gone, its first epochs are trained again, with the same result.
    """
    complete = {trial.number for trial in trials if trial.state == TrialState.COMPLETE}
    candidates = complete if max_epochs > before else set[int]()
    if paused:
        candidates |= {trial.number for trial in trials if trial.state == TrialState.PRUNED}
    candidates -= {trial.number for trial in trials if names.CLOSED in trial.user_attrs}
    candidates -= {trial.number for trial in trials if names.WARM_START in trial.user_attrs}
    going_on = frozenset(candidates & {*present, names.REFERENCE_TRIAL})
    entry = {"max_epochs": before, "complete": len(complete), "ended": now()}
    return Reopening(max_epochs, before, going_on, frozenset(candidates) - going_on, entry)


def reopen(folder: Path, storage: UtcStorage, reopening: Reopening) -> UtcStorage:
    """Write the journal of a study anew, and return the storage on it. The caller holds the study's lock.

    A process that is killed here leaves the old journal or the new one, each whole.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / names.JOURNAL_FILE
    (study,) = storage.get_all_studies()
    note = reopening.note(study.user_attrs.get(names.REOPENED))
    lines = _Lines()
    new = JournalStorage(lines)
    number = new.create_new_study(study.directions, study.study_name)
    new.set_study_user_attr(number, names.REOPENED, note)  # the second line: read_metadata looks there
    for key, value in study.user_attrs.items():
        if key != names.REOPENED:
            new.set_study_user_attr(number, key, value)
    for key, value in study.system_attrs.items():
        new.set_study_system_attr(number, key, value)
    trials = trials_in(storage)
    order = _next_decision(trials)
    for trial in trials:
        new.create_new_trial(number, _as_reopened(trial, reopening, order))
    kept = folder / names.EARLIER_JOURNALS.format(len(note["before"]))
    with atomic(kept) as file:
        file.write(path.read_bytes())
    with atomic(path) as file:
        file.write(to_lines(lines.logs))
    return read_study(folder)


class _Lines(BaseJournalBackend):
    """The logs of a journal in memory."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the logs from a number on."""
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add logs."""
        self.logs += logs


def _next_decision(trials: Iterable[FrozenTrial]) -> int:
    """Return the order of the first decision that has not been made."""
    bases = (value for trial in trials for key, value in trial.user_attrs.items() if _is_decision(key))
    return max((basis[0] + 1 for basis in bases), default=0)


def _is_decision(key: str) -> bool:
    return key.startswith(DECISION_ATTRIBUTE)


def _as_reopened(trial: FrozenTrial, reopening: Reopening, order: int) -> FrozenTrial:
    """Return a trial as the new journal holds it; ``order`` is that of the next decision."""
    new, attributes = copy.copy(trial), dict(trial.user_attrs)
    if reopening.is_longer:
        for key in filter(_is_decision, trial.user_attrs):
            basis = Basis(*attributes[key])
            attributes[key] = list(basis if basis.max_epochs else (*basis[:-1], reopening.before))
        if trial.state == TrialState.COMPLETE:
            attributes[names.COMPLETE_AT] = reopening.before
    if trial.number in reopening.going_on:
        new.state, new.values, new.datetime_complete = TrialState.RUNNING, None, None
        for mark in (names.COLLAPSED, names.DIVERGED):
            attributes.pop(mark, None)
        if names.REASON in attributes:
            attributes[names.REASON] = without_collapse(attributes[names.REASON])
    elif trial.number in reopening.closed:
        new.state = TrialState.PRUNED
        attributes[names.CLOSED] = order
        epochs = sum(key.startswith(REPORT_ATTRIBUTE) for key in attributes)
        note = f"no checkpoint to go on from epoch {epochs}"
        attributes[names.REASON] = add_note(attributes.get(names.REASON, ""), note)
    new.user_attrs = attributes
    return new
