"""ASHA with promotion: the rungs, the searcher driven as Ray Tune drives it, searches on a simulated clock."""

import math

import numpy as np
import pytest
from ray.tune.search import Searcher

from tests.replay.test_replay_simulator import Given, outcomes
from tests.search.test_searcher import result
from tests.studies import hand_made
from vae_tune.analysis.audit import audit
from vae_tune.config.errors import UsageError
from vae_tune.config.names import COMPLETE, PRUNED, RUNNING, TRIAL
from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.metadata import new_metadata
from vae_tune.record.sampler_view import as_set_aside
from vae_tune.record.study_record import StudyRecord
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import simulate
from vae_tune.search.asha import PromotionAsha
from vae_tune.search.scheduler import CONTINUE, PAUSE, STOP
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import PAUSED

PROMOTION = AshaConfig(scheduler="asha-promotion", reduction_factor=3)
BASE = TrialConfig(max_epochs=9)
COUNT = 16


def promotion(rungs, reduction_factor, max_epochs):
    scheduler = PromotionAsha(AshaConfig(scheduler="asha-promotion", reduction_factor=reduction_factor), max_epochs)
    assert list(scheduler._rungs.losses) == rungs
    return scheduler


def goes_on(scheduler, *report):
    return scheduler.decide(*report) == CONTINUE


def test_one_worker_promotes_as_algorithm_2_of_the_paper_says():
    # The setting in which Li et al. 2018 explain successive halving: 9 configurations, reduction factor 3, rungs of
    # 1, 3 and 9 epochs. The losses are made up: 1, 6 and 8 are the best of the lowest rung, 8 is the best of all. By
    # their algorithm 2 a free worker takes the highest rung k that has a trial among its best floor(|rung k| / 3)
    # which was not promoted before, else a new one: 1 after three, 6 after six, 8 after eight (6 and 8 are the best
    # two of eight); then 8 once more, as the best of three in the rung of 3 epochs; and 9 last.
    scheduler = promotion([1, 3], 3, 9)
    losses_at = {
        1: {1: 3.0, 2: 7.0, 3: 8.0, 4: 6.0, 5: 9.0, 6: 2.0, 7: 7.5, 8: 1.0, 9: 8.5},
        3: {1: 2.5, 6: 1.5, 8: 0.5},
        9: {8: 0.4},
    }
    reached, jobs, fresh = dict.fromkeys(range(1, 10), 0), [], iter(range(1, 10))
    number, continues = 0, False
    while number is not None:
        if not continues:
            number = scheduler.next_paused() or next(fresh, None)
        if number is not None:
            reached[number] = {0: 1, 1: 3, 3: 9}[reached[number]]
            jobs.append((number, reached[number]))
            continues = goes_on(scheduler, *jobs[-1], losses_at[reached[number]][number])
    lowest = [(number, 1) for number in range(1, 10)]
    assert jobs == [*lowest[:3], (1, 3), *lowest[3:6], (6, 3), *lowest[6:8], (8, 3), (8, 9), lowest[8]]


def test_a_trial_that_is_promoted_at_once_does_not_pause():
    scheduler = promotion([1, 2], 2, 4)
    assert scheduler.decide(1, 1, 5.0) == PAUSE
    assert goes_on(scheduler, 2, 1, 4.0)  # the best of two


def test_a_paused_trial_is_promoted_when_others_make_it_one_of_the_best():
    scheduler = promotion([1, 2], 2, 4)
    assert [goes_on(scheduler, number, 1, loss) for number, loss in ((1, 5.0), (2, 4.0), (3, 9.0))] == [
        False,
        True,
        False,
    ]
    assert scheduler.next_paused() is None  # one of three passes
    assert not goes_on(scheduler, 4, 1, 8.0)  # two of four
    assert scheduler.next_paused() == 1
    assert scheduler.next_paused() is None


def test_the_highest_rung_is_served_first():
    scheduler = promotion([1, 2], 2, 4)
    for number, loss in ((1, 5.0), (2, 4.0), (3, 3.0), (4, 2.0)):
        goes_on(scheduler, number, 1, loss)
    assert not goes_on(scheduler, 2, 2, 4.0)
    assert not goes_on(scheduler, 3, 2, 5.0)  # two of the second rung, and 2 is the better
    assert not goes_on(scheduler, 5, 1, 1.0)  # the best of the first rung, but the worker is for 2
    assert [scheduler.next_paused() for _ in range(3)] == [2, 5, None]


def test_the_reference_never_pauses_but_counts():
    scheduler = promotion([1, 2], 2, 4)
    assert goes_on(scheduler, 0, 1, 9.0)
    assert goes_on(scheduler, 1, 1, 5.0)
    assert not goes_on(scheduler, 1, 4, 5.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_trial_ends_and_takes_no_place(loss):
    scheduler = promotion([1, 2], 2, 4)
    assert scheduler.decide(1, 1, loss) == STOP
    assert not goes_on(scheduler, 2, 1, 5.0)


def test_an_audit_needs_trials_that_are_stopped():
    with pytest.raises(UsageError, match="audit_fraction must be 0 where scheduler is not asha"):
        AshaConfig(scheduler="asha-promotion", audit_fraction=0.1)


def test_two_workers_follow_the_schedule_worked_by_hand():
    # One rung, at epoch 1 of 2; one in two is promoted; a second an epoch.
    #  1: 0 (9) goes on as the reference; 1 (5): 1 of 2, goes on.           2: 0 and 1 end; 2 and 3 begin.
    #  3: 2 (8): 3 at the rung, 1 passes: paused; 4 begins. 3 (7): 4 at the rung, 2 pass, 3 is second: goes on.
    #  4: 4 (9.5): paused; 5 begins. 3 ends; 6 is not: nothing is left, and a worker waits.
    #  5: 5 (6): 6 at the rung, 3 pass: 1, 5, 3: goes on. The other worker still waits.
    #  6: 5 ends. 2 and 4 are never promoted and count as stopped.
    curves = [[9, 8], [5, 4], [8, 1], [7, 6], [9.5, 9], [6, 5]]
    source = Given(*((1, losses) for losses in curves))
    asha = AshaConfig(scheduler="asha-promotion", reduction_factor=2)
    trials = simulate(source, Setting("random", asha, workers=2), num_samples=6, seed=0)
    assert [(state, epochs, ended) for state, epochs, ended, _ in outcomes(trials)] == [
        (COMPLETE, 2, 2.0),
        (COMPLETE, 2, 2.0),
        (PRUNED, 1, 3.0),
        (COMPLETE, 2, 4.0),
        (PRUNED, 1, 4.0),
        (COMPLETE, 2, 6.0),
    ]


def test_a_promoted_trial_goes_on_where_it_paused():
    # 1 (5) pauses behind 0 (4), and is the second of four once 2 and 3 have come.
    source = Given(*((1, losses) for losses in ([4, 3, 3], [5, 4, 4], [6, 5, 5], [7, 6, 6])))
    asha = AshaConfig(scheduler="asha-promotion", reduction_factor=2, grace_period=1)
    trials = simulate(source, Setting("random", asha, workers=1), num_samples=4, seed=0)
    assert [trial.epochs for trial in trials] == [3, 2, 1, 1]
    assert sum(trial.epochs for trial in trials) == max(trial.spent for trial in trials)


class Search:
    """A study that one worker searches, which can be left and taken up at any report."""

    def __init__(self, folder, tiny, metadata=None):
        config = SearchConfig(num_samples=COUNT, trial=BASE, asha=PROMOTION)
        metadata = new_metadata("s", config, BASE, DEFAULT_SPACE, tiny)
        is_new = not folder.exists()
        self.record = StudyRecord.create(folder, metadata) if is_new else StudyRecord.resume(folder, metadata)
        scheduler = make_scheduler(PROMOTION, 9, 0)
        arguments = (self.record, DEFAULT_SPACE, BASE, "tpe", Stopping(), scheduler, COUNT)
        self.searcher = StudySearcher(*arguments)
        self.names = iter(range(10_000))

    def run(self, reports=10_000):
        """Go on for so many reports; the rest of an epoch in flight is lost."""
        while reports:
            name = str(next(self.names))
            config = self.searcher.suggest(name)
            if config == Searcher.FINISHED:
                self.record.set_status("complete")
                break
            number = config[TRIAL]
            for epoch in range(self.record.rows[number].epochs + 1, 10):
                reports -= 1
                loss = losses(number, epoch)
                if not self.searcher.trials.report(name, result(epoch, loss)):
                    self.searcher.on_trial_complete(name, result(epoch, loss))
                    break
                self.searcher.on_trial_result(name, result(epoch, loss))
                if not reports:
                    break
        self.record.close()
        return self.record


def losses(number, epoch):
    return float(100 + np.random.default_rng(number).random() + 10 / epoch)


def summary(record):
    return [(row.state, row.epochs) for row in record.rows]


def test_a_search_ends_with_all_trials_told(tmp_path, tiny):
    record = Search(tmp_path / "s", tiny).run()
    assert len(record.rows) == COUNT
    assert {row.state for row in record.rows} == {COMPLETE, PRUNED}
    order = sorted(range(1, COUNT), key=lambda number: losses(number, 1))
    assert all(record.rows[number].epochs >= 3 for number in order[: COUNT // 3 - 1])
    assert not [line for line in audit(record.folder) if "rung" in line or "RUNNING" in line]


def test_the_sampler_takes_a_paused_trial_for_pruned_and_a_promoted_one_for_running(tmp_path, tiny):
    search = Search(tmp_path / "s", tiny)
    search.run(reports=20)
    paused = {number: search.record.row(number).epochs for number in search.searcher.trials.in_state(PAUSED)}
    assert paused
    seen = {trial.number: as_set_aside(trial) for trial in search.record.study.trials}
    for number, epoch in paused.items():
        assert search.record.rows[number].state == RUNNING
        assert (seen[number].state.name, max(seen[number].intermediate_values)) == (PRUNED, epoch)
    promoted = [
        row for row in search.record.rows if row.epochs > 1 and row.state == RUNNING and row.trial not in paused
    ]
    assert all(seen[row.trial].state.name == RUNNING for row in promoted)


@pytest.mark.parametrize("reports", [1, 7, 16, 23])
def test_paused_trials_survive_a_kill_and_all_is_told_in_the_end(tmp_path, tiny, reports):
    before = Search(tmp_path / "s", tiny).run(reports)
    again = Search(tmp_path / "s", tiny)
    assert set(again.searcher.trials.in_state(PAUSED)) <= {row.trial for row in before.rows if row.state == RUNNING}
    record = again.run()
    assert len(record.rows) == COUNT
    assert {row.state for row in record.rows} == {COMPLETE, PRUNED}
    for row in record.rows:
        assert [report["epoch"] for report in row.reports] == list(range(1, row.epochs + 1))
    assert not [line for line in audit(record.folder) if "rung" in line or "RUNNING" in line]


def test_what_no_rung_promoted_is_named_by_the_check(tmp_path, tiny):
    record = Search(tmp_path / "s", tiny).run()
    path = record.folder / "study.json"
    path.write_text(path.read_text().replace('"reduction_factor": 3', '"reduction_factor": 8'))
    assert any("where the rung did not promote it" in line for line in audit(record.folder))
    path.write_text(path.read_text().replace('"reduction_factor": 8', '"reduction_factor": 2'))
    assert any("where the rung promotes it" in line for line in audit(record.folder))


def test_a_trial_that_was_overtaken_before_a_worker_was_free_is_no_contradiction(tmp_path):
    asha = AshaConfig(scheduler="asha-promotion", reduction_factor=2)
    trials = (
        {"losses": [9, 8]},
        {"losses": [5], "state": PRUNED, "started": 1},  # the best of two, until 2 and 3 come
        {"losses": [4, 3], "started": 2},
        {"losses": [3, 2], "started": 3},
    )
    study = hand_made(tmp_path / "s", *trials, max_epochs=2, asha=asha)
    assert not [line for line in audit(study.folder) if "rung" in line]
