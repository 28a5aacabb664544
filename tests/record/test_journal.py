"""The journal's file: what is in it counts only once it is on disk, and what network file systems leave in it."""

import os
import sys
from dataclasses import replace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.studies import make_study
from vae_tune.analysis.audit import audit
from vae_tune.config.errors import UsageError
from vae_tune.config.files import atomic, write_json
from vae_tune.record.journal import Journal, UtcStorage
from vae_tune.record.metadata import read_metadata, read_search_config
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import read_study, read_trials, trials_in
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.tasks.search_plan import make_plan

LOG = {"op_code": 0, "worker_id": "w", "study_name": "s", "directions": [1]}


@pytest.fixture
def synced(monkeypatch):
    """Sizes of the files that were written to disk, one for each time."""
    sizes = []
    fsync = os.fsync

    def spied(descriptor):
        fsync(descriptor)
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", spied)
    return sizes


def test_logs_are_on_disk_before_the_search_goes_on(tmp_path, synced):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.open()
    journal.append_logs([LOG])
    assert synced == [path.stat().st_size]
    with journal.transaction():
        journal.append_logs([LOG])
        journal.append_logs([LOG])
        assert len(synced) == 1
    assert synced[1:] == [path.stat().st_size]
    journal.close()


@pytest.fixture
def folder(tmp_path):
    return make_study(tmp_path / "study", trials=4, ended=3, status="interrupted")


def put(folder, number, text):
    """Put ``text`` before line ``number`` of the journal, from 0; -1 is its end."""
    path = folder / "optuna.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(number if number >= 0 else len(lines), text)
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("text", [b"\n", b"  \n", b"\r\n", b"\n\n\n"])
@pytest.mark.parametrize("place", [0, 3, -1])
def test_blank_lines_are_skipped(folder, place, text):
    before = [vars(trial) for trial in read_trials(folder)]
    put(folder, place, text)
    assert [vars(trial) for trial in read_trials(folder)] == before
    assert audit(folder) == []
    record = StudyRecord.resume(folder, read_metadata(folder))
    assert [row.trial for row in record.rows] == [0, 1, 2, 3]
    record.finish(next(row.trial for row in record.rows if row.state == "RUNNING"), "PRUNED")
    record.close()
    assert [trial.state.name for trial in read_trials(folder)][-1] == "PRUNED"


@pytest.mark.parametrize("text", [b"\n", b"\n\n", b'\n{"op_code": 4, "wor'])
def test_after_a_resume_optuna_reads_a_journal_that_ended_with_blank_lines(folder, text):
    put(folder, -1, text)
    StudyRecord.resume(folder, read_metadata(folder)).close()
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    assert len(optuna.load_study(study_name="study", storage=storage).trials) == 4


@pytest.mark.parametrize("text", [b"{}x\n", b"[1]\n", b"\0\0\n"])
def test_a_line_that_is_no_log_is_damage_and_stays(folder, text):
    put(folder, 3, text)
    before = (folder / "optuna.journal").read_bytes()
    with pytest.raises(UsageError, match="journal cannot be read"):
        read_trials(folder)
    with pytest.raises((ValueError, TypeError)):
        Journal(folder / "optuna.journal").open()
    assert (folder / "optuna.journal").read_bytes() == before


def test_what_is_written_after_a_blank_line_is_read_by_those_who_read_along(folder):
    path = folder / "optuna.journal"
    along = Journal(path)
    count = len(list(along.read_logs(0)))
    put(folder, -1, b"\n")
    assert list(along.read_logs(count)) == []
    journal = Journal(path)
    journal.open()
    journal.append_logs([LOG])
    journal.close()
    assert list(along.read_logs(count)) == [LOG]
    assert list(along.read_logs(count + 1)) == []


def test_a_journal_that_was_replaced_is_not_read_on(folder):
    """Its lines are others: reading on would begin in the middle of one, or find nothing for long."""
    path = folder / "optuna.journal"
    along = Journal(path)
    count = len(list(along.read_logs(0)))
    with atomic(path) as file:
        file.write(path.read_bytes())
    for _ in range(2):
        with pytest.raises(OSError, match=r"optuna\.journal was written anew by a resume"):
            along.read_logs(count)
    assert len(list(Journal(path).read_logs(0))) == count


OPENED = []
"""Paths that this process has opened, while a test counts them."""
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


def test_a_resume_reads_the_journal_once(tmp_path, tiny):
    folder = make_study(tmp_path / "study", trials=4, ended=2, max_epochs=2, status="interrupted")
    config = replace(read_search_config(folder), resume=folder)
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    before = len(optuna.load_study(study_name="study", storage=storage).trials)
    OPENED.clear()
    plan = make_plan(config, None, folder)
    record = StudyRecord.resume(plan.folder, dict(plan.metadata), plan.place, plan.metadata, plan.storage)
    StudySearcher(record, plan.space, plan.base, config.sampler, Stopping(), num_samples=config.num_samples)
    record.close()
    opened = [path for path in OPENED if path.endswith("optuna.journal")]
    assert len(opened) == 4  # once to read it, once to write it, and twice its first lines, with study.json
    assert len(record.rows) == before


def test_logs_that_another_driver_added_after_the_plan_are_read_too(tmp_path):
    """It may have been killed since, and have left ``study.json`` as it was."""
    folder = make_study(tmp_path / "study", trials=3, ended=2, max_epochs=2, status="interrupted")
    storage = read_study(folder)
    known = read_metadata(folder)
    other = StudyRecord.resume(folder, known)
    other.start(trial := other.study.ask(), trial.params)
    other.close()
    write_json(folder / "study.json", known)
    with (folder / "optuna.journal").open("ab") as file:
        file.write(b'{"op_code": 4, "torn')
    record = StudyRecord.resume(folder, known, known=known, storage=storage)
    record.close()
    assert [row.trial for row in record.rows] == [row.trial for row in other.rows]
    assert read_trials(folder)[-1].number == trial.number


def test_of_the_trials_only_those_that_changed_are_read_again_and_all_are_as_optuna_has_them(tmp_path, monkeypatch):
    record = StudyRecord.resume(
        folder := make_study(tmp_path / "study", trials=8, ended=6, status="running"), read_metadata(folder)
    )
    along = UtcStorage(Journal(folder / "optuna.journal"))
    read = []
    get_trial = JournalStorage.get_trial
    monkeypatch.setattr(
        JournalStorage, "get_trial", lambda self, number: read.append(number) or get_trial(self, number)
    )

    def same():
        """Compare with a storage that reads everything; return which trials the other one read."""
        read.clear()
        found, numbers = trials_in(along), sorted(read)
        assert list(map(vars, found)) == list(map(vars, read_trials(folder)))
        return numbers

    assert same() == list(range(8))
    assert same() == []
    number = next(row.trial for row in record.rows if row.state == "RUNNING")
    record.note(number, "hot")
    assert same() == [number]
    record.finish(number, "PRUNED")
    record.start(trial := record.study.ask(), trial.params)
    assert same() == [number, 8]
    assert [trial.number for trial in along.get_all_trials(0, states=(TrialState.RUNNING,))][-1] == 8
    record.close()
