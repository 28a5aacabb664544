"""PostgreSQL: a live copy of the Optuna study in a database, for teams that watch one search together.

The journal in the study's folder stays the record. What is copied is what that file holds: so the database is never
ahead of it, even where a search is killed, and a copy that was cut short is completed from any point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from vae_tune.config.names import JOURNAL_FILE, STARTED
from vae_tune.config.settings import telling_line
from vae_tune.record.journal import ReadOnlyJournal, UtcStorage
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.channel import Draw

SECONDS = 10
"""How long the server may take to answer a connection."""
STARTED_ATTRIBUTE, STATUS_ATTRIBUTE = "vae_tune.started", "vae_tune.status"
"""User attributes of the study: when it began, which tells it from others of its name; what became of it."""

_DRIVER = "postgresql+psycopg"
_SET_MOMENTS = sqlalchemy.text(
    "UPDATE trials SET datetime_start = :start, datetime_complete = :complete WHERE trial_id = :trial"
)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what the server said; Optuna and SQLAlchemy wrap it in advice.

    Raises:
        ConnectionError: the server cannot be reached, or refuses something.
    """
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        wrapped = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise ConnectionError(telling_line(getattr(wrapped, "orig", None) or wrapped)) from error


class PostgreSQL:
    """Copies the trials of a study's journal, each under its own number, into an Optuna study of the same name."""

    @_plain_errors()
    def __init__(self, url: str, folder: Path, manifest: Mapping[str, Any]):
        """Connect to the database at ``url``, and find or create the copy of the study in ``folder``.

        Raises:
            ConnectionError: the server cannot be reached, or refuses.
            ValueError: the database holds another study of that name.
        """
        options = {"connect_timeout": SECONDS, "application_name": "vae_tune"}
        self._storage = RDBStorage(
            sqlalchemy.make_url(url).set(drivername=_DRIVER).render_as_string(hide_password=False),
            {"connect_args": options, "pool_pre_ping": True},  # a connection may idle for as long as an epoch takes
        )
        self._journal = UtcStorage(ReadOnlyJournal(folder / JOURNAL_FILE))
        self._source = self._journal.get_study_id_from_name(manifest["name"])
        self._copy = self._find_copy(manifest["name"], manifest["runs"][0][STARTED])
        self._storage.set_study_user_attr(self._copy, STATUS_ATTRIBUTE, manifest["status"])
        self._copied = self._storage.get_all_trials(self._copy, deepcopy=False)
        """What the database holds of each trial, by number."""
        self._ids = [trial._trial_id for trial in self._copied]
        for trial in self._copied:  # of a local time that comes twice this may be the other one: it is set again
            if trial.datetime_complete is not None:
                trial.datetime_complete = trial.datetime_complete.astimezone(UTC)

    @_plain_errors()
    def show(self, row: TrialRow, draw: Draw | None) -> None:  # noqa: ARG002
        """Copy what is new of a trial, and before it the trials below it that are no rows: those of a warm start."""
        trials = self._trials()
        for trial in trials[len(self._copied) : row.trial + 1]:
            self._ids.append(self._storage.create_new_trial(self._copy, template_trial=trial))
            self._copied.append(trial)
        self._update(trials[row.trial])

    def flush(self) -> None:
        """Nothing is held back."""

    @_plain_errors()
    def close(self, status: str) -> None:
        """Note what became of the search."""
        self._storage.set_study_user_attr(self._copy, STATUS_ATTRIBUTE, status)
        self._storage.engine.dispose()

    def _trials(self) -> list[FrozenTrial]:
        return self._journal.get_all_trials(self._source, deepcopy=False)

    def _find_copy(self, name: str, started: str) -> int:
        """Return the id of the study's copy, which is new where there is none."""
        storage = self._storage
        try:
            copy = storage.get_study_id_from_name(name)
        except KeyError:
            copy = storage.create_new_study([StudyDirection.MINIMIZE], name)
        known = storage.get_study_user_attrs(copy).get(STARTED_ATTRIBUTE)
        if known is None and not storage.get_all_trials(copy, deepcopy=False):
            storage.set_study_user_attr(copy, STARTED_ATTRIBUTE, started)
        elif known != started:
            raise ValueError(f"it holds another study {name!r}, so choose another --study-name or database")
        return copy

    def _update(self, trial: FrozenTrial) -> None:
        """Write what the database lacks of a trial. Its state comes last: then Optuna lets nothing else change."""
        there, trial_id, storage = self._copied[trial.number], self._ids[trial.number], self._storage
        if there.params.items() - trial.params.items():
            raise ValueError(f"trial {trial.number} is another one there, with {there.params}")
        for name in trial.params.keys() - there.params.keys():
            distribution = trial.distributions[name]
            value = distribution.to_internal_repr(trial.params[name])
            storage.set_trial_param(trial_id, name, value, distribution)
        for key, attribute in _new(trial.user_attrs, there.user_attrs):
            storage.set_trial_user_attr(trial_id, key, attribute)
        for key, attribute in _new(trial.system_attrs, there.system_attrs):
            storage.set_trial_system_attr(trial_id, key, attribute)
        for epoch, loss in _new(trial.intermediate_values, there.intermediate_values):
            storage.set_trial_intermediate_value(trial_id, epoch, loss)
        if trial.state != there.state:
            storage.set_trial_state_values(trial_id, trial.state, trial.values)
        if trial.state != there.state or trial.datetime_complete != there.datetime_complete:
            self._set_moments(trial_id, trial)
        self._copied[trial.number] = trial

    def _set_moments(self, trial_id: int, trial: FrozenTrial) -> None:
        """Set when a trial began and ended: Optuna notes when it was told, perhaps hours later.

        Its columns hold UTC, without a zone.
        """
        moments = {
            name: moment and moment.astimezone(UTC).replace(tzinfo=None)
            for name, moment in (("start", trial.datetime_start), ("complete", trial.datetime_complete))
        }
        with self._storage.engine.begin() as connection:
            connection.execute(_SET_MOMENTS, {"trial": trial_id, **moments})


def _new(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in ours.items() if key not in theirs or theirs[key] != value]
