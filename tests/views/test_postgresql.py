"""The copy of a study's journal in a real PostgreSQL server on loopback."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.storages import RDBStorage
from optuna.trial import create_trial

from tests.postgresql import DATABASE, PASSWORD, content, running_postgresql
from tests.studies import iso, make_study
from tests.view_servers import SECONDS, Warnings, hanging_port
from tests.views.test_live import METADATA, ask, report
from vae_tune.config.files import read_json
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, WARM_START
from vae_tune.config.settings import TrialConfig, ViewsConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.reopening import plan_reopening
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import read_trials, row_from_trial
from vae_tune.search.initial_trials import InitialTrials
from vae_tune.views.live import close_views, live_views
from vae_tune.views.live.background_thread import BackgroundView
from vae_tune.views.live.postgresql import PostgreSQL


@pytest.fixture(scope="module")
def server():
    with running_postgresql() as server:
        yield server


@pytest.fixture
def name(request):
    """The name of a study that no other test has in the database."""
    return request.node.name


@pytest.fixture
def record(tmp_path, name):
    record = StudyRecord.create(tmp_path / name, {**METADATA, "name": name})
    yield record
    record.close()


def connect(server, record):
    return PostgreSQL(server.url(), record.folder, record.metadata)


def show_all(view, folder):
    for trial in read_trials(folder):
        view.show(row_from_trial(trial), None)


def train(record, number, *losses):
    for epoch, loss in enumerate(losses, start=1):
        record.report(number, vars(report(epoch, loss)))


def test_a_study_is_copied_trial_by_trial_as_the_journal_holds_it(server, tmp_path, name):
    folder = make_study(tmp_path / name, trials=12, ended=10, failed=0.3, status="interrupted")
    view = PostgreSQL(server.url(), folder, read_json(folder / "study.json"))
    show_all(view, folder)
    view.close("interrupted")
    assert {trial.state.name for trial in read_trials(folder)} == {"COMPLETE", "PRUNED", "FAIL", "RUNNING"}
    assert server.has_copied(folder)
    assert read_json(folder / "study.json")["status"] == "interrupted"


COPY_IN_BERLIN = """
import sys
from pathlib import Path
from vae_tune.views.live.postgresql import PostgreSQL
from vae_tune.record.metadata import read_metadata
from vae_tune.record.study_record import StudyRecord
folder = Path(sys.argv[1])
record = StudyRecord.resume(folder, read_metadata(folder))
view = PostgreSQL(sys.argv[2], folder, record.metadata)
record.listeners.append(lambda row: view.show(row, None))
for row in record.rows:
    view.show(row, None)
record.finish(4, "FAIL", "RuntimeError")
print(record.row(4).ended)
record.close()
"""


def test_the_database_holds_moments_in_utc_as_optunas_own_do_in_any_zone(server, tmp_path):
    folder = shutil.copytree(Path(__file__).parents[1] / "old" / "search", tmp_path / "search")
    command = [sys.executable, "-c", COPY_IN_BERLIN, str(folder), server.url()]
    berlin = os.environ | {"TZ": "Europe/Berlin"}
    done = subprocess.run(command, env=berlin, check=True, capture_output=True, text=True)
    with psycopg.connect(server.url()) as connection:
        query = "SELECT datetime_start, datetime_complete FROM trials NATURAL JOIN studies WHERE study_name = 'search'"
        moments = connection.execute(f"{query} ORDER BY number").fetchall()
    told = [[moment.isoformat(timespec="milliseconds") + "+00:00" for moment in pair] for pair in moments]
    rows = [row_from_trial(trial) for trial in read_trials(folder)]
    assert told == [[row.started, row.ended] for row in rows]
    assert told[3][1] == "2026-10-25T01:02:17.000+00:00"
    assert told[4] == ["2026-10-25T01:04:17.000+00:00", done.stdout.strip()]


def test_a_running_trial_is_followed_from_its_start_through_each_report_to_its_end(server, record):
    view = connect(server, record)
    record.listeners.append(lambda row: view.show(row, None))
    with record.transaction():  # as the searcher does
        first, second, third = ask(record), ask(record), ask(record)
    assert server.has_copied(record.folder)
    train(record, first, 120.0)
    assert server.has_copied(record.folder)
    train(record, first, 120.0, 110.0)
    record.finish(first, COMPLETE)
    train(record, second, 150.0)
    record.finish(second, PRUNED)
    record.finish(third, FAIL, "diverged: it's nan")
    assert server.has_copied(record.folder)
    assert [trial.state.name for trial in read_trials(record.folder)] == [COMPLETE, PRUNED, FAIL]


def test_the_copy_of_a_study_whose_ended_trials_go_on_is_made_anew(server, record, name):
    first, second = ask(record), ask(record)
    train(record, first, 120.0, 110.0)
    record.finish(first, COMPLETE)
    train(record, second, 150.0)
    record.finish(second, PRUNED)
    show_all(connect(server, record), record.folder)
    record.close()
    reopening = plan_reopening(read_trials(record.folder), [first], 4, 2, paused=False)
    longer = StudyRecord.resume(record.folder, record.metadata, reopening=reopening)
    for _ in range(2):  # the second finds the copy that the first has made
        show_all(connect(server, longer), longer.folder)
        assert server.has_copied(longer.folder)
        train(longer, first, 120.0, 110.0, 105.0)
    show_all(connect(server, longer), longer.folder)
    longer.close()
    states = {trial.number: trial.state.name for trial in server.trials(name)}
    assert (states, server.has_copied(longer.folder)) == ({first: "RUNNING", second: PRUNED}, True)


def test_a_copy_that_is_killed_at_any_point_is_completed_without_anything_twice(server, record, monkeypatch):
    numbers = [ask(record) for _ in range(3)]
    train(record, numbers[0], 120.0)
    show_all(connect(server, record), record.folder)
    train(record, numbers[0], 120.0, 110.0)
    record.finish(numbers[0], COMPLETE)
    train(record, numbers[1], 150.0)
    record.finish(numbers[1], PRUNED)
    train(record, ask(record), 130.0)

    class Killed(BaseException):
        pass

    left = 0

    def dying(write):
        def once(*arguments, **options):
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            return write(*arguments, **options)

        return once

    for write in ("create_new_trial", "set_trial_user_attr", "set_trial_intermediate_value", "set_trial_state_values"):
        monkeypatch.setattr(RDBStorage, write, dying(getattr(RDBStorage, write)))
    monkeypatch.setattr(PostgreSQL, "_set_moments", dying(PostgreSQL._set_moments))
    kills = 0
    while True:
        left = 1
        try:
            show_all(connect(server, record), record.folder)
            break
        except Killed:
            kills += 1
    assert kills >= 8  # one before each write but the first; a trial that collapsed has one more
    assert server.has_copied(record.folder)


def test_trials_of_a_warm_start_are_none_of_the_copy_and_points_come_when_they_run(server, tmp_path, name):
    base = TrialConfig(latent_size=500)  # outside of the space
    distributions = dict(DEFAULT_SPACE.distributions)
    values = {"latent_size": 4, "hidden_width": 64, "learning_rate": 1e-3}
    known = create_trial(value=100.0, params=values, distributions=distributions, user_attrs={WARM_START: "elsewhere"})
    prior = InitialTrials([values, {"latent_size": 8}], [known] * 3)
    record = StudyRecord.create(
        tmp_path / name, {**METADATA, "name": name}, lambda study: prior.enqueue(study, DEFAULT_SPACE, base)
    )
    view = connect(server, record)
    record.listeners.append(lambda row: view.show(row, None))
    reference = record.study.ask()
    record.start(reference, {**values, "latent_size": 500})
    assert content(server.trials(name)) == content(read_trials(record.folder)[:1])
    ask(record), ask(record)
    number = ask(record)
    train(record, number, 120.0)
    record.close()
    assert number == 3
    assert server.has_copied(record.folder)


def optuna_study(server, name):
    return optuna.create_study(storage=server.optuna_url(), study_name=name, load_if_exists=True)


@pytest.mark.parametrize("other", ["a search", "no search"])
def test_another_study_of_that_name_is_left_alone(server, record, other):
    if other == "a search":
        ask(record)
        show_all(connect(server, record), record.folder)
        record.metadata = {**record.metadata, "runs": [{"started": iso(86_400)}]}
    else:
        optuna_study(server, record.folder.name).ask()
    before = content(server.trials(record.folder.name))
    with pytest.raises(ValueError, match=r"holds another study '.*choose another --study-name"):
        connect(server, record)
    assert content(server.trials(record.folder.name)) == before


def test_a_trial_that_somebody_else_added_is_not_taken_for_one_of_the_search(server, record):
    ask(record)
    show_all(connect(server, record), record.folder)
    optuna_study(server, record.folder.name).ask(dict(DEFAULT_SPACE.distributions))
    ask(record)
    with pytest.raises(ValueError, match="trial 1 differs in the database"):
        show_all(connect(server, record), record.folder)


@pytest.mark.parametrize(
    ("database", "user", "password", "reason"),
    [
        ("nowhere", "watcher", PASSWORD, 'database "nowhere" does not exist'),
        (DATABASE, "nobody", PASSWORD, 'password authentication failed for user "nobody"'),
        (DATABASE, "watcher", "wrong", 'password authentication failed for user "watcher"'),
    ],
)
def test_what_the_server_refuses_is_told_in_its_own_words(
    server, record, monkeypatch, database, user, password, reason
):
    monkeypatch.setenv("PGPASSWORD", password)
    url = server.url(database, user)
    warnings = Warnings()
    with live_views(ViewsConfig(study_storage=url), record, warnings) as names:
        ask(record)
        assert names == [f"PostgreSQL at {url}"]
        warnings.first()
    assert len(warnings.lines) == 1
    assert warnings.lines[0].startswith(f"PostgreSQL at {url}: ")
    assert f"{reason}. Training continues" in warnings.lines[0]
    assert password not in warnings.lines[0].replace(reason, "")


def test_a_server_that_does_not_answer_is_given_up_in_time(record, monkeypatch):
    monkeypatch.setattr("vae_tune.views.live.postgresql.TIMEOUT_SECONDS", 2)  # less is not possible
    warnings = Warnings()
    with hanging_port() as port:
        url = f"postgresql://watcher@127.0.0.1:{port}/teams"
        background = BackgroundView("PostgreSQL", lambda: PostgreSQL(url, record.folder, record.metadata), warnings)
        record.listeners.append(background.put)
        ask(record)
        assert warnings.first().startswith("PostgreSQL: connection timeout expired. Training continues")
        close_views([background], "complete", patience_seconds=0)
    assert len(warnings.lines) == 1


def test_a_server_that_dies_and_comes_back_costs_one_warning_and_lacks_nothing(server, record):
    warnings, copied = Warnings(), threading.Event()

    class View(PostgreSQL):
        def flush(self):
            copied.set()

    background = BackgroundView(
        "PostgreSQL", lambda: View(server.url(), record.folder, record.metadata), warnings, retry_seconds=0.1
    )
    record.listeners.append(background.put)
    number = ask(record)
    assert copied.wait(SECONDS)
    server.kill()
    train(record, number, 120.0, 110.0)
    record.finish(number, COMPLETE)
    assert re.match("PostgreSQL: .*(refused|closed|terminat).*[.] Training continues", warnings.first())
    train(record, ask(record), 130.0)
    server.start()
    close_views([background], "complete", patience_seconds=SECONDS)
    assert len(warnings.lines) == 1
    assert server.has_copied(record.folder)
