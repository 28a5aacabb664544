"""The command of --notify: what it is told, and that it harms nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.studies import SCORE, make_study
from vae_tune.config.errors import SearchError, SearchPaused
from vae_tune.tasks import notification
from vae_tune.tasks.notification import killed_command, make_message, notify, notifying

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = make_study(tmp_path_factory.mktemp("results") / "mine", trials=12)
    (folder / "report.html").write_text("")
    return folder


def told(path):
    return json.loads(path.read_text())


def test_the_message_of_a_whole_search_has_its_best_trial_its_losses_and_its_report(study):
    message = make_message(study)
    metrics = json.loads((study / "best" / "metrics.json").read_text())
    best = metrics["winner"]
    assert (message["study"], message["place"], message["status"]) == ("mine", str(study), "complete")
    assert message["trials"] == {"asked": 12, "complete": 4, "pruned": 8} | message["trials"]
    assert sum(message["trials"].values()) == 24
    assert (message["best"]["trial"], message["best"]["epochs"]) == (best["trial"], 9)
    assert message["best"]["val_loss"] == best["validation"]["negative_elbo"]
    assert message["best"]["values"] == best["hyperparameters"]
    assert message["metrics"] == metrics
    assert message["report"] == str(study / "report.html")
    assert (message["error"], message["resume"]) == ("", None)
    assert json.loads(json.dumps(message, default=lambda value: pytest.fail(f"{value!r} is no JSON")))
    lines = message["text"].splitlines()
    assert lines[0] == "Search mine: complete"
    assert lines[2] == f"best: trial {best['trial']}, {best['validation']['negative_elbo']:.2f} nats after epoch 9"
    assert lines[-1] == f"report: {study}/report.html"


def test_the_message_of_a_search_that_pauses_has_the_command_that_resumes_it(tmp_path):
    folder = make_study(tmp_path / "cut", trials=12, ended=5, status="interrupted")
    message = make_message(folder)
    assert (message["status"], message["report"]) == ("interrupted", None)
    assert message["trials"]["unfinished"] == 2
    assert message["resume"].endswith(f"--resume {folder}")
    assert message["resume"] in message["text"]


def test_the_message_names_a_metric_of_the_users(tmp_path):
    best = make_message(make_study(tmp_path / "scored", trials=6, metric=SCORE))["best"]
    assert best["score"] < 0
    assert best["loss"].endswith(" score")


def test_a_search_that_did_not_start_has_a_message_with_the_reason(tmp_path):
    message = make_message(tmp_path / "none", "failed", "Ray did not start")
    assert message["text"] == "Search none: failed (Ray did not start)"
    assert (message["trials"], message["best"], message["metrics"]) == (None, None, None)


def test_a_record_that_cannot_be_read_is_told_of(tmp_path):
    folder = make_study(tmp_path / "damaged", trials=3)
    (folder / "trials.csv").unlink()
    message = make_message(folder, "failed")
    assert "trials.csv cannot be read" in message["error"]
    assert message["status"] == "failed"


@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        (None, "complete", ""),
        (KeyboardInterrupt("the record keeps all"), "interrupted", ""),
        (SearchPaused("the record keeps all"), "paused", ""),
        (SystemExit(143), "interrupted", ""),
        (SearchError("Ray has died.\nSee driver.log"), "failed", "Ray has died."),
        (RuntimeError(), "failed", "RuntimeError"),
    ],
)
def test_the_command_runs_once_however_the_search_ends(study, tmp_path, ending, status, error):
    def search():
        with notifying(f"cat >> {tmp_path}/told", study, pytest.fail):
            assert not (tmp_path / "told").exists()
            if ending:
                raise ending

    if ending is None:
        search()
    else:
        with pytest.raises(type(ending)):
            search()
    message = told(tmp_path / "told")
    assert (message["status"], message["error"]) == (status, error)


def test_without_a_command_nothing_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(notification, "make_message", pytest.fail)
    with notifying(None, tmp_path, pytest.fail):
        pass


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "echo one >&2; echo no such user >&2; exit 67",
            "--notify: the command failed with exit code 67: no such user",
        ),
        ("exit 3", "--notify: the command failed with exit code 3"),
        ("/no/such/program", "--notify: the command failed with exit code 127: .*not found"),
        ("kill -9 $$", "--notify: the command failed with exit code -9"),
        ("sleep 60", r"--notify: the command did not end within 0 s"),
        ("true", None),  # it does not read its input
        ("cat > /dev/null; sleep 60 &", None),  # nobody waits for what it leaves behind
    ],
)
def test_a_command_that_fails_or_hangs_is_one_line(monkeypatch, command, line):
    monkeypatch.setattr(notification, "_PATIENCE_SECONDS", 0.3 if command == "sleep 60" else 30.0)
    said = []
    notify(command, {"text": "x" * 200_000}, said.append)
    assert len(said) == (line is not None)
    assert all(re.fullmatch(rf"{line}\.", text) for text in said)


def test_a_search_that_was_killed_is_told_of_by_another_process(study, tmp_path):
    command = killed_command(f"cat > {tmp_path}/told", study)
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert told(tmp_path / "told")["status"] == "killed"
    assert killed_command(None, study) == []


def documented():
    """The commands and the script of the document."""
    section = (ROOT / "docs" / "live-views.md").read_text().partition("## Mail and chat")[2]
    commands = re.findall(r"--notify '(.*)'", section)
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return commands, script


def test_the_documented_mail_is_sent_with_the_text(study, tmp_path, monkeypatch):
    (mail, _), _ = documented()
    program = tmp_path / "bin" / "mail"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\ncat > {tmp_path}/body\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    message = make_message(study)
    notify(mail, message, pytest.fail)
    assert (tmp_path / "words").read_text().splitlines() == ["-s", "vae_tune", "me@example.org"]
    assert (tmp_path / "body").read_text().strip() == message["text"]


def test_the_documented_chat_gets_the_text(study, tmp_path, monkeypatch):
    (_, chat), script = documented()
    received = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    (tmp_path / "chat.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CHAT_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hooks/secret")
    message = make_message(study)
    notify(chat, message, pytest.fail)
    thread.join()
    server.server_close()
    assert received == [{"text": message["text"]}]
