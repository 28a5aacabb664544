"""PostgreSQL: a live copy of the Optuna study in a database, for teams that watch one search together.

The journal in the study folder remains the record. The copy is made from that file, so the database is never ahead of
it, even if the search is killed, and an interrupted copy can be completed from any point.
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
from optuna.trial import FrozenTrial

from vae_tune.config.compat.optuna import trial_id
from vae_tune.config.errors import telling_line
from vae_tune.config.names import JOURNAL_FILE, REOPENED, STARTED
from vae_tune.record.journal import Journal, UtcStorage
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.view import DrawSamples, LiveView

TIMEOUT_SECONDS = 10  # of a connection attempt
STARTED_ATTRIBUTE, STATUS_ATTRIBUTE = "vae_tune.started", "vae_tune.status"
"""User attributes of the study: its start, which identifies it among studies of the same name, and its status."""

_DRIVER = "postgresql+psycopg"
_SET_MOMENTS = sqlalchemy.text(
    "UPDATE trials SET datetime_start = :start, datetime_complete = :complete WHERE trial_id = :trial"
)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the server's own error, as a ConnectionError, in place of those of Optuna and SQLAlchemy."""
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        wrapped = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise ConnectionError(telling_line(getattr(wrapped, "orig", None) or wrapped)) from error


class PostgreSQL(LiveView):
    """Copies the trials of a study's journal, each under its own number, into an Optuna study of the same name."""

    name = "PostgreSQL"
    package = "psycopg"

    @_plain_errors()
    def __init__(self, address: str, folder: Path, metadata: Mapping[str, Any]):
        """Connect to the database at the URL ``address``, and find or create the copy of the study in ``folder``."""
        options = {"connect_timeout": TIMEOUT_SECONDS, "application_name": "vae_tune"}
        self._storage = RDBStorage(
            sqlalchemy.make_url(address).set(drivername=_DRIVER).render_as_string(hide_password=False),
            {"connect_args": options, "pool_pre_ping": True},  # a connection may idle for a whole epoch
        )
        self._journal = UtcStorage(Journal(folder / JOURNAL_FILE))
        self._source = self._journal.get_study_id_from_name(metadata["name"])
        self._copy = self._find_copy(metadata["name"], metadata["runs"][0][STARTED])
        reopened = self._journal.get_study_user_attrs(self._source).get(REOPENED)
        if reopened != self._storage.get_study_user_attrs(self._copy).get(REOPENED):
            self._storage.delete_study(self._copy)  # ended trials of it go on, which Optuna does not open again
            self._copy = self._find_copy(metadata["name"], metadata["runs"][0][STARTED])
            self._storage.set_study_user_attr(self._copy, REOPENED, reopened)
        self._storage.set_study_user_attr(self._copy, STATUS_ATTRIBUTE, metadata["status"])
        self._copied = self._storage.get_all_trials(self._copy, deepcopy=False)
        """Each trial as the database holds it, by number."""
        self._ids = list(map(trial_id, self._copied))
        for trial in self._copied:  # ambiguous when clocks go back; the update then sets it again
            if trial.datetime_complete is not None:
                trial.datetime_complete = trial.datetime_complete.astimezone(UTC)

    @_plain_errors()
    def show(self, row: TrialRow, draw_samples: DrawSamples | None) -> None:  # noqa: ARG002
        """Copy the changes of a trial; before it, trials with lower numbers that have no row, as of a warm start."""
        trials = self._journal.get_all_trials(self._source, deepcopy=False)
        for trial in trials[len(self._copied) : row.trial + 1]:
            self._ids.append(self._storage.create_new_trial(self._copy, template_trial=trial))
            self._copied.append(trial)
        self._update(trials[row.trial])

    @_plain_errors()
    def close(self, status: str) -> None:
        """Copy the status of the search, and disconnect."""
        self._storage.set_study_user_attr(self._copy, STATUS_ATTRIBUTE, status)
        self._storage.engine.dispose()

    def _find_copy(self, name: str, started: str) -> int:
        """Return the id of the study's copy; create it if there is none."""
        storage = self._storage
        try:
            copy = storage.get_study_id_from_name(name)
        except KeyError:
            copy = storage.create_new_study(self._journal.get_study_directions(self._source), name)
        known = storage.get_study_user_attrs(copy).get(STARTED_ATTRIBUTE)
        if known is None and not storage.get_all_trials(copy, deepcopy=False):
            storage.set_study_user_attr(copy, STARTED_ATTRIBUTE, started)
        elif known != started:
            raise ValueError(f"it holds another study {name!r}; choose another --study-name or database")
        return copy

    def _update(self, trial: FrozenTrial) -> None:
        """Write what the database lacks of a trial; the state last, because Optuna then allows no other change."""
        there, trial_id, storage = self._copied[trial.number], self._ids[trial.number], self._storage
        if there.params.items() - trial.params.items():
            raise ValueError(f"trial {trial.number} differs in the database, where its parameters are {there.params}")
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
        """Set a trial's start and end, in UTC without a zone: Optuna sets the moments of the copying."""
        moments = {
            name: moment and moment.astimezone(UTC).replace(tzinfo=None)
            for name, moment in (("start", trial.datetime_start), ("complete", trial.datetime_complete))
        }
        with self._storage.engine.begin() as connection:
            connection.execute(_SET_MOMENTS, {"trial": trial_id, **moments})


def _new(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in ours.items() if key not in theirs or theirs[key] != value]
