"""A study on object storage: what is uploaded when, and by whom."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from tests.remote_studies import names, record, write
from tests.stores import BUCKET
from tests.studies import make_study
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.analysis.study import load_study
from vae_tune.config import storage
from vae_tune.config.errors import SearchError, UsageError
from vae_tune.config.local_copies import record_files, working_copy
from vae_tune.config.names import LOCK_FILE
from vae_tune.config.settings import SearchConfig
from vae_tune.record import remote_sync
from vae_tune.record.claim import Claim, claimed
from vae_tune.record.remote_sync import update_working_copy, uploading
from vae_tune.tasks.search_plan import make_plan
from vae_tune.views.report.page import render, write_report
from vae_tune.views.report.summary import make_status


def test_the_working_copy_is_uploaded_as_it_grows_and_whole_at_its_end(server, place):
    folder = working_copy(place)
    record(folder)
    with (
        claimed(place, pytest.fail) as claim,
        uploading(folder, place, claim, pytest.fail, pytest.fail) as after_upload,
    ):
        uploaded = threading.Event()
        after_upload(uploaded.set)
        assert uploaded.wait(30)
        assert {"optuna.journal", "epochs.csv", "study.json"} <= names(server, place)
        record(folder, epochs=3)
    assert names(server, place) == {"optuna.journal", "epochs.csv", "study.json"}  # and no lock
    assert storage.read_bytes(place / "epochs.csv") == (folder / "epochs.csv").read_bytes()


def test_the_tables_are_never_ahead_of_the_journal(server, place, monkeypatch):
    """A report is written between any two requests; what lies in the storage must fit together all the time."""
    folder, epochs = working_copy(place), [1]
    record(folder)
    order = []

    def observed(path, content, patience):
        epochs[0] += 1
        record(folder, epochs[0])
        storage.write_bytes(path, content, patience)
        if path.name != "study.lock":
            order.append(path.name)
        if storage.exists(place / "epochs.csv"):
            journal, table = (storage.read_bytes(place / name) for name in ("optuna.journal", "epochs.csv"))
            assert journal.startswith(table)

    monkeypatch.setattr(remote_sync, "write_bytes", observed)
    claim = Claim(place, pytest.fail)
    one = remote_sync._Uploader(folder, place, claim)
    for _ in range(3):
        one.upload(5)
    assert order == ["optuna.journal", "epochs.csv", "study.json"] * 3


def test_what_did_not_change_is_not_uploaded_again(server, place):
    folder = working_copy(place)
    record(folder)
    one = remote_sync._Uploader(folder, place, Claim(place, pytest.fail))
    assert one.upload(5) > 0
    assert one.upload(5) == 0
    write(folder, trials_csv=b"12345")
    assert one.upload(5) == 5


def test_nothing_is_deleted_before_the_record_that_makes_it_superfluous_is_safe(server, place):
    folder, done = working_copy(place), []
    record(folder)
    one = remote_sync._Uploader(folder, place, Claim(place, pytest.fail))
    one.after_upload.append(lambda: done.append(names(server, place)))
    server.go_away()
    with pytest.raises(OSError, match="s3://"):
        one.upload(0.1)
    assert done == []
    server.come_back()
    one.upload(5)
    assert len(done) == 1
    assert "optuna.journal" in done[0]
    one.upload(5)
    assert len(done) == 1


def test_an_outage_is_said_once_and_what_it_kept_back_is_uploaded_later(server, place):
    folder, said = working_copy(place), []
    record(folder)
    away = threading.Event()

    def warn(text):
        said.append(text)
        away.set()

    with claimed(place, pytest.fail) as claim, uploading(folder, place, claim, warn, pytest.fail):
        server.go_away()
        record(folder, epochs=2)
        assert away.wait(30)
        server.come_back()
    (line,) = said
    assert line.startswith("The record cannot be uploaded now: s3://")
    assert line.endswith("The search goes on, and the upload is retried.")
    assert storage.read_bytes(place / "epochs.csv") == (folder / "epochs.csv").read_bytes()


def test_a_storage_that_stays_away_leaves_the_record_on_this_machine_and_says_where(server, place):
    folder = working_copy(place)
    record(folder)
    try:
        with (
            pytest.raises(SearchError, match="could not be uploaded") as raised,
            claimed(place, pytest.fail) as claim,
            uploading(folder, place, claim, lambda _: None, pytest.fail),
        ):
            server.go_away()
    finally:
        server.come_back()
    assert str(folder) in str(raised.value)
    assert f"--resume s3://{BUCKET}" in str(raised.value)
    with claimed(place, lambda _: None):
        assert update_working_copy(place) == folder  # nothing was uploaded, and nothing is lost
    assert (folder / "epochs.csv").exists()


def test_a_second_driver_is_refused_with_pid_and_host_of_the_first(server, place, monkeypatch):
    said = []
    record(working_copy(place))
    me = f"by process {os.getpid()} on host {socket.gethostname()}.\n"
    with (
        claimed(place, pytest.fail) as claim,
        uploading(working_copy(place), place, claim, pytest.fail, pytest.fail),
        monkeypatch.context() as other,
    ):
        other.setattr("socket.gethostname", lambda: "elsewhere")
        with pytest.raises(UsageError, match=f"is being written {me}"):
            Claim(place, said.append)
    assert said[0].startswith("Checking whether process")


def test_a_driver_keeps_its_name_when_that_of_its_host_changes(server, place, monkeypatch):
    host = socket.gethostname()
    with claimed(place, pytest.fail) as claim:
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        claim._next_beat = 0.0
        claim.keep_alive(storage.QUICK)
        holder = storage.parse_holder(storage.read_bytes(place / LOCK_FILE))
    assert (holder["host"], holder["beat"]) == (host, 2)


def test_a_search_that_comes_to_nothing_leaves_nothing(server, place):
    with claimed(place, pytest.fail):
        pass
    prefix = "/".join(place.parts[2:])
    found = server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    assert [entry["Key"] for entry in found.get("Contents", ())] == []


def test_a_search_that_comes_to_nothing_leaves_what_was_there(server, place):
    for name in ("a/study.json", "notes.txt"):
        storage.write_bytes(place / name, b"precious")
    with claimed(place, pytest.fail):
        pass
    assert names(server, place) == {"a/study.json", "notes.txt"}


@pytest.mark.parametrize(
    ("there", "refused"),
    [
        (["a/study.json"], True),
        (["notes.txt"], True),
        (["optuna.journal", "checkpoints/00000/epoch_0001"], False),
        ([], False),
    ],
)
def test_a_new_study_takes_no_place_that_is_another_s(server, place, there, refused):
    for name in there:
        storage.write_bytes(place / name, b"precious")
    config = SearchConfig(results_dir=place.parent, study_name=place.name)
    with claimed(place, pytest.fail):
        if refused:
            with pytest.raises(UsageError, match="exists already and is no study"):
                make_plan(config, None, place)
        else:
            assert make_plan(config, None, place).place == place
    assert names(server, place) == {*there}


def test_the_mark_of_a_driver_that_is_gone_is_overcome(server, place):
    mark = {"pid": 7, "host": "a-lost-head", "token": "x", "beat": 9}
    storage.write_bytes(place / "study.lock", json.dumps(mark).encode())
    said = []
    with claimed(place, said.append):
        assert json.loads(storage.read_bytes(place / "study.lock"))["token"] != "x"
    assert said == ["Checking whether process 7 on host a-lost-head is still writing this study ..."]
    assert not storage.exists(place / "study.lock")


def test_a_driver_whose_study_was_taken_over_stops(server, place):
    folder = working_copy(place)
    record(folder)
    failed = threading.Event()
    reasons = []

    def fail(reason):
        reasons.append(reason)
        failed.set()

    def search():
        with claimed(place, pytest.fail) as claim, uploading(folder, place, claim, pytest.fail, fail):
            for beat in range(1, 100):  # the other is alive: what this one writes over its mark, it writes again
                mark = {"pid": 7, "host": "other", "token": "x", "beat": beat}
                storage.write_bytes(place / "study.lock", json.dumps(mark).encode())
                if failed.wait(0.3):
                    break
            assert failed.is_set()

    with pytest.raises(SearchError, match="taken over by process 7 on host other"):
        search()
    assert json.loads(storage.read_bytes(place / "study.lock"))["token"] == "x"  # the other's mark stays


def test_what_is_printed_of_a_study_names_its_place(place, tmp_path):
    made = make_study(tmp_path / "study", trials=12, status="interrupted", ended=8)
    for path in record_files(made):
        storage.write_bytes(place / path.relative_to(made), path.read_bytes())
    where = f"s3://{BUCKET}/{tmp_path.name}/study"
    for study in (load_study(where), load_study(update_working_copy(place))):
        assert study.place == place
        page = render(study)
        assert f"--resume {where}" in page
        assert str(study.folder) not in page
        (study.folder / "epochs.csv").write_text("")
        with pytest.raises(UsageError, match=f"^{where}/epochs.csv cannot be read"):
            load_study(study.folder)


def test_of_a_study_on_object_storage_it_is_known_whether_a_driver_writes_it(place, tmp_path, monkeypatch):
    made = make_study(tmp_path / "study", trials=12, status="running", ended=8)
    for path in record_files(made):
        storage.write_bytes(place / path.relative_to(made), path.read_bytes())
        storage.write_bytes(place / "confirmation" / path.relative_to(made), path.read_bytes())

    def told(study):
        killed = any("was killed" in note for note in compute_cost(study).notes)
        return make_status(study)["label"], killed

    assert told(load_study(place)) == ("killed", True)
    with claimed(place, pytest.fail):
        while_written = [load_study(one) for one in (place, place / "confirmation")]
        working = update_working_copy(place)
        monkeypatch.setattr(storage, "SILENCE", -1)  # it is too old already
        assert told(load_study(place)) == ("killed", True)
    assert [told(study) for study in while_written] == [("running", False)] * 2
    assert told(load_study(working)) == ("killed", True)


def test_a_report_does_not_replace_one_that_the_driver_wrote_meanwhile(server, place, tmp_path, monkeypatch):
    made = make_study(tmp_path / "study", trials=12, status="running", ended=8)
    for path in record_files(made):
        storage.write_bytes(place / path.relative_to(made), path.read_bytes())
    for _ in range(2):  # a first one, then one over it
        assert write_report(place) == place / "report.html"
    page = storage.read_bytes(place / "report.html")
    assert page.startswith(b"<!")

    def drive(method, name):
        if method == "GET" and name.endswith("epochs.csv"):
            server.put(f"{tmp_path.name}/study/report.html", b"the driver's")

    monkeypatch.setattr(server, "before", drive)
    with pytest.raises(UsageError, match=r"written s3://.*report.html meanwhile\.\n.*--output"):
        write_report(place)
    assert storage.read_bytes(place / "report.html") == b"the driver's"


def test_no_more_than_the_bound_is_uploaded_while_the_claim_is_kept(place, monkeypatch):
    """After an upload of a few bytes at a byte an hour, only the driver's mark changes until the search has ended."""
    monkeypatch.setattr(remote_sync, "_BYTES_PER_SECOND", 1 / 3600)
    folder = working_copy(place)
    record(folder)
    with claimed(place, pytest.fail) as mine, uploading(folder, place, mine, pytest.fail, pytest.fail):
        while not storage.exists(place / "study.json"):  # which is uploaded last
            pass
        record(folder, epochs=2)
        beat = json.loads(storage.read_bytes(place / "study.lock"))["beat"]
        while json.loads(storage.read_bytes(place / "study.lock"))["beat"] < beat + 4:
            assert storage.read_bytes(place / "epochs.csv").count(b"\n") == 1
    assert storage.read_bytes(place / "epochs.csv").count(b"\n") == 2
