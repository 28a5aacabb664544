"""A search in a Slurm job is named after it, and goes on with its study when the job starts again."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.studies import make_study
from vae_tune.cluster.slurm import SlurmJob
from vae_tune.config.errors import PausedAtStart, SearchError, SearchPaused
from vae_tune.config.settings import DataConfig, ResourceConfig, SearchConfig
from vae_tune.record.metadata import read_search_config
from vae_tune.tasks import slurm_job
from vae_tune.tasks.slurm_job import config_in_job, run_in_job


@pytest.fixture(autouse=True)
def unknown_to_slurm(monkeypatch):
    """The jobs here are made up."""
    monkeypatch.setattr(slurm_job, "note_given", lambda asked: None)


def job(goes_on=False):
    return SlurmJob("17", "n1", {"n1": 1}, goes_on, "15_3")


def test_a_new_study_has_the_name_of_the_data_and_of_the_job(tmp_path):
    config = config_in_job(SearchConfig(results_dir=tmp_path, data=DataConfig(dataset="photos/cats")), job())
    assert (config.study_name, config.resume) == ("cats-15_3", None)
    assert config_in_job(SearchConfig(study_name="mine"), job()).study_name == "mine"


def test_a_job_that_starts_again_resumes_its_study(tmp_path):
    make_study(tmp_path / "mnist-15_3", trials=4)
    config = SearchConfig(results_dir=tmp_path)
    assert config_in_job(config, job(goes_on=True)).resume == tmp_path / "mnist-15_3"
    assert config_in_job(config, job()).resume is None  # so the search refuses a study of that name
    assert config_in_job(SearchConfig(results_dir=tmp_path / "empty"), job(goes_on=True)).resume is None


def test_a_study_that_the_user_names_is_resumed_each_time():
    for goes_on in (False, True):
        config = config_in_job(SearchConfig(resume=Path("results/a")), job(goes_on))
        assert (config.resume, config.study_name) == (Path("results/a"), None)


def test_a_pause_puts_the_job_back_in_the_queue(monkeypatch, capsys):
    ran = []

    def run_search(config):
        ran.append(config)
        raise SearchPaused

    monkeypatch.setattr(slurm_job, "this_job", job)
    monkeypatch.setattr(slurm_job, "run_search", run_search)
    monkeypatch.setattr(slurm_job, "requeue", lambda asked, words: f"requeued {asked.job} with {words}")
    monkeypatch.setattr("sys.argv", ["vae-tune", "search", "--address", "slurm", "--num-samples", "5"])
    assert run_in_job(SearchConfig(resources=ResourceConfig(address="slurm"))) == 0
    assert ran[0].study_name == "mnist-15_3"
    assert capsys.readouterr().out == "requeued 17 with ['--num-samples', '5']\n"


def paused(config):
    raise SearchPaused


def test_a_pause_says_how_to_go_on_without_the_job_also_if_it_is_not_requeued(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path / "mnist-15_3", trials=4)
    monkeypatch.setattr(slurm_job, "this_job", job)
    monkeypatch.setattr(slurm_job, "run_search", paused)
    monkeypatch.setattr(slurm_job, "requeue", lambda asked, words: "requeued")
    assert run_in_job(SearchConfig(results_dir=tmp_path)) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(rf"requeued\nIf you cancel it, resume with: \S.* --resume {study}\n", said)

    def refuse(asked, words):
        raise SearchError("refused")

    monkeypatch.setattr(slurm_job, "requeue", refuse)
    with pytest.raises(SearchError, match=rf"^refused\nTo resume: .* --resume {study}$"):
        run_in_job(SearchConfig(results_dir=tmp_path))


@pytest.mark.parametrize(("trials", "goes_on"), [(4, False), (5, True)])
def test_a_job_whose_study_another_one_completed_is_not_requeued(trials, goes_on, tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path / "mnist-15_3", trials=4)

    def run_search(config):
        raise PausedAtStart

    config = replace(read_search_config(study), resume=None, results_dir=tmp_path, study_name=None, num_samples=trials)
    monkeypatch.setattr(slurm_job, "this_job", lambda: job(goes_on=True))
    monkeypatch.setattr(slurm_job, "run_search", run_search)
    monkeypatch.setattr(slurm_job, "requeue", lambda asked, words: "requeued")
    assert run_in_job(config) == 0
    said = capsys.readouterr().out
    assert said.startswith("requeued\n" if goes_on else f"The study {study} is complete, so job 17 is not requeued.\n")


def test_a_job_that_starts_again_waits_for_the_lock_of_a_lost_node(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path / "mnist-15_3", trials=4)
    (study / "study.lock").write_text('{"pid": 7, "host": "n2", "slurm_job": "18"}')
    written = iter([True, True, False])
    monkeypatch.setattr(slurm_job, "this_job", lambda: job(goes_on=True))
    monkeypatch.setattr(slurm_job, "is_being_written", lambda study: next(written))
    monkeypatch.setattr(slurm_job, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(slurm_job, "run_search", lambda config: SimpleNamespace(best=object()))
    assert run_in_job(SearchConfig(results_dir=tmp_path)) == 0
    assert next(written, "all asked") == "all asked"
    who = "Slurm job 18, process 7 on host n2"
    expected = f"The study {study} is locked by {who}; waiting up to 5 minutes for its end ...\n"
    assert capsys.readouterr().out == expected


def test_a_pause_before_the_search_began_ends_a_first_start_and_requeues_a_later_one(monkeypatch):
    """A job that is too short would be requeued for ever; one that trained before had a slow start."""
    config, requeued = SearchConfig(), []

    def run_search(config):
        raise PausedAtStart

    monkeypatch.setattr(slurm_job, "run_search", run_search)
    monkeypatch.setattr(slurm_job, "requeue", lambda asked, words: requeued.append(asked))
    monkeypatch.setattr(slurm_job, "this_job", job)
    with pytest.raises(SearchError, match=r"told to pause before its search began.*\nSubmit it again"):
        run_in_job(config)
    assert requeued == []
    monkeypatch.setattr(slurm_job, "this_job", lambda: job(goes_on=True))
    assert run_in_job(config) == 0
    assert requeued == [job(goes_on=True)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_cancel_does_not(monkeypatch, error):
    def run_search(config):
        raise error

    monkeypatch.setattr(slurm_job, "this_job", job)
    monkeypatch.setattr(slurm_job, "run_search", run_search)
    monkeypatch.setattr(slurm_job, "requeue", lambda asked, words: pytest.fail("requeued"))
    with pytest.raises(error):
        run_in_job(SearchConfig())
