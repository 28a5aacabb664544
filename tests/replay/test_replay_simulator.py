"""ReplayedTrial searches against schedules worked by hand, and against a recorded study."""

from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest

from tests.search.test_searcher import drive
from vae_tune.analysis.loss_unit import NATS
from vae_tune.config.names import COMPLETE, FAIL, PRUNED
from vae_tune.config.settings import AshaConfig, SchedulerName, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.replay.curves import Curve, Curves, Tabular, load_curves
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import UnknownEpoch, simulate
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping

TABLE = Path(__file__).parents[1] / "curves"
HALVING = AshaConfig(reduction_factor=2)


class Given:
    """A source that hands out given curves in the order of the questions, with seconds an epoch for each."""

    best = 0.0

    def __init__(self, *curves):
        empty = np.zeros((0, 0))
        base = TrialConfig(max_epochs=len(curves[0][1]))
        self.curves = Curves("given", DEFAULT_SPACE, base, NATS, (), empty, empty)
        self._left = [Curve(np.array(losses, float), np.full(len(losses), float(pace))) for pace, losses in curves]
        self.asked = []

    def curve(self, values):
        self.asked.append(values)
        return self._left.pop(0)


def outcomes(trials):
    return [(trial.state, trial.epochs, trial.ended, trial.spent) for trial in trials]


def test_two_workers_follow_the_schedule_worked_by_hand():
    # Rungs at epochs 1 and 2, one in two passes. Time: what is reported, and what follows.
    #  0: 0 and 1 begin                       6: 0 at its end (4 begins no more: 2 begins)
    #  2: 0 epoch 1, 10.0: the reference      7: 2 epoch 1, 12.0: fourth place of 3, stopped; 3 begins
    #  3: 1 epoch 1,  9.0: first of 2         8: 3 epoch 1,  8.0: first of 4
    #  4: 0 epoch 2,  9.0: the reference      9: 1 at its end, then 3 epoch 2, 7.5: first of 3
    #  6: 1 epoch 2,  8.0: first of 2        10: 3 at its end
    source = Given((2, [10, 9, 8]), (3, [9, 8, 7]), (1, [12, 11, 6]), (1, [8, 7.5, 7]))
    trials = simulate(source, Setting("random", HALVING, workers=2), num_samples=4, seed=0)
    assert outcomes(trials) == [
        (COMPLETE, 3, 6.0, 5),
        (COMPLETE, 3, 9.0, 8),
        (PRUNED, 1, 7.0, 6),
        (COMPLETE, 3, 10.0, 10),
    ]
    assert trials[2].final_loss == 6.0


def test_with_a_worker_for_each_trial_all_begin_at_once():
    source = Given(*[(1 + index, [5, 4]) for index in range(4)])
    trials = simulate(source, Setting("random", AshaConfig(scheduler="none"), workers=64), num_samples=4, seed=0)
    assert [trial.ended for trial in trials] == [2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("bridge", ["ours", "pruned", "stock"])
def test_a_diverging_curve_fails_its_trial_and_the_search_goes_on(bridge):
    source = Given((1, [5, 4]), (1, [4, np.inf]), (1, [3, 2]))
    trials = simulate(source, Setting("tpe", AshaConfig(scheduler="none"), 1, bridge), num_samples=3, seed=0)
    assert [trial.state for trial in trials] == [COMPLETE, FAIL, COMPLETE]


@pytest.mark.parametrize("bridge", ["ours", "pruned", "stock"])
def test_a_seed_repeats_a_search_and_another_does_not(bridge):
    source = Tabular(load_curves(TABLE))
    setting = Setting("tpe", AshaConfig(), 2, bridge)
    first, again, other = (simulate(source, setting, 14, seed) for seed in (1, 1, 2))
    assert [trial.values for trial in first] == [trial.values for trial in again]
    assert outcomes(first) == outcomes(again)
    assert first[1].values != other[1].values


def test_all_bridges_begin_with_the_reference():
    for bridge in ("ours", "pruned", "stock"):
        source = Given((1, [5, 4]))
        simulate(source, Setting("tpe", AshaConfig(), 1, bridge), 1, 0)
        assert source.asked == [{"latent_size": 20, "hidden_width": 400, "learning_rate": 1e-3}]


def test_what_stopped_trials_are_told_as_changes_what_is_proposed():
    source = Tabular(load_curves(TABLE))
    proposed = [
        [trial.values for trial in simulate(source, Setting("tpe", AshaConfig(), 4, bridge), 30, 0)]
        for bridge in ("ours", "pruned", "stock")
    ]
    assert proposed[0] != proposed[1] != proposed[2] != proposed[0]


def test_ours_is_told_a_stopped_trial_as_pruned_and_stock_as_complete_with_its_last_loss(monkeypatch):
    tells, tell = [], optuna.Study.tell

    def spy(study, trial, values=None, state=None, **options):
        tells.append((trial.number, values, state.name))
        return tell(study, trial, values, state, **options)

    monkeypatch.setattr(optuna.Study, "tell", spy)
    curves = [(1, [9, 8]), (1, [8, 7]), (1, [8.5, 1])]
    for bridge in ("ours", "stock"):
        simulate(Given(*curves), Setting("tpe", AshaConfig(), 1, bridge), 3, 0)
    first = [(0, 8, "COMPLETE"), (1, 7, "COMPLETE")]
    assert tells == [*first, (2, None, "PRUNED"), *first, (2, 8.5, "COMPLETE")]


@pytest.mark.parametrize("scheduler", get_args(SchedulerName))
def test_the_states_of_a_replay_are_those_that_optuna_was_told(monkeypatch, scheduler):
    told, tell = {}, optuna.Study.tell

    def spy(study, trial, values=None, state=None, **options):
        told[trial.number] = state.name
        return tell(study, trial, values, state, **options)

    monkeypatch.setattr(optuna.Study, "tell", spy)
    curves = [*((1, [loss, loss - 0.5, loss - 1]) for loss in (9, 5, 8, 7, 6)), (1, [4, np.inf, 3])]
    trials = simulate(Given(*curves), Setting("random", AshaConfig(scheduler=scheduler, reduction_factor=2), 2), 6, 0)
    assert {trial.trial: trial.state for trial in trials} == told
    assert set(told.values()) == {COMPLETE, FAIL} | ({PRUNED} if scheduler != "none" else set())


@pytest.fixture(params=["tpe", "random"])
def study(request, tmp_path, tiny):
    """A study of one slot, with rungs at 1 and 3 of 9 epochs, and the sampler that made it."""
    base = TrialConfig(max_epochs=9)
    config = SearchConfig(num_samples=25, trial=base)
    record = StudyRecord.create(tmp_path / "s", new_metadata("s", config, base, DEFAULT_SPACE, tiny))
    scheduler = make_scheduler(AshaConfig(), 9, base.seed)
    drive(StudySearcher(record, DEFAULT_SPACE, base, request.param, Stopping(), scheduler), map(str, range(25)))
    record.set_status("complete")
    record.close()
    return record, request.param


def test_a_replay_of_a_study_with_its_own_settings_and_one_worker_gives_the_recorded_decisions(study):
    record, sampler = study
    source = Tabular(load_curves(record.folder))
    trials = simulate(source, Setting(sampler, AshaConfig(), workers=1), num_samples=25, seed=0)
    assert [trial.values for trial in trials] == [row.values for row in record.rows]
    assert [(trial.state, trial.epochs) for trial in trials] == [(row.state, row.epochs) for row in record.rows]
    assert {PRUNED, COMPLETE} == {trial.state for trial in trials}


def test_a_trial_that_outlives_its_recorded_curve_is_an_error(study):
    record, sampler = study
    source = Tabular(load_curves(record.folder))
    with pytest.raises(UnknownEpoch, match="was trained for"):
        simulate(source, Setting(sampler, AshaConfig(scheduler="none"), workers=1), num_samples=25, seed=0)
