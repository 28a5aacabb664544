"""A file system without locks: no file system at hand refuses flock as NFS without lockd and Lustre by default do."""

import errno
import os

import pytest

from tests.studies import make_study
from vae_tune.analysis.study import load_study
from vae_tune.cli.check.slurm_probe import no_locks
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import SearchConfig
from vae_tune.record.lock import StudyLock
from vae_tune.record.metadata import read_search_config
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.study_folder import study_place


@pytest.fixture
def interrupted(tmp_path):
    return make_study(tmp_path / "s", trials=3, status="interrupted", ended=2)


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def number(request, monkeypatch):
    """The number of the error that every lock ends with."""

    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("vae_tune.record.lock.fcntl.flock", refuse)
    return request.param


def test_it_is_named_with_a_remedy(number, tmp_path):
    with pytest.raises(UsageError) as raised:
        StudyLock(tmp_path)
    what, remedy = str(raised.value).splitlines()
    assert what.startswith(f"{tmp_path} is on a file system without file locks (flock: {os.strerror(number)})")
    assert "--results-dir" in remedy
    assert "-o local_lock=flock" in remedy


@pytest.mark.usefixtures("number")
def test_the_check_of_a_node_names_it(tmp_path):
    assert no_locks(tmp_path).startswith(f"{tmp_path} is on a file system without file locks (flock: ")


@pytest.mark.usefixtures("number")
def test_a_new_search_there_is_refused_before_anything_is_made(tmp_path):
    config = SearchConfig(results_dir=tmp_path / "results", study_name="s")
    with pytest.raises(UsageError, match="without file locks"):
        make_plan(config, None, study_place(config))
    assert list(tmp_path.iterdir()) == []


def test_a_resume_there_is_refused_and_reading_goes_on(interrupted, number):
    before = {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")}
    with pytest.raises(UsageError, match="without file locks"):
        make_plan(read_search_config(interrupted), None, interrupted)
    assert len(load_study(interrupted).trials) > 1
    assert {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")} == before
