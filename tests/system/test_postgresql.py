"""A real search that is copied into a real PostgreSQL server; both die on the way."""

import psycopg
import pytest

from tests.postgresql import PASSWORD, running_postgresql
from tests.system.conftest import wait_for
from tests.view_servers import Warnings
from vae_tune.analysis.audit import audit
from vae_tune.config.settings import ViewsConfig
from vae_tune.record.metadata import read_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.views.live import live_views

pytestmark = pytest.mark.system

SMALL = ("--train-size", 2000, "--max-epochs", 2, "--hidden-width", 32, "--num-samples", 3, "--max-concurrent", 1)


@pytest.fixture
def server():
    with running_postgresql() as server:
        server.trials("")  # makes the tables
        yield server


def test_a_killed_search_goes_on_without_its_database_which_gets_the_rest_when_it_is_back(search, server, tmp_path):
    folder, url = tmp_path / "results" / "watched", server.url()
    running = search("--study-name", "watched", "--study-storage", url, *SMALL)
    with psycopg.connect(url, autocommit=True) as database:
        wait_for(lambda: database.execute("SELECT 1 FROM trial_intermediate_values").fetchone(), running)
    running.kill()
    _, first = running.wait()
    before = [trial.number for trial in server.trials("watched")]
    server.kill()

    code, second = search("--resume", folder).wait()
    assert code == 0, second
    assert f"Live view: PostgreSQL at {url}" in second
    assert second.count("Training continues") == 1
    assert audit(folder) == []

    server.start()
    record, warnings = StudyRecord.resume(folder, read_metadata(folder)), Warnings()
    with live_views(ViewsConfig(study_storage=url), record, warnings):
        pass  # what a resume of a finished search does
    record.close()
    assert not warnings.lines
    assert before == list(range(len(before)))
    assert server.has_copied(folder)
    assert [trial.state.name for trial in server.trials("watched")].count("RUNNING") == 0

    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(PASSWORD.encode() in text for text in [*texts, first.encode(), second.encode()])
    assert any(url.encode() in text for text in texts)  # the record does tell where the copy is
