"""A driver that lost its study to another one writes and deletes nothing more there, whatever it had under way."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.stores import BUCKET, gcs, google, no_event, s3
from vae_tune.config import storage
from vae_tune.config.errors import SearchError, UsageError
from vae_tune.config.files import address
from vae_tune.config.local_copies import working_copy
from vae_tune.config.storage import ClaimLost
from vae_tune.record import claim, remote_sync
from vae_tune.record.claim import Claim, claimed
from vae_tune.record.remote_sync import uploading

SUCCESSOR = json.dumps({"pid": 7, "host": "other", "token": "its own", "beat": 1}).encode()
THEIRS = b"the successor's lines\n"


@pytest.fixture(scope="module")
def servers():
    with s3() as amazon, google() as other:
        yield {"s3": amazon, "gs": other}


@pytest.fixture(params=["s3", "gs"])
def server(request, servers, monkeypatch):
    server = servers[request.param]
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "SILENCE", 1.5)
    monkeypatch.setattr(claim, "_BEAT_SECONDS", 0.0)
    monkeypatch.setattr(remote_sync, "_PERIOD_SECONDS", 0.02)
    server.scheme = request.param
    yield server
    server.before = server.after = no_event


@pytest.fixture
def place(server, tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    return Path(f"{server.scheme}://{BUCKET}/{tmp_path.name}/study")


def key(path):
    return "/".join(path.parts[2:])


def take_over(server, place):
    """Do what a driver does that takes a study over: put its mark there, then write the journal anew."""
    server.put(key(place / "study.lock"), SUCCESSOR)
    server.put(key(place / "optuna.journal"), THEIRS)


def once(server, moment, method, path, action):
    """Do something at the next such request for an object, before or after it is carried out."""

    def event(seen, name):
        if (seen, name) == (method, key(path)):
            setattr(server, moment, no_event)
            return action()
        return None

    setattr(server, moment, event)


def writing(server):
    return "PUT" if server.scheme == "s3" else "POST"


def test_a_write_that_arrives_after_the_successor_took_over_is_refused(server, place):
    journal = place / "optuna.journal"
    with claimed(place, pytest.fail):
        storage.write_bytes(journal, b"my first line\n")
        once(server, "before", writing(server), journal, lambda: take_over(server, place))
        with pytest.raises(ClaimLost, match="taken over by process 7 on host other"):  # at once, in the only try
            storage.write_bytes(journal, b"my first line\nmy late line\n", patience=0)
    assert server.objects()[key(journal)] == THEIRS
    assert server.objects()[key(place / "study.lock")] == SUCCESSOR  # it is not released


def test_a_first_write_that_arrives_after_the_successor_s_is_refused(server, place):
    journal = place / "optuna.journal"
    with claimed(place, pytest.fail):
        once(server, "before", writing(server), journal, lambda: take_over(server, place))
        with pytest.raises(ClaimLost):
            storage.write_bytes(journal, b"my late line\n")
    assert server.objects()[key(journal)] == THEIRS


def test_a_driver_without_its_claim_writes_and_deletes_nothing(server, place):
    checkpoint = place / "checkpoints" / "trial_00003" / "epoch_0001.safetensors"
    with claimed(place, pytest.fail):
        storage.write_bytes(checkpoint, b"weights")
        take_over(server, place)
        before = server.objects()
        for attempt in (
            lambda: storage.write_bytes(place / "new", b"1"),
            lambda: storage.write_bytes(checkpoint, b"1"),
            lambda: storage.delete(checkpoint),
            lambda: storage.delete_folder(checkpoint.parent),
        ):
            with pytest.raises(ClaimLost):
                attempt()
    assert server.objects() == before


def test_what_the_successor_wrote_anew_is_not_deleted_by_a_late_request(server, place):
    checkpoint = place / "checkpoints" / "trial_00003" / "epoch_0001.safetensors"

    def theirs():
        take_over(server, place)
        server.put(key(checkpoint), b"their weights")

    with claimed(place, pytest.fail):
        storage.write_bytes(checkpoint, b"weights")
        once(server, "before", "DELETE", checkpoint, theirs)
        with pytest.raises(ClaimLost):
            storage.delete_folder(checkpoint.parent, patience=0)
    assert server.objects()[key(checkpoint)] == b"their weights"


def test_a_study_whose_claim_is_gone_was_taken_over_and_ended(server, place):
    with claimed(place, pytest.fail):
        storage.write_bytes(place / "optuna.journal", b"1")
        storage.set_claim(place, None)
        storage.delete(place / "study.lock")
        storage.set_claim(place, "of a driver that slept")
        with pytest.raises(ClaimLost, match="taken over by another driver, which has ended"):
            storage.write_bytes(place / "optuna.journal", b"2")


def test_a_final_upload_that_is_retried_leaves_the_successor_s_journal_and_says_so(server, place):
    folder, reasons, deleted = working_copy(place), [], []
    storage.write_bytes(folder / "optuna.journal", b"my first line\n")
    storage.write_bytes(folder / "study.json", b"{}")

    def search():
        with (
            claimed(place, pytest.fail) as mine,
            uploading(folder, place, mine, pytest.fail, reasons.append) as after_upload,
        ):
            first = threading.Event()
            after_upload(first.set)
            assert first.wait(30)
            once(server, "before", writing(server), place / "optuna.journal", lambda: take_over(server, place))
            storage.write_bytes(folder / "optuna.journal", b"my first line\nmy late line\n")
            after_upload(lambda: deleted.append("checkpoints"))

    with pytest.raises(SearchError, match="taken over by process 7 on host other") as raised:
        search()
    assert "writes nothing more there" in str(raised.value)
    assert server.objects()[key(place / "optuna.journal")] == THEIRS
    assert server.objects()[key(place / "study.lock")] == SUCCESSOR
    assert deleted == []


@pytest.mark.parametrize("file", ["optuna.journal", "study.lock"])
def test_a_write_whose_answer_was_lost_is_not_taken_for_another_driver_s(server, place, file):
    lost = []

    def lose():
        lost.append(file)
        return True

    with claimed(place, pytest.fail) as mine:
        storage.write_bytes(place / "optuna.journal", b"1")
        once(server, "after", writing(server), place / file, lose)
        mine.keep_alive(10)
        storage.write_bytes(place / "optuna.journal", b"2")
        mine.keep_alive(10)
        storage.write_bytes(place / "optuna.journal", b"3")
    assert lost == [file]
    assert server.objects()[key(place / "optuna.journal")] == b"3"
    assert key(place / "study.lock") not in server.objects()


def test_of_two_drivers_that_find_a_study_free_at_the_same_moment_one_gets_it(server, place):
    once(
        server,
        "before",
        writing(server),
        place / "study.lock",
        lambda: server.put(key(place / "study.lock"), SUCCESSOR),
    )
    with pytest.raises(UsageError, match="is being written by process 7 on host other"):
        Claim(place, pytest.fail)
    assert server.objects()[key(place / "study.lock")] == SUCCESSOR


@pytest.mark.parametrize("alive", [True, False])
def test_a_driver_on_this_machine_is_waited_for_only_while_its_process_lives(server, place, alive):
    """One that has just begun holds no lock on the working copy yet."""
    said = []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        if not alive:
            process.communicate(b"\n")
        mark = {"pid": process.pid, "host": socket.gethostname(), "token": "x", "beat": 1}
        server.put(key(place / "study.lock"), json.dumps(mark).encode())
        with claimed(place, said.append):
            pass
        if alive:
            process.communicate(b"\n")
    waited = f"Checking whether process {process.pid} on host {socket.gethostname()} is still writing this study ..."
    assert said == [waited] * alive


def test_a_store_that_ignores_conditions_is_named(tmp_path, monkeypatch):
    """The emulator of Google's does; it may be the only one that takes a first write twice."""
    said = []
    place = Path(f"gs://{BUCKET}/{tmp_path.name}/study")
    with gcs() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with claimed(place, said.append):
            storage.write_bytes(place / "file", b"1")
        assert storage.list_folder(place).files == {"file"}
    (line,) = said
    assert line.startswith(f"The storage of gs://{BUCKET}/{tmp_path.name}/study ignores the conditions of a write")


def test_another_process_of_the_driver_writes_under_its_claim(server, place):
    """A worker: it gets the study and the token, no more."""
    with claimed(place, pytest.fail):
        study, token = storage.claim_for(place / "confirmation" / "checkpoints")
        assert study == place
        code = (
            "import sys; from pathlib import Path; from vae_tune.config import storage\n"
            "place = Path(sys.argv[1]); storage.set_claim(place, sys.argv[2])\n"
            "storage.write_bytes(place / 'checkpoints' / sys.argv[3], b'1')"
        )
        command = [sys.executable, "-c", code, address(place), token]
        assert subprocess.run([*command, "first"], check=False).returncode == 0
        take_over(server, place)
        late = subprocess.run([*command, "second"], check=False, capture_output=True, text=True)
    assert "ClaimLost: The study" in late.stderr
    assert key(place / "checkpoints" / "first") in server.objects()
    assert key(place / "checkpoints" / "second") not in server.objects()


def test_after_the_claim_s_end_the_process_writes_freely(server, place):
    with claimed(place, pytest.fail):
        assert storage.claim_for(place)
    assert storage.claim_for(place) is None
