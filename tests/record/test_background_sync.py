"""A search that does not wait for the disk: what is known at once, and what once it is on disk; a disk that fails."""

import json
import os
import threading
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest

from tests.record.test_study_record import METADATA, ask, report, table
from vae_tune.config.files import read_json
from vae_tune.config.names import COMPLETE, RUNNING
from vae_tune.config.settings import NO_EARLY_STOPPING, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.tables import Tables
from vae_tune.record.trials import read_trials
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import Lifecycle


@pytest.fixture
def record(tmp_path):
    record = StudyRecord.create(tmp_path / "study", METADATA)
    yield record
    record.close()


@pytest.fixture
def disk(monkeypatch):
    """A disk for the journal that takes as long as a test wants, or fails."""
    disk = SimpleNamespace(go=threading.Event(), error=None, times=0)
    fsync = os.fsync

    def slow(descriptor):
        if threading.current_thread() is not threading.main_thread():
            if not disk.go.wait(10):
                raise OSError(5, "a test did not let the disk work")
            disk.times += 1
            if disk.error:
                raise disk.error
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    return disk


def told(record):
    """Return what watchers and listeners are told of trials from now on."""
    watched, listened = [], []
    record.watchers.append(lambda row: watched.append((row.trial, row.epochs, row.state)))
    record.listeners.append(lambda row: listened.append((row.trial, row.epochs, row.state)))
    return watched, listened


def test_tables_and_listeners_wait_for_the_disk_but_neither_the_search_nor_the_watchers(record, disk):
    watched, listened = told(record)
    with record.synced_in_background():
        number = ask(record)
        for epoch in (1, 2):
            record.report(number, report(epoch, 120.0 - epoch))
        record.finish(number, COMPLETE)
        record.refresh()
        assert watched == [(0, 0, RUNNING), (0, 1, RUNNING), (0, 2, RUNNING), (0, 2, COMPLETE)]
        assert record.row(number).state == COMPLETE
        assert read_trials(record.folder)[0].state.name == COMPLETE  # as after a kill
        assert (listened, table(record.folder / "epochs.csv")) == ([], [])
        disk.go.set()
        record.wait()
        assert listened == watched
        assert [row["epoch"] for row in table(record.folder / "epochs.csv")] == ["1", "2"]
    record.set_status("complete")
    assert table(record.folder / "trials.csv")[0]["state"] == COMPLETE


def test_what_is_written_while_the_disk_works_goes_to_it_at_once(record, disk):
    with record.synced_in_background():
        numbers = [ask(record) for _ in range(20)]
        for number in numbers:
            record.report(number, report(1, 120.0))
        disk.go.set()
        record.wait()
        assert disk.times <= 3
    assert len(table(record.folder / "epochs.csv")) == 20


def test_the_end_of_the_block_waits_for_the_disk_also_after_an_error(record, disk):
    _, listened = told(record)
    with suppress(KeyError), record.synced_in_background():
        ask(record)
        threading.Timer(0.05, disk.go.set).start()
        raise KeyError
    assert disk.times
    record.set_status("failed")
    assert [row["trial"] for row in table(record.folder / "trials.csv")] == ["0"]
    assert listened == []
    record.refresh()
    assert listened == [(0, 0, RUNNING)]


def test_the_status_is_written_while_a_listener_works_and_after_it_has_failed(record):
    """Another thread writes it where Ray's core is about to end this process."""

    def work_and_fail(row):
        thread = threading.Thread(target=record.set_status, args=["interrupted"])
        thread.start()
        thread.join(10)
        statuses.append(read_json(record.folder / "study.json")["status"])
        raise KeyError(row.trial)

    statuses = []
    record.listeners.append(work_and_fail)
    with pytest.raises(KeyError), record.transaction():
        ask(record), ask(record)
    record.set_status("failed")
    assert statuses == ["interrupted"]
    assert read_json(record.folder / "study.json")["status"] == "failed"
    assert [row["trial"] for row in table(record.folder / "trials.csv")] == ["0", "1"]


def test_two_threads_write_the_tables_one_after_the_other(record, disk, monkeypatch):
    def slow(tables, row, report):
        if not thread.ident:
            thread.start()
            thread.join(0.2)  # it waits for this one
        update(tables, row, report)

    update = Tables.update
    thread = threading.Thread(target=record.set_status, args=["interrupted"])
    number = ask(record)
    with record.synced_in_background():
        for epoch in (1, 2):
            record.report(number, report(epoch, 120.0))
        disk.go.set()
    monkeypatch.setattr(Tables, "update", slow)
    record.refresh()
    thread.join()
    assert [row["epoch"] for row in table(record.folder / "epochs.csv")] == ["1", "2"]


def test_a_disk_that_fails_ends_the_search_and_leaves_what_was_on_disk(record, disk):
    stopping = Stopping()
    trials = Lifecycle(record, make_scheduler(NO_EARLY_STOPPING, 5, 0), stopping, 5)
    watched, listened = told(record)
    disk.go.set()
    with record.synced_in_background():
        trials.add(ask(record))
        trials.start("a", 0)
        record.wait()
        known = (record.folder / "optuna.journal").read_bytes()
        disk.error = OSError(5, "Input/output error")
        trials.report("a", report(1, 120.0))
        with trials.recording():
            record.wait()
        assert stopping.error.startswith(f"The record in {record.folder} cannot be written: Input/output error. The r")
        assert stopping.stop_all()
        assert (record.folder / "optuna.journal").read_bytes() == known
        with trials.recording():
            trials.report("a", report(2, 119.0))
    assert (record.folder / "optuna.journal").read_bytes() == known
    assert table(record.folder / "epochs.csv") == []
    assert listened == watched[:1]
    record.close()
    again = StudyRecord.resume(record.folder, METADATA)
    assert [(row.trial, row.epochs, row.state) for row in again.rows] == [(0, 0, RUNNING)]
    again.close()


def test_a_search_writes_the_same_journal_whether_it_waits_or_not(tmp_path):
    def written(name, context):
        record = StudyRecord.create(tmp_path / name, METADATA)
        searcher = StudySearcher(record, DEFAULT_SPACE, TrialConfig(max_epochs=3), "tpe", Stopping(), num_samples=14)
        with context(record):
            while isinstance(config := searcher.suggest("a"), dict):
                for epoch in (1, 2, 3):
                    searcher.trials.report("a", report(epoch, config["values"]["latent_size"] + 1 / epoch))
        record.close()
        return [without_times(json.loads(line)) for line in (record.folder / "optuna.journal").open()]

    assert written("a", lambda _: nullcontext()) == written("b", StudyRecord.synced_in_background)


def without_times(log):
    for moment in ("datetime_start", "datetime_complete", "worker_id"):
        log.pop(moment, None)
    for value in log.get("user_attr", {}).values():
        if isinstance(value, dict):
            value.pop("time")
    return log
