"""What `vae-tune check --address` makes of the answers of nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import ray.exceptions

from vae_tune.cli.check import node_tests
from vae_tune.cli.check.node_tests import own_versions
from vae_tune.cli.check.node_trial import one_second_trial
from vae_tune.cli.check.running_cluster import (
    Probe,
    capacity,
    describe,
    lost_nodes,
    no_answer,
    no_token,
    node_problems,
)

HERE = {"Python": "3.12.3", "ray": "2.60.0", "torch": "2.15.0", "vae-tune": "0.1.0"}
GOOD = Probe(HERE, None, 20_000.0, "cpu")


def test_a_node_like_this_one_has_nothing_wrong():
    assert list(node_problems("10.0.0.5", GOOD, 0.01, HERE)) == []
    assert describe(GOOD, 0.01).endswith("clock +0.01 s from the one here; 20,000 images a second on cpu")


@pytest.mark.parametrize(("name", "level"), [("Python", "error"), ("ray", "error"), ("torch", "warning")])
def test_another_version_is_found_and_counts_by_what_it_breaks(name, level):
    (problem,) = node_problems("10.0.0.5", Probe({**HERE, name: "1.0"}, None, 1.0, "cpu"), 0.0, HERE)
    assert (problem.level, problem.where) == (level, "10.0.0.5")
    assert problem.what == f"{name} is 1.0 there, but {HERE[name]} here."


@pytest.mark.parametrize(("skew", "levels"), [(1.0, []), (-3.0, ["warning"]), (3.0, ["warning"]), (-90.0, ["error"])])
def test_a_clock_that_is_off_is_found(skew, levels):
    assert [problem.level for problem in node_problems("10.0.0.5", GOOD, skew, HERE)] == levels


@pytest.mark.parametrize(("niceness", "levels"), [(0, []), (15, ["warning"])])
def test_workers_that_leave_the_cpus_to_others_are_found(niceness, levels):
    answer = replace(GOOD, niceness=niceness)
    assert [problem.level for problem in node_problems("10.0.0.5", answer, 0.0, HERE)] == levels


def test_storage_that_a_node_cannot_write_is_an_error():
    (problem,) = node_problems("10.0.0.5", Probe(HERE, "Access Denied", 1.0, "cpu"), 0.0, HERE)
    assert "Access Denied" in str(problem)


def test_a_folder_of_the_drivers_own_disk_is_told_from_a_shared_one(tmp_path):
    folder, problem = node_tests.open_storage(str(tmp_path))
    assert problem is None
    assert node_tests.try_storage(folder) is None
    assert "it is not shared" in node_tests.try_storage(tmp_path / "elsewhere")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    folder, problem = node_tests.open_storage(str(tmp_path / "file"))
    assert folder is None
    assert "Not a directory" in problem or "not a directory" in problem


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ray.exceptions.GetTimeoutError("late"), "no answer within 120 seconds"),
        (ModuleNotFoundError("No module named 'vae_tune'"), "not installed there"),
        (RuntimeError("CUDA out of memory"), "The trial failed: CUDA out of memory"),
    ],
)
def test_a_node_on_which_nothing_runs_is_told_with_the_reason(error, words):
    assert words in str(no_answer("10.0.0.5", error))


def test_a_cluster_without_a_token_is_an_error():
    assert list(no_token(enabled=True)) == []
    assert [problem.level for problem in no_token(enabled=False)] == ["error"]


@pytest.mark.parametrize(
    ("total", "free", "words"),
    [({"CPU": 2}, {"CPU": 1}, []), ({}, {}, ["no CPU for trials"]), ({"CPU": 2}, {}, ["All CPUs are in use"])],
)
def test_a_cluster_without_room_is_told(total, free, words):
    found = [problem.what for problem in capacity(total, free)]
    assert len(found) == len(words)
    assert all(word in what for word, what in zip(words, found, strict=True))


def test_a_lost_node_is_told_unless_it_came_back():
    nodes = [
        {"NodeManagerAddress": "10.0.0.5", "Alive": False},
        {"NodeManagerAddress": "10.0.0.6", "Alive": False},
        {"NodeManagerAddress": "10.0.0.6", "Alive": True},
    ]
    assert [problem.where for problem in lost_nodes(nodes)] == ["10.0.0.5"]


def test_the_short_trial_trains():
    images_per_second, device = one_second_trial(gpu=False, seconds=0.0)
    assert images_per_second > 0
    assert device == "cpu"


def test_a_package_that_is_missing_is_told_as_such(monkeypatch):
    monkeypatch.setattr(node_tests, "_PACKAGES", ("no-such-package",))
    assert own_versions()["no-such-package"] == "none"
