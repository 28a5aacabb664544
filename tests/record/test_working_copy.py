"""A working copy of a study on object storage: when it stays, and when it is renewed."""

from __future__ import annotations

import pytest

from tests.remote_studies import names, record, write
from tests.stores import BUCKET
from tests.studies import make_study
from vae_tune.cli.main import main
from vae_tune.config import storage
from vae_tune.config.errors import UsageError
from vae_tune.config.local_copies import local_copy, record_files, working_copy
from vae_tune.config.settings import SearchConfig
from vae_tune.record.claim import claimed
from vae_tune.record.remote_sync import update_working_copy, uploading
from vae_tune.tasks.search import run_search
from vae_tune.tasks.search_plan import make_plan


def test_a_working_copy_that_went_on_from_the_storage_stays(server, place):
    record(place, epochs=2)
    folder = update_working_copy(place)
    assert (folder / "optuna.journal").read_bytes().count(b"\n") == 2
    record(folder, epochs=3)
    assert update_working_copy(place) == folder
    assert (folder / "optuna.journal").read_bytes().count(b"\n") == 3


def test_a_working_copy_whose_journal_was_written_anew_since_the_last_upload_stays(server, place):
    record(place, epochs=2)
    folder = update_working_copy(place)
    before = (folder / "optuna.journal").read_bytes()
    write(folder, optuna_journal=b'{"anew": 0}\n')
    (folder / "optuna-1.journal").write_bytes(before)
    assert update_working_copy(place) == folder
    assert (folder / "optuna.journal").read_bytes() == b'{"anew": 0}\n'
    record(place, epochs=3)  # meanwhile another machine went on with the old one
    update_working_copy(place)
    assert (folder / "optuna.journal").read_bytes().count(b"\n") == 3
    assert not (folder / "optuna-1.journal").exists()


def test_a_working_copy_that_another_machine_left_behind_is_renewed(server, place):
    record(place, epochs=2)
    folder = update_working_copy(place)
    write(folder, optuna_journal=b'{"epoch": 0}\n{"another": "end"}\n')
    record(place, epochs=4)
    assert update_working_copy(place) == folder
    assert (folder / "optuna.journal").read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("epochs", [2, 3])
def test_what_the_storage_has_no_more_does_not_come_back(server, place, epochs):
    """Whether the working copy has lines that the storage lacks, or none."""
    folder = working_copy(place)
    record(folder, epochs=2)
    write(folder / "confirmation", optuna_journal=b"{}\n", study_json=b"{}")
    with claimed(place, pytest.fail) as mine, uploading(folder, place, mine, pytest.fail, pytest.fail):
        pass
    assert "confirmation/optuna.journal" in names(server, place)
    storage.delete_folder(place / "confirmation")
    record(folder, epochs)
    write(folder, kept_csv=b"never uploaded")
    with (
        claimed(place, pytest.fail) as mine,
        uploading(update_working_copy(place), place, mine, pytest.fail, pytest.fail),
    ):
        assert (folder / "optuna.journal").read_bytes().count(b"\n") == epochs
        assert not (folder / "confirmation" / "study.json").exists()
    kept = {"kept.csv"} if epochs > 2 else set()
    assert names(server, place) == {"optuna.journal", "epochs.csv", "study.json"} | kept


def test_a_confirmation_that_an_outage_kept_from_the_storage_stays(place):
    record(place)
    folder = update_working_copy(place)
    write(folder / "confirmation", optuna_journal=b"{}\n", study_json=b"{}")
    assert update_working_copy(place) == folder
    assert (folder / "confirmation" / "optuna.journal").exists()


def test_a_renewal_that_fails_leaves_the_working_copy_as_it_was(place):
    record(place, epochs=2)
    folder = update_working_copy(place)
    write(folder, optuna_journal=b"another end\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    storage.delete(place / "study.json")
    with pytest.raises(UsageError, match=r"study\.json is missing"):
        update_working_copy(place)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["study"]


def test_a_study_that_was_deleted_from_the_storage_leaves_its_name_free(place):
    record(place)
    folder = update_working_copy(place)
    storage.delete_folder(place)
    config = SearchConfig(results_dir=place.parent, study_name=place.name)
    assert make_plan(config, None, place).folder == folder
    assert not folder.exists()
    with pytest.raises(UsageError, match="is no study"):
        update_working_copy(place)


def test_a_working_copy_is_not_resumed_as_if_it_were_a_study(place, tmp_path, monkeypatch, capsys):
    made = make_study(tmp_path / "study", trials=3, status="interrupted", ended=2)
    for path in record_files(made):
        storage.write_bytes(place / path.relative_to(made), path.read_bytes())
    for copy in (update_working_copy(place), local_copy(place)):
        before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
        monkeypatch.setattr("sys.argv", ["vae-tune", "search", "--resume", str(copy)])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert f"--resume s3://{BUCKET}/" in capsys.readouterr().err
        with pytest.raises(UsageError, match=rf"is a working copy .*\n.* --resume s3://{BUCKET}/"):
            run_search(SearchConfig(resume=copy))
        assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
