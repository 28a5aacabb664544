"""The compute cost of studies small enough to work out by hand. Times are seconds after eight o'clock."""

import fcntl
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from tests.studies import make_study
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.analysis.study import Study, load_study
from vae_tune.config.fields import to_dict
from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig

EIGHT = datetime(2026, 1, 5, 8, tzinfo=UTC)
ASHA = AshaConfig()
ONE_SLOT = {"count": 1, "cpus": 1, "gpus": 0}


def at(seconds):
    return EIGHT + timedelta(seconds=seconds)


def study(folder, runs, *trials, max_epochs=3, asha=ASHA):
    """A study from ``(started, ended, slots)`` for each run, with ``(time, slots)`` for each change of them, and for
    each trial its state, when it started and ended, and ``(reported, seconds)`` for each epoch."""
    entries = []
    for started, ended, slots, *changes in runs:
        entries.append({"started": at(started).isoformat()})
        entries[-1] |= {} if ended is None else {"ended": at(ended).isoformat()}
        entries[-1] |= {} if slots is None else {"slots": slots}
        entries[-1] |= {"slot_changes": [{"time": at(time).isoformat(), **there} for time, there in changes]}
    rows = [
        {
            "state": state,
            "epochs": len(epochs),
            "seconds": float(sum(length for _, length in epochs)),
            "started": at(started),
            "ended": pd.NaT if ended is None else at(ended),
        }
        for state, started, ended, epochs in trials
    ]
    reports = [
        {"trial": number, "epoch": epoch, "seconds": float(length), "time": at(time)}
        for number, (_, _, _, epochs) in enumerate(trials)
        for epoch, (time, length) in enumerate(epochs, start=1)
    ]
    table = pd.DataFrame(rows, columns=["state", "epochs", "seconds", "started", "ended"]).rename_axis("trial")
    reports = pd.DataFrame(reports, columns=["trial", "epoch", "seconds", "time"])
    for frame, columns in ((table, ["started", "ended"]), (reports, ["time"])):
        for column in columns:
            frame[column] = pd.to_datetime(frame[column], utc=True)
    reference = TrialConfig(max_epochs=max_epochs)
    metadata = {"runs": entries, "rungs": asha.rungs(max_epochs), "reference": to_dict(reference)}
    return Study(folder, metadata, SearchConfig(trial=reference, asha=asha), table, reports, None)


def cpu_seconds(cost):
    hours = cost.entries["cpu_hours"]
    return {what: pytest.approx(value * 3600) for what, value in hours.items() if value}


def test_every_second_of_the_slots_is_in_one_entry(tmp_path):
    slots = {"count": 2, "cpus": 2, "gpus": 0}
    complete = ("COMPLETE", 0, 31, [(11, 10), (21, 10), (31, 10)])
    pruned = ("PRUNED", 1, 12, [(12, 10)])
    failed = ("FAIL", 13, 30, [(22, 9)])  # eight seconds of an epoch that was never reported
    cost = compute_cost(study(tmp_path, [(0, 40, slots)], complete, pruned, failed))
    assert cpu_seconds(cost) == {"complete": 60, "pruned": 20, "failed": 2 * (9 + 8), "idle": 2 * 2 * 40 - 114}
    assert list(cost.entries["trials"]) == [1, 1, 1, 0, 0, 0]
    assert list(cost.entries["epochs"]) == [3, 1, 1, 0, 0, 0]
    assert cost.wall_seconds == 40
    assert cost.unit == "core-hours"
    assert cost.notes == ()


def test_pruning_saves_the_epochs_left_at_the_trials_own_pace(tmp_path):
    pruned = [("PRUNED", 0, 12, [(5, 5), (12, 7)]), ("PRUNED", 12, 16, [(16, 4)])]
    cost = compute_cost(study(tmp_path, [(0, 20, ONE_SLOT | {"cpus": 3})], *pruned, max_epochs=10))
    assert cost.saved_epochs == 8 + 9
    assert cost.saved_hours * 3600 == pytest.approx(3 * (8 * 6 + 9 * 4))


def test_pruning_saves_no_epochs_beyond_those_that_the_space_fixes(tmp_path):
    folder = make_study(tmp_path / "s", trials=12, max_epochs=9)
    whole = load_study(folder)
    config = replace(whole.config, trial=TrialConfig(max_epochs=90))  # what the space's max_epochs replaced
    assert compute_cost(whole).saved_epochs > 0
    assert compute_cost(replace(whole, config=config)).saved_epochs == compute_cost(whole).saved_epochs


def test_hours_are_gpu_hours_where_trials_have_gpus(tmp_path):
    trial = ("PRUNED", 0, 10, [(10, 10)])
    cost = compute_cost(study(tmp_path, [(0, 20, {"count": 2, "cpus": 8, "gpus": 0.5})], trial))
    assert cost.unit == "GPU-hours"
    assert cost.hours["pruned"] * 3600 == pytest.approx(5)
    assert cost.hours["idle"] * 3600 == pytest.approx(2 * 20 * 0.5 - 5)
    assert cost.saved_hours * 3600 == pytest.approx(2 * 10 * 0.5)


def test_what_was_in_flight_at_an_interruption_is_repeated(tmp_path):
    trial = ("COMPLETE", 0, 131, [(10, 10), (121, 11), (131, 10)])
    cost = compute_cost(study(tmp_path, [(0, 16, ONE_SLOT), (105, 135, ONE_SLOT)], trial))
    assert cpu_seconds(cost) == {"complete": 31, "repeated": 6, "idle": 16 + 30 - 31 - 6}
    assert cost.wall_seconds == 46
    assert "upper bound" in " ".join(cost.notes)


def test_no_more_than_an_epoch_is_repeated(tmp_path):
    trial = ("RUNNING", 0, None, [(10, 10), (19, 9)])
    cost = compute_cost(study(tmp_path, [(0, 60, ONE_SLOT)], trial))
    assert cpu_seconds(cost) == {"unfinished": 19, "repeated": 10, "idle": 60 - 29}


def test_a_trial_that_had_ended_before_it_was_told_repeats_nothing(tmp_path):
    trial = ("PRUNED", 0, 100, [(10, 10)])  # told by the resume, at second 100
    cost = compute_cost(study(tmp_path, [(0, 15, ONE_SLOT), (99, 101, ONE_SLOT)], trial))
    assert cpu_seconds(cost) == {"pruned": 10, "idle": 5 + 2}


PROMOTION = AshaConfig(scheduler="asha-promotion", grace_period=1)


def test_a_trial_that_waits_for_a_promotion_costs_nothing_meanwhile(tmp_path):
    waits = ("RUNNING", 0, None, [(10, 10)])
    fails = ("FAIL", 10, 59, [(19, 9)])  # promoted at some time: in the second epoch, so after 9 seconds at most
    cost = compute_cost(study(tmp_path, [(0, 60, ONE_SLOT)], waits, fails, asha=PROMOTION))
    assert cpu_seconds(cost) == {"unfinished": 10, "failed": 9 + 9, "idle": 60 - 28}


def test_what_was_in_flight_between_rungs_is_repeated_with_promotion_too(tmp_path):
    trial = ("RUNNING", 0, None, [(10, 10), (20, 10)])
    cost = compute_cost(study(tmp_path, [(0, 25, ONE_SLOT)], trial, max_epochs=9, asha=PROMOTION))
    assert cpu_seconds(cost) == {"unfinished": 20, "repeated": 5}


def test_each_run_counts_with_its_own_resources(tmp_path):
    trial = ("COMPLETE", 0, 130, [(10, 10), (120, 10), (130, 10)])
    cost = compute_cost(study(tmp_path, [(0, 10, ONE_SLOT), (100, 130, ONE_SLOT | {"cpus": 4})], trial))
    assert cpu_seconds(cost) == {"complete": 10 + 4 * 20, "idle": 4 * 10}


def test_slots_count_for_the_time_that_they_were_there(tmp_path):
    two, gone = ONE_SLOT | {"count": 2}, ONE_SLOT | {"count": 0}
    trial = ("COMPLETE", 0, 30, [(10, 10), (20, 10), (30, 10)])
    cost = compute_cost(study(tmp_path, [(0, 50, ONE_SLOT, (10, two), (25, ONE_SLOT), (40, gone), (60, two))], trial))
    assert cpu_seconds(cost) == {"complete": 30, "idle": 10 + 2 * 15 + 15 - 30}
    assert cost.wall_seconds == 50


def test_a_node_with_a_gpu_that_joins_counts_from_then_on(tmp_path):
    with_gpu = {"count": 3, "cpus": 1, "gpus": 0.5, "without_gpu": 1}
    cost = compute_cost(study(tmp_path, [(0, 50, ONE_SLOT, (10, with_gpu))]))
    assert cost.hours["idle"] * 3600 == pytest.approx(40 * 3 * 0.5)


def test_a_killed_run_counts_up_to_its_last_report_and_a_note_says_so(tmp_path):
    first = ("COMPLETE", 0, 130, [(10, 10), (120, 10), (130, 10)])
    second = ("PRUNED", 1, 14, [(14, 13)])
    runs = [(0, None, ONE_SLOT | {"count": 2}), (100, 130, ONE_SLOT | {"count": 2})]
    cost = compute_cost(study(tmp_path, runs, first, second))
    assert cpu_seconds(cost) == {"complete": 30, "pruned": 13, "repeated": 4, "idle": 2 * 14 + 2 * 30 - 47}
    assert "Run 1 of the search was killed" in cost.notes[0]


def test_what_is_in_flight_in_a_living_search_is_unfinished(tmp_path):
    trial = ("RUNNING", -50, None, [(-40, 10)])
    recent = study(tmp_path, [(-50, None, ONE_SLOT)], trial)
    with (tmp_path / "study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cost = compute_cost(recent)
    assert cost.hours["repeated"] == 0
    assert cost.hours["unfinished"] > 24  # it began in January 2026, and still runs


def test_idle_time_is_unknown_where_no_slots_are_recorded(tmp_path):
    cost = compute_cost(study(tmp_path, [(0, 20, None)], ("PRUNED", 0, 10, [(10, 10)])))
    assert cost.hours["pruned"] * 3600 == pytest.approx(10)
    assert pd.isna(cost.hours["idle"])
    assert "not recorded" in cost.notes[0]


def test_a_study_without_trials_was_idle(tmp_path):
    cost = compute_cost(study(tmp_path, [(0, 20, ONE_SLOT)]))
    assert cpu_seconds(cost) == {"idle": 20}
    assert (cost.saved_epochs, cost.saved_hours) == (0, 0)


def test_the_cost_of_a_whole_study_adds_up(tmp_path):
    whole = load_study(make_study(tmp_path / "s", trials=40, slots=3))
    cost = compute_cost(whole)
    assert cost.entries["trials"].sum() == 40
    assert cost.hours.sum() * 3600 == pytest.approx(3 * cost.wall_seconds)
    assert cost.entries["epochs"].sum() == len(whole.epochs)
