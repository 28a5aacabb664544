import numpy as np
import pandas as pd
import pytest

from tests.studies import hand_made, make_study
from vae_tune import load_study
from vae_tune.config.settings import AshaConfig
from vae_tune.plots import best_so_far, learning_curves, rung_correlation, rung_survival, timeline

HOUR = 3600.0


def test_the_best_so_far_is_the_lowest_loss_of_a_trial_trained_to_the_end(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [120, 110, 105], "started": 0},  # ends third
        {"losses": [90], "state": "PRUNED", "started": 0},  # ends first; stopped, so it is not the best
        {"losses": [], "state": "FAIL", "started": 1.5},
        {"losses": [120, 108, 101], "started": 3},
        {"losses": [120, 108, 103], "started": 4},
        {"losses": [100], "state": "RUNNING", "started": 4},
    )
    table = best_so_far(study)
    assert list(table.trial) == [1, 2, 0, 3, 4]
    assert list(table.order) == [1, 2, 3, 4, 5]
    assert list(table.val_loss)[2:] == [105, 101, 103]
    np.testing.assert_equal(table.best.to_numpy(), [np.nan, np.nan, 105, 101, 101])
    assert list(table.finished) == [2, 2, 4, 10, 11]  # epochs reported by 1, 1.5, 3, 6 and 7 s, by anyone
    assert list(table.hours * HOUR) == pytest.approx([1, 1.5, 3, 6, 7])


def test_pauses_before_a_resume_are_no_time_of_searching(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [120, 110, 105], "times": [1, 2, 1003]},  # interrupted after 2 s, resumed at 1000 s
        {"losses": [99, 98, 97], "started": 1003},
        resumed=(1000,),
    )
    assert list(best_so_far(study).hours * HOUR) == pytest.approx([5, 8])


def test_learning_curves_tell_rungs_and_states(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [120, 110, 105, 104]},
        {"losses": [150], "state": "PRUNED"},
        max_epochs=4,
    )
    table = learning_curves(study)
    assert list(table.trial) == [0, 0, 0, 0, 1]
    assert list(table.epoch) == [1, 2, 3, 4, 1]
    assert list(table.val_loss) == [120, 110, 105, 104, 150]
    assert list(table.rung) == [True, False, True, False, True]
    assert list(table.state) == ["COMPLETE"] * 4 + ["PRUNED"]


def test_rung_survival_counts_who_came_and_who_was_stopped(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [120, 110, 105, 104]},
        {"losses": [150], "state": "PRUNED"},
        {"losses": [151], "state": "PRUNED"},
        {"losses": [130, 120, 115], "state": "PRUNED"},
        {"losses": [130, 120], "state": "FAIL"},
        {"losses": [129], "state": "RUNNING"},
        {"losses": [], "state": "FAIL"},
        max_epochs=4,
    )
    table = rung_survival(study)
    assert table.to_dict("list") == {
        "epoch": [1, 3, 4],
        "reached": [6, 2, 1],
        "stopped": [2, 1, 0],
        "share": [pytest.approx(4 / 6), 0.5, 1.0],
    }


def test_rung_correlation_is_spearmans_among_trials_that_reached_both(tmp_path):
    losses = [[10, 9, 8, 4], [11, 9, 7, 1], [12, 9, 9, 3], [13, 9, 10, 2]]
    study = hand_made(
        tmp_path / "s", *({"losses": curve} for curve in losses), {"losses": [50], "state": "PRUNED"}, max_epochs=4
    )
    table = rung_correlation(study).set_index(["epoch_a", "epoch_b"])
    assert list(table.index) == [(1, 3), (1, 4), (3, 4)]
    assert list(table.trials) == [4, 4, 4]
    # 1 - 6 * sum(rank differences squared) / (n (n^2 - 1)), by hand
    assert list(table.spearman) == pytest.approx([0.8, -0.4, 0.2])


def test_two_trials_have_no_rank_correlation(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1]}, {"losses": [4, 3, 2]})
    assert list(rung_correlation(study).trials) == [2]
    assert rung_correlation(study).spearman.isna().all()


def test_a_timeline_gives_each_trial_a_worker_and_shows_who_idles(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [3, 2, 1], "started": 1, "times": [2, 3, 4]},
        {"losses": [9], "state": "PRUNED", "started": 1, "times": [2]},
        {"losses": [8], "state": "PRUNED", "started": 2, "times": [3]},
        {"losses": [7, 6], "state": "RUNNING", "started": 4, "times": [6, 7]},
    )
    table = timeline(study)
    begin = study.trials.started.min() - pd.Timedelta(seconds=1)
    rows = [
        (row.worker, row.state, None if row.trial is pd.NA else row.trial, (row.start - begin).total_seconds())
        for row in table.itertuples()
    ]
    assert rows == [
        ("host 1", "IDLE", None, 0),
        ("host 1", "COMPLETE", 0, 1),
        ("host 1", "IDLE", None, 4),
        ("host 1", "RUNNING", 3, 5),
        ("host 2", "IDLE", None, 0),
        ("host 2", "PRUNED", 1, 1),
        ("host 2", "PRUNED", 2, 2),
        ("host 2", "IDLE", None, 3),
    ]
    assert list(table.end_hours * HOUR) == pytest.approx([1, 4, 5, 7, 1, 2, 3, 7])


def test_a_report_that_arrives_late_makes_no_second_worker(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1]}, {"losses": [3, 2, 1], "started": 2.8})
    assert set(timeline(study).worker) == {"host 1"}


def test_a_trial_that_was_resumed_has_a_stretch_in_each_run(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1], "times": [1, 2, 1003]}, resumed=(1000,))
    table = timeline(study)
    assert list(table.state) == ["COMPLETE", "IDLE", "COMPLETE"]
    assert list(table.start_hours * HOUR) == pytest.approx([0, 2, 4])
    assert list(table.end_hours * HOUR) == pytest.approx([2, 4, 5])


@pytest.fixture
def promoted(tmp_path):
    """One worker trains three trials by turns; what is paused at the end ends with the search, the winner before."""
    return hand_made(
        tmp_path / "s",
        {"losses": [30, 20], "times": [1, 12], "started": 0},
        {"losses": [29], "started": 2, "times": [3], "state": "PRUNED", "ended": 40},
        {"losses": [28, 18, 17], "started": 3, "times": [4, 20, 21]},
        {"losses": [31], "started": 5, "times": [6], "state": "PRUNED", "ended": 40},
        max_epochs=3,
        asha=AshaConfig(scheduler="asha-promotion", grace_period=1),
    )


def test_a_paused_trial_counts_from_when_it_was_paused(promoted):
    table = best_so_far(promoted)
    assert list(table.trial) == [1, 3, 0, 2]
    assert list(table.hours * HOUR) == pytest.approx([3, 6, 12, 21])


def test_a_trial_that_was_promoted_has_a_stretch_for_each_time_that_it_trained(promoted):
    table = timeline(promoted)
    assert set(table.worker) == {"host 1"}
    busy = table[table.state != "IDLE"]
    assert list(busy.trial) == [0, 1, 2, 3, 0, 2]
    assert list(busy.start_hours * HOUR) == pytest.approx([0, 2, 3, 5, 11, 19])
    assert list(busy.end_hours * HOUR) == pytest.approx([1, 3, 4, 6, 12, 21])


def test_what_an_interruption_left_running_trains_until_then_and_no_longer(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [3, 2], "state": "RUNNING"},
        {"losses": [3, 2, 1], "started": 0.5},
        {"losses": [9], "state": "PRUNED", "started": 1000},
        resumed=(999,),
    )
    table = timeline(study).set_index("trial")
    assert (table.end_hours * HOUR)[0] == pytest.approx(3.5)


def test_workers_of_several_nodes_are_told_apart(tmp_path):
    study = load_study(make_study(tmp_path / "s", trials=60, nodes=("a", "b"), slots=2))
    table = timeline(study)
    assert set(table.worker) == {"a 1", "a 2", "b 1", "b 2"}
    for _, own in table.groupby("worker"):
        assert (own.start_hours.to_numpy()[1:] >= own.end_hours.to_numpy()[:-1] - 1e-9).all()
    assert (table.end >= table.start).all()


def test_without_a_scheduler_there_is_no_rung_to_survive(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1]}, asha=AshaConfig(scheduler="none"))
    assert list(rung_survival(study).epoch) == [3]
    assert rung_correlation(study).empty
    assert not learning_curves(study).rung.any()
