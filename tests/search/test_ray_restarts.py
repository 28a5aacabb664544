"""Trials outlive the Ray that runs them, as long as they get on."""

import pytest

from tests.record.test_study_record import report
from tests.studies import hand_made
from vae_tune.cluster.ray_processes import RayDied
from vae_tune.config.errors import SearchError
from vae_tune.config.files import read_json
from vae_tune.config.names import FAILED, INTERRUPTED
from vae_tune.record.metadata import read_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.search.ray_restarts import run_with_restarts
from vae_tune.search.stopping import Stopping


class Ray:
    """Counts how often it is started again."""

    def __init__(self, *, own=True):
        self.can_restart = own
        self.restarts = 0

    def check(self):
        pass

    def restart(self):
        self.restarts += 1


@pytest.fixture
def record(tmp_path):
    hand_made(tmp_path / "s", {"state": "RUNNING", "losses": []}, max_epochs=99)
    opened = StudyRecord.resume(tmp_path / "s", read_metadata(tmp_path / "s"))
    yield opened
    opened.close()


def outlive(record, ray, deaths, *, ending=None, epochs_at=()):
    """Let trials run with a Ray that dies ``deaths`` times, after an epoch in runs of number ``epochs_at``."""
    runs, said = [], []

    def run():
        runs.append(1)
        if len(runs) in epochs_at:
            record.report(0, report(record.rows[0].epochs + 1, 100.0))
        if len(runs) <= deaths:
            raise RayDied("Ray has died: it had to.")

    run_with_restarts(run, record, ending or Stopping(), ray, said.append)
    return said


def test_ray_is_started_again_and_each_time_that_is_said(record):
    ray = Ray()
    said = outlive(record, ray, 3)
    assert ray.restarts == 3
    again = "Ray has died: it had to. It is started again, and the search goes on"
    assert said == [f"{again} (attempt {number} of 3)." for number in (1, 2, 3)]


def test_after_three_times_without_a_finished_epoch_the_search_ends_with_the_way_to_go_on(record):
    ray = Ray()
    with pytest.raises(
        SearchError, match=r"no epoch was finished\.\nFix the cause, then resume: .*--resume"
    ) as raised:
        outlive(record, ray, 4)
    assert str(raised.value).count("\n") == 1
    assert ray.restarts == 3
    assert read_json(record.folder / "study.json")["status"] == FAILED
    assert record.rows[0].state == "RUNNING"


def test_an_epoch_between_lets_the_count_begin_anew(record):
    ray = Ray()
    said = outlive(record, ray, 6, epochs_at=[4])
    assert ray.restarts == 6
    assert [line[-12:-1] for line in said] == [f"mpt {number} of 3)" for number in (1, 2, 3, 1, 2, 3)]


def test_a_cluster_that_was_joined_is_not_started_again(record):
    ray = Ray(own=False)
    with pytest.raises(SearchError, match=r"^Ray has died: it had to\.\nFix the cause, then resume: "):
        outlive(record, ray, 1)
    assert ray.restarts == 0


def test_a_search_that_was_interrupted_needs_no_ray_to_end(record):
    ray, ending = Ray(), Stopping()
    ending.request(INTERRUPTED, at_once=True)
    assert outlive(record, ray, 1, ending=ending) == []
    assert ray.restarts == 0


def test_what_broke_before_ray_died_is_what_is_said(record):
    ending = Stopping()
    ending.fail("The disk is full.")
    with pytest.raises(SearchError, match=r"^The disk is full\.\n"):
        outlive(record, Ray(), 1, ending=ending)


class Broken(Ray):
    """Does not start again the first times: what killed its processes is still there."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def restart(self):
        super().restart()
        if self.restarts <= self.times:
            raise RayDied("Ray did not start: its raylet was ended by SIGKILL. See raylet.err.")


def test_a_start_that_fails_is_one_of_the_three(record):
    ray = Broken(2)
    said = outlive(record, ray, 1)
    assert ray.restarts == 3
    causes = ("Ray has died: it had to.", *["Ray did not start: its raylet was ended by SIGKILL. See raylet.err."] * 2)
    again = "It is started again, and the search goes on"
    assert said == [f"{cause} {again} (attempt {number} of 3)." for number, cause in enumerate(causes, start=1)]


def test_a_ray_that_never_starts_again_ends_the_search_with_the_way_to_go_on(record):
    ray = Broken(99)
    with pytest.raises(SearchError, match=r"its raylet was ended by SIGKILL(.|\n)*resume: .*--resume"):
        outlive(record, ray, 1)
    assert ray.restarts == 3
    assert read_json(record.folder / "study.json")["status"] == FAILED
