import csv
import fcntl
import itertools
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import optuna
import pytest

from tests.studies import make_study
from vae_tune.config.errors import UsageError
from vae_tune.config.names import COMPLETE, EPOCH, FAIL, PRUNED, RUNNING, VAL_LOSS
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.lock import StudyLock
from vae_tune.record.metadata import read_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow, marks_of_schema_1, now, read_trials, winner

METADATA = {
    "name": "study",
    "config": {"asha": {"grace_period": 2}},
    "reference": {"latent_size": 20},
    "metric": {"name": "val_loss", "unit": "nats per image", "kind": "grey", "direction": "minimize"},
    "space": dict.fromkeys(DEFAULT_SPACE.distributions, ""),
    "fixed": {},
}


def report(epoch, loss):
    return {
        EPOCH: epoch,
        "train_loss": loss + 1,
        VAL_LOSS: loss,
        "val_reconstruction": loss - 20,
        "val_kl": 20.0,
        "active_units": 7,
        "seconds": 2.5,
        "images_per_second": 1000.0,
        "node": "host",
        "device": "cpu",
    }


def ask(record):
    trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
    record.start(trial, trial.params)
    return trial.number


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def record(tmp_path):
    record = StudyRecord.create(tmp_path / "study", METADATA)
    yield record
    record.close()


def test_listeners_are_told_of_a_change_once_it_is_in_the_journal(record):
    written = []
    record.listeners.append(lambda row: written.append((row.trial, len(read_trials(record.folder)))))
    with record.transaction():
        ask(record), ask(record)
        assert written == []
    assert written == [(0, 2), (1, 2)]


def test_the_tables_never_show_what_the_journal_lacks(record):
    """A driver killed in between would leave a table that the journal contradicts, and no resume."""
    number = ask(record)
    tables = [record.folder / name for name in ("epochs.csv", "trials.csv")]
    before = [path.read_text() for path in tables]
    with record.transaction():
        record.report(number, report(1, 120.0))
        record.finish(number, PRUNED)
        assert [path.read_text() for path in tables] == before
    record.close()
    epochs, trials = map(table, tables)
    assert ([row["epoch"] for row in epochs], [row["state"] for row in trials]) == (["1"], [PRUNED])


def test_a_burst_of_changes_is_in_trials_csv_soon_after(record, monkeypatch):
    seconds = itertools.count()  # writing the table takes a second
    monkeypatch.setattr("vae_tune.record.tables.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    record.set_status("running")
    for _ in range(3):
        ask(record)
    assert len(table(record.folder / "trials.csv")) < 3
    for _ in range(30):
        record.refresh()
    assert len(table(record.folder / "trials.csv")) == 3


def reopen(record):
    record.close()
    return StudyRecord.resume(record.folder, METADATA)


def three_trials(record):
    for losses, state, reason in (
        ([120.0, 110.0], COMPLETE, ""),
        ([150.0], PRUNED, ""),
        ([130.0], FAIL, "ValueError: no, really"),
    ):
        number = ask(record)
        for epoch, loss in enumerate(losses, start=1):
            record.report(number, report(epoch, loss))
        record.finish(number, state, reason)
    record.report(ask(record), report(1, 140.0))


def test_optuna_is_told_the_truth(record):
    three_trials(record)
    complete, pruned, failed, running = record.study.trials
    assert (complete.state.name, complete.value, complete.intermediate_values) == ("COMPLETE", 110.0, {1: 120, 2: 110})
    assert (pruned.state.name, pruned.intermediate_values) == ("PRUNED", {1: 150.0})
    assert (failed.state.name, failed.user_attrs["reason"]) == ("FAIL", "ValueError: no, really")
    assert running.state.name == "RUNNING"


def test_the_tables_show_every_trial_and_report(record):
    three_trials(record)
    record.close()
    trials, epochs = table(record.folder / "trials.csv"), table(record.folder / "epochs.csv")
    assert [row["state"] for row in trials] == [COMPLETE, PRUNED, FAIL, RUNNING]
    assert trials[0]["val_loss"] == "110.0"
    assert trials[0]["seconds"] == "5.0"
    assert trials[2]["reason"] == "ValueError: no, really"
    assert float(trials[0]["learning_rate"]) == record.study.trials[0].params["learning_rate"]
    assert [bool(row["ended"]) for row in trials] == [True, True, True, False]
    assert [(row["trial"], row["epoch"]) for row in epochs] == [
        ("0", "1"),
        ("0", "2"),
        ("1", "1"),
        ("2", "1"),
        ("3", "1"),
    ]


@pytest.mark.parametrize(("epochs", "reason"), [(1, ""), (2, "collapsed: 2 of 30 latents active")])
def test_a_trial_that_collapsed_is_named_when_it_ends(record, epochs, reason):
    trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
    record.start(trial, {**trial.params, "latent_size": 30})
    for epoch in range(1, epochs + 1):
        record.report(trial.number, {**report(epoch, 150.0), "active_units": 2})
    record.finish(trial.number, PRUNED)
    again = reopen(record)
    assert (again.rows[0].reason, table(record.folder / "trials.csv")[0]["reason"]) == (reason, reason)
    again.close()


AUDITED = "audited: the rung at epoch 1 would have stopped it"


@pytest.mark.parametrize(
    ("note", "active", "state", "reason", "expected"),
    [
        ("", 7, COMPLETE, "", AUDITED),
        ("epoch_2 is damaged", 7, COMPLETE, "", f"{AUDITED}; epoch_2 is damaged"),
        ("", 1, COMPLETE, "", f"{AUDITED}; collapsed: 1 of 30 latents active"),
        ("", 7, FAIL, "diverged: in epoch 3", f"{AUDITED}; diverged: in epoch 3"),
    ],
)
def test_what_is_noted_of_a_trial_keeps_what_was_noted_before(record, note, active, state, reason, expected):
    trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
    record.start(trial, {**trial.params, "latent_size": 30})
    record.report(trial.number, report(1, 150.0))
    for _ in range(2):  # the second time by a resume
        record.audit(trial.number, 1)
    record.report(trial.number, {**report(2, 150.0), "active_units": active, "reason": note})
    record.finish(trial.number, state, reason, diverged=state == FAIL)
    again = reopen(record)
    assert again.rows[0].reason == expected
    marks = {"audited": 1, "collapsed": active == 1, "diverged": state == FAIL}
    assert again.rows[0].cells().items() >= marks.items()
    assert table(record.folder / "trials.csv")[0].items() >= {name: str(mark) for name, mark in marks.items()}.items()
    again.close()
    assert marks_of_schema_1(expected) == marks


def test_an_error_that_reads_like_a_mark_is_none(record):
    trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
    record.start(trial, trial.params)
    record.finish(trial.number, FAIL, f"ValueError: a; {AUDITED}; collapsed: x; diverged: y")
    again = reopen(record)
    row = again.rows[0]
    assert (row.audited, row.collapsed, row.diverged) == (None, False, False)
    again.close()


def test_a_report_that_comes_twice_is_recorded_once(record):
    number = ask(record)
    record.report(number, report(1, 120.0))
    record.report(number, report(1, 120.0))
    assert len(table(record.folder / "epochs.csv")) == 1
    assert record.rows[0].epochs == 1


def test_a_resumed_record_is_the_same_from_the_journal_alone(record):
    three_trials(record)
    rows = record.rows
    before = {name: (record.folder / name).read_text() for name in ("trials.csv", "epochs.csv")}
    for name in before:
        (record.folder / name).unlink()
    again = reopen(record)
    assert [row.cells() for row in again.rows] == [row.cells() for row in rows]
    assert [row.reports for row in again.rows] == [row.reports for row in rows]
    assert (record.folder / "epochs.csv").read_text() == before["epochs.csv"]
    assert [row.trial for row in again.rows if row.state == RUNNING] == [3]
    again.close()


def test_each_run_says_when_it_ended(tmp_path):
    runs = [{"started": "2026-01-01T08:00:00.000+00:00"}, {"started": "2026-01-02T08:00:00.000+00:00"}]
    record = StudyRecord.create(tmp_path / "study", {**METADATA, "runs": runs[:1]})
    record.set_status("interrupted", "2026-01-01T09:00:00.000+00:00")
    record.close()
    record = StudyRecord.resume(tmp_path / "study", {**record.metadata, "runs": [*record.metadata["runs"], runs[1]]})
    record.close()  # as after a kill
    metadata = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [run.get("ended") for run in metadata["runs"]] == ["2026-01-01T09:00:00.000+00:00", None]
    assert metadata["status"] == "running"


def test_an_unfinished_trial_goes_on_after_a_resume(record):
    three_trials(record)
    again = reopen(record)
    again.report(3, report(2, 125.0))
    again.finish(3, COMPLETE)
    assert again.study.trials[3].intermediate_values == {1: 140.0, 2: 125.0}
    assert again.study.trials[3].state.name == COMPLETE
    again.close()


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_of_the_journal_costs_only_that_line(record, cut):
    three_trials(record)
    record.close()
    journal = record.folder / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines)[:-cut])
    again = StudyRecord.resume(record.folder, METADATA)
    assert [row.epochs for row in again.rows] == [2, 1, 1, 1]  # the report is there; its intermediate value is mended
    assert again.study.trials[3].intermediate_values == {1: 140.0}
    again.close()


@pytest.mark.parametrize("left", [0.5, 0.9])
def test_a_journal_that_lost_more_than_its_last_line_is_refused_and_nothing_is_changed(record, left):
    three_trials(record)
    record.close()
    journal = record.folder / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: int(left * len(lines))]))
    before = {path: path.read_bytes() for path in record.folder.iterdir()}
    with pytest.raises(UsageError, match=r"optuna\.journal is damaged: epoch \d of trial \d is only in epochs\.csv"):
        StudyRecord.resume(record.folder, METADATA)
    assert {path: path.read_bytes() for path in record.folder.iterdir()} == before


@pytest.mark.parametrize("line", [b"7\n", b"[]\n", b"no json\n"])
def test_a_journal_with_a_line_of_something_else_is_refused_and_nothing_is_changed(record, line):
    three_trials(record)
    record.close()
    (record.folder / "study.lock").unlink()
    journal = record.folder / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], line, *lines[4:]]))
    before = {path: path.read_bytes() for path in record.folder.iterdir()}
    with pytest.raises(UsageError, match="journal"):
        StudyRecord.resume(record.folder, METADATA)
    assert {path: path.read_bytes() for path in record.folder.iterdir()} == before


def test_a_table_that_cannot_be_read_is_said_in_a_line_and_the_study_stays_free(record):
    record.close()
    table = record.folder / "epochs.csv"
    content = table.read_bytes()
    table.unlink()
    table.mkdir()  # reading it is an OSError, for root too
    with pytest.raises(UsageError, match="cannot be read or written: Is a directory"):
        StudyRecord.resume(record.folder, METADATA)
    table.rmdir()
    table.write_bytes(content)
    StudyRecord.resume(record.folder, METADATA).close()


def test_a_torn_last_line_of_epochs_is_made_again(record):
    three_trials(record)
    record.close()
    path = record.folder / "epochs.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-15])
    StudyRecord.resume(record.folder, METADATA).close()
    assert path.read_bytes() == whole


def test_a_second_driver_is_refused_with_the_pid_and_host_of_the_first(record):
    with pytest.raises(UsageError, match=f"process {os.getpid()} on host"):
        StudyRecord.resume(record.folder, METADATA)


def test_a_second_driver_is_told_which_job_of_slurm_it_can_cancel(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    first = StudyLock(tmp_path)
    expected = rf"by Slurm job 17, process {os.getpid()} on host .*\.\nWait until it ends, or end it \(scancel 17\)"
    with pytest.raises(UsageError, match=expected):
        StudyLock(tmp_path)
    first.release()


def test_a_study_that_another_driver_went_on_with_since_it_was_read_is_refused_and_stays_free(tmp_path):
    folder = make_study(tmp_path / "study", trials=2, max_epochs=1)
    read = read_metadata(folder)
    other = StudyRecord.resume(folder, read | {"runs": [*read["runs"], read["runs"][0]]}, known=read)
    other.set_status("complete", ended=now())
    other.close()
    held = (folder / "study.json").read_bytes()
    with pytest.raises(UsageError, match=r"Another driver wrote .*study meanwhile"):
        StudyRecord.resume(folder, read, known=read)
    assert (folder / "study.json").read_bytes() == held
    StudyRecord.resume(folder, read_metadata(folder), known=read_metadata(folder)).close()


def test_a_look_whether_a_study_is_being_written_keeps_no_driver_away(record):
    record.close()
    with (record.folder / "study.lock").open() as looks:
        fcntl.flock(looks, fcntl.LOCK_SH)
        threading.Timer(0.1, looks.close).start()
        StudyRecord.resume(record.folder, METADATA).close()


def test_a_lock_whose_process_was_killed_is_free(record):
    record.close()
    code = (
        "import sys, os, signal; from pathlib import Path; from vae_tune.record.lock import StudyLock;"
        "lock = StudyLock(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(record.folder)], check=False).returncode == -9
    assert (record.folder / "study.lock").read_text()  # it still names the dead process
    StudyRecord.resume(record.folder, METADATA).close()


def test_an_existing_folder_is_not_overwritten(record):
    with pytest.raises(UsageError, match="is being written"):
        StudyRecord.create(record.folder, METADATA)
    record.close()
    with pytest.raises(FileExistsError):
        StudyRecord.create(record.folder, METADATA)


@pytest.mark.parametrize("torn", ["", '{"op_code": 0, "wor'])
def test_a_creation_that_was_killed_gives_way_to_the_next(tmp_path, torn):
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "optuna.journal").write_text(torn)
    (folder / ".study.json.abc.tmp").write_text("{")
    record = StudyRecord.create(folder, METADATA)
    assert ask(record) == 0
    record.close()
    assert not list(folder.glob(".*"))


def test_optunas_own_tools_open_the_journal(record):
    three_trials(record)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(record.folder / "optuna.journal"))
    )
    assert len(optuna.load_study(study_name="study", storage=storage).trials) == 4


def row(trial, state, *losses):
    return TrialRow(trial, {}, "", state, reports=tuple(report(epoch, loss) for epoch, loss in enumerate(losses, 1)))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([row(0, FAIL, 1.0)], None),
        ([row(0, RUNNING)], None),
        ([row(0, COMPLETE, 9, 8), row(1, COMPLETE, 9, 7), row(2, PRUNED, 1)], 1),
        ([row(0, PRUNED, 9, 8), row(1, PRUNED, 3)], 0),  # none complete: the deepest epoch counts
        ([row(0, RUNNING, 9, 8), row(1, PRUNED, 9, 7)], 1),
        ([row(0, COMPLETE, 9, 8), row(1, FAIL, 9, 7)], 0),
        ([row(1, COMPLETE, 9, 8), row(0, COMPLETE, 9, 8)], 0),  # a tie goes to the earlier trial
    ],
)
def test_one_rule_picks_the_winner(rows, expected):
    best = winner(rows, max_epochs=2)
    assert (best.trial if best else None) == expected
