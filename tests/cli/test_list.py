"""What `vae-tune list` prints, of studies in any condition."""

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from tests.stores import BUCKET, s3
from tests.studies import make_study
from vae_tune.analysis.study import load_study
from vae_tune.cli.list import ListOptions
from vae_tune.cli.list import run as print_studies
from vae_tune.config import storage
from vae_tune.config.errors import UsageError
from vae_tune.config.names import EXPLORATION
from vae_tune.record.claim import claimed
from vae_tune.record.metadata import SCHEMA


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of studies, whole and damaged, and of what is none."""
    folder = tmp_path_factory.mktemp("results")
    make_study(folder / "whole", trials=6)
    make_study(folder / "killed", trials=8, ended=3, status="running")
    make_study(folder / "sizes [red]", trials=2, status="interrupted", kind=EXPLORATION)
    make_study(folder / "empty", trials=0)
    shutil.copytree(folder / "whole", folder / "torn")
    (folder / "torn" / "study.json").write_text("{")
    shutil.copytree(folder / "whole", folder / "no table")
    (folder / "no table" / "trials.csv").write_bytes(b"\x00")
    shutil.copytree(folder / "whole", folder / "newer")
    metadata = json.loads((folder / "whole" / "study.json").read_text())
    (folder / "newer" / "study.json").write_text(json.dumps(metadata | {"schema": SCHEMA + 1}))
    (folder / "pictures").mkdir()
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.fixture
def listed(capsys):
    """Return a function that lists a folder and returns the lines."""

    def run(folder):
        print_studies(ListOptions(folder=folder))
        return capsys.readouterr().out.splitlines()

    return run


def test_each_study_has_a_line_and_a_damaged_one_ends_nothing(results, listed):
    head, *lines = listed(results)
    found = {line[: head.index("kind")].strip(): line for line in lines}
    assert head.split() == ["study", "kind", "status", "trials", "best", "started", "(UTC)"]
    assert set(found) == {"whole", "killed", "sizes [red]", "empty", "torn", "no table", "newer"}
    best = load_study(results / "whole").best.val_loss
    assert found["whole"].split()[1:4] == ["search", "complete", "6/6"]
    assert found["whole"].endswith(f"{best:.2f} nats per image, grey  2026-01-05 08:00")
    assert found["killed"].split()[1:4] == ["search", "killed", "3/8"]
    assert found["sizes [red]"].split()[2:5] == ["exploration", "interrupted", "2/2"]
    assert "cannot be read: " in found["torn"]
    assert "cannot be read: " in found["no table"]
    assert "was written by a newer vae_tune" in found["newer"]
    assert "damaged" not in found["newer"]


def test_one_that_is_written_now_runs(results, listed):
    with (results / "killed" / "study.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [line.split()[2] for line in listed(results) if line.startswith("killed")] == ["running"]


def test_studies_on_object_storage_are_listed_without_a_copy(results, listed, monkeypatch):
    with s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        place = Path(f"s3://{BUCKET}/vae")
        for name in ("whole", "killed", "torn"):
            for file in ("study.json", "trials.csv"):
                storage.write_bytes(place / name / file, (results / name / file).read_bytes())
        lines = {line.split()[0]: line for line in listed(place)}
        with claimed(place / "killed", pytest.fail):
            assert [line.split()[2] for line in listed(place) if line.startswith("killed")] == ["running"]
    (here,) = (line for line in listed(results) if line.startswith("whole"))
    assert lines["whole"].split() == here.split()
    assert lines["killed"].split()[2] == "killed"
    assert "cannot be read: " in lines["torn"]


def test_a_folder_without_studies_says_so(tmp_path, listed):
    assert listed(tmp_path) == [f"There is no study in {tmp_path}."]


@pytest.mark.parametrize(("name", "message"), [("nowhere", "There is no folder"), ("whole", "is itself a study")])
def test_what_is_no_folder_of_studies_is_refused(results, name, message):
    with pytest.raises(UsageError, match=message):
        print_studies(ListOptions(folder=results / name))
