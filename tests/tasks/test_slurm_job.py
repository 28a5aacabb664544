"""A search in a Slurm job is named after it, and goes on with its study when the job starts again."""

from pathlib import Path

import pytest

from tests.studies import make_study
from vae_tune.cluster.slurm import SlurmJob
from vae_tune.config.errors import SearchPaused
from vae_tune.config.settings import DataConfig, ResourceConfig, SearchConfig
from vae_tune.tasks import slurm_job
from vae_tune.tasks.slurm_job import config_in_job, run_in_job


def job(restarts=0):
    return SlurmJob("17", "n1", {"n1": 1}, restarts, "15_3")


def test_a_new_study_has_the_name_of_the_data_and_of_the_job(tmp_path):
    config = config_in_job(SearchConfig(results_dir=tmp_path, data=DataConfig(dataset="photos/cats")), job())
    assert (config.study_name, config.resume) == ("cats-15_3", None)
    assert config_in_job(SearchConfig(study_name="mine"), job()).study_name == "mine"


def test_a_job_that_starts_again_resumes_its_study(tmp_path):
    make_study(tmp_path / "mnist-15_3", trials=4)
    config = SearchConfig(results_dir=tmp_path)
    assert config_in_job(config, job(restarts=1)).resume == tmp_path / "mnist-15_3"
    assert config_in_job(config, job()).resume is None  # so the search refuses a study of that name
    assert config_in_job(SearchConfig(results_dir=tmp_path / "empty"), job(restarts=1)).resume is None


def test_a_study_that_the_user_names_is_resumed_each_time():
    for restarts in (0, 1):
        config = config_in_job(SearchConfig(resume=Path("results/a")), job(restarts))
        assert (config.resume, config.study_name) == (Path("results/a"), None)


def test_a_pause_puts_the_job_back_in_the_queue(monkeypatch, capsys):
    ran = []

    def run_search(config):
        ran.append(config)
        raise SearchPaused

    monkeypatch.setattr(slurm_job, "this_job", job)
    monkeypatch.setattr(slurm_job, "run_search", run_search)
    monkeypatch.setattr(slurm_job, "requeue", lambda asked: f"requeued {asked.job}")
    assert run_in_job(SearchConfig(resources=ResourceConfig(address="slurm"))) == 0
    assert ran[0].study_name == "mnist-15_3"
    assert capsys.readouterr().out == "requeued 17\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_cancel_does_not(monkeypatch, error):
    def run_search(config):
        raise error

    monkeypatch.setattr(slurm_job, "this_job", job)
    monkeypatch.setattr(slurm_job, "run_search", run_search)
    monkeypatch.setattr(slurm_job, "requeue", lambda asked: pytest.fail("requeued"))
    with pytest.raises(error):
        run_in_job(SearchConfig())
