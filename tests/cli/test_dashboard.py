"""The real dashboard over a study's journal: its page and its answers, and that nothing can be written through it."""

import contextlib
import json
import socket
import sys
import threading
import urllib.error
import urllib.request

import pytest

from tests.cli.test_main import run
from tests.record.test_reopening import longer, opened
from tests.studies import make_study
from tests.view_servers import SECONDS
from vae_tune.cli.dashboard import DashboardOptions, make_dashboard
from vae_tune.cli.dashboard import run as run_dashboard
from vae_tune.config.errors import UsageError
from vae_tune.record.journal import Journal
from vae_tune.record.trials import read_trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("dashboard") / "study", trials=12, ended=10, status="running")


@contextlib.contextmanager
def serving(folder):
    server = make_dashboard(folder, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(SECONDS)


@pytest.fixture(scope="module")
def url(folder):
    with serving(folder) as url:
        yield url


def get(url):
    with urllib.request.urlopen(url, timeout=SECONDS) as reply:
        return reply.read().decode()


def send(url, method, body):
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=SECONDS)
    return refused.value.code, json.load(refused.value)["reason"]


def test_the_page_and_its_script_are_there(url):
    page = get(f"{url}/dashboard/studies/0")
    assert "<title>Optuna Dashboard" in page
    assert len(get(f"{url}/static/bundle.js")) > 100_000


def test_the_answers_hold_the_studys_trials(url, folder):
    (study,) = json.loads(get(f"{url}/api/studies"))["study_summaries"]
    assert (study["study_id"], study["study_name"]) == (0, "study")
    detail = json.loads(get(f"{url}/api/studies/0"))
    states = {trial["number"]: trial["state"].upper() for trial in detail["trials"]}
    assert states == {trial.number: trial.state.name for trial in read_trials(folder)}
    assert len(states) == 12
    assert [trial["state"] for trial in detail["best_trials"]] == ["Complete"]
    assert detail["has_intermediate_values"]


def test_a_study_that_is_opened_again_meanwhile_is_followed(tmp_path):
    def states():
        trials = json.loads(get(f"{url}/api/studies/0"))["trials"]
        return [trial["state"].upper() for trial in trials]

    folder = make_study(tmp_path / "study", trials=3, ended=3, max_epochs=4)
    with serving(folder) as url:
        assert states() == [trial.state.name for trial in read_trials(folder)]
        record = opened(longer(folder, 12))
        record.close()
        assert states() == [row.state for row in record.rows]
        assert "data" in get(f"{url}/api/studies/0/plot/timeline")


def test_a_journal_that_is_gone_is_said(tmp_path):
    folder = make_study(tmp_path / "study", trials=1)
    with serving(folder) as url:
        (folder / "optuna.journal").unlink()
        code, reason = send(f"{url}/api/studies/0", "GET", {})
    assert (code, reason) == (500, f"{folder}/optuna.journal cannot be read: No such file or directory.")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "studies", {"study_name": "new", "directions": ["minimize"]}),
        ("DELETE", "studies/0", {}),
        ("POST", "studies/0/rename", {"study_name": "new"}),
        ("PUT", "studies/0/note", {"version": 1, "body": "a note"}),
        ("POST", "trials/0/tell", {"state": "fail"}),
    ],
)
def test_what_would_change_the_study_is_refused_in_words(url, folder, method, path, body):
    before = (folder / "optuna.journal").read_bytes()
    code, reason = send(f"{url}/api/{path}", method, body)
    assert code == 405
    assert "is read-only" in reason
    assert (folder / "optuna.journal").read_bytes() == before
    assert not list(folder.glob("optuna.journal.*"))  # no lock either


def test_the_journal_itself_takes_no_change(folder):
    before = (folder / "optuna.journal").read_bytes()
    with pytest.raises(PermissionError):
        Journal(folder / "optuna.journal").append_logs([{"op_code": 0}])
    assert (folder / "optuna.journal").read_bytes() == before


def test_what_a_running_search_adds_is_read_as_far_as_it_is_whole(tmp_path):
    folder = make_study(tmp_path / "study", trials=3)
    journal = Journal(folder / "optuna.journal")
    count = len(list(journal.read_logs(0)))
    with (folder / "optuna.journal").open("a") as file:
        file.write('{"op_code": 4, "worker_id": "x"}\n{"op_code": 4, "wor')
    assert [log["op_code"] for log in journal.read_logs(count)] == [4]


def test_a_port_that_is_taken_is_said_in_a_line(monkeypatch, capsys, folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = run(monkeypatch, capsys, folder, "--port", port, command="dashboard")
    assert code == 2
    assert errors == f"search.py: Port {port} on 127.0.0.1 is taken: choose another with --port.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is no study: the folder is missing"),
        (["nowhere", "--port", "65536"], "port must be in 0..65535, but got 65536"),
        ([], "missing"),
    ],
)
def test_bad_input_is_refused_in_a_line(monkeypatch, capsys, words, message):
    code, _, errors = run(monkeypatch, capsys, *words, command="dashboard")
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_a_study_without_its_journal_is_refused(tmp_path):
    folder = make_study(tmp_path / "study", trials=1)
    (folder / "optuna.journal").unlink()
    with pytest.raises(UsageError, match=r"optuna\.journal is missing"):
        make_dashboard(folder, 0)
    assert not (folder / "optuna.journal").exists()


def test_without_optuna_dashboard_the_extra_is_named(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UsageError, match=r"pip install 'vae-tune\[dashboard\]'"):
        make_dashboard(folder, 0)


def test_the_browser_is_opened_on_the_study_and_ctrl_c_ends_the_server(monkeypatch, capsys, folder):
    opened = []

    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("vae_tune.cli.dashboard._Server.serve_forever", interrupt)
    run_dashboard(DashboardOptions(folder=folder, port=0, open=True))
    assert opened[0].endswith("/dashboard/studies/0")
    assert opened[0] in capsys.readouterr().out
    with socket.socket() as again:
        again.bind(("127.0.0.1", int(opened[0].split(":")[2].partition("/")[0])))


@pytest.mark.parametrize(("trials", "failed"), [(0, 0), (1, 0), (3, 1.0)])
def test_a_study_without_trials_or_without_success_is_shown_as_it_is(tmp_path, trials, failed):
    with serving(make_study(tmp_path / "study", trials=trials, failed=failed)) as url:
        detail = json.loads(get(f"{url}/api/studies/0"))
    assert len(detail["trials"]) == trials
    assert len(detail["best_trials"]) == (failed == 0 and trials)
