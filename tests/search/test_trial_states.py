"""The states of trials: every transition, and events that Ray Tune tells in another order, twice, or too late."""

import itertools
import math

import pytest

from tests.record.test_study_record import METADATA
from tests.search.test_searcher import BASE, make, result
from vae_tune.config.names import (
    COMPLETE,
    EPOCH,
    FAIL,
    GPU_ERROR,
    GPU_MEMORY,
    PRUNED,
    RUNNING,
    STORAGE_ERROR,
    TRIAL,
    VAL_LOSS,
)
from vae_tune.config.settings import AshaConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.study_record import StudyRecord
from vae_tune.search.callbacks import ReportsToLifecycle
from vae_tune.search.scheduler import CONTINUE, PAUSE, STOP
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import PAUSED, READY, TRANSITIONS, Outcome, after_report

ASHA = AshaConfig(reduction_factor=2)
PROMOTION = AshaConfig(scheduler="asha-promotion", reduction_factor=2)
NAN = "diverged: val_loss nan in epoch 3"


@pytest.mark.parametrize(
    ("epoch", "loss", "decision", "search_ends", "outcome"),
    [
        (3, 5.0, CONTINUE, False, Outcome(RUNNING)),
        (3, 5.0, CONTINUE, True, Outcome(READY)),
        (3, 5.0, PAUSE, False, Outcome(PAUSED)),
        (3, 5.0, PAUSE, True, Outcome(PAUSED)),
        (3, 5.0, STOP, False, Outcome(PRUNED)),
        (3, 5.0, STOP, True, Outcome(PRUNED)),
        (9, 5.0, STOP, True, Outcome(COMPLETE)),
        (9, 5.0, CONTINUE, False, Outcome(COMPLETE)),
        (3, math.nan, CONTINUE, False, Outcome(FAIL, NAN, diverged=True)),
        (9, math.inf, STOP, True, Outcome(FAIL, "diverged: val_loss inf in epoch 9", diverged=True)),
    ],
)
def test_a_report_and_a_decision_lead_to_one_state(epoch, loss, decision, search_ends, outcome):
    assert after_report(epoch, loss, decision, 9, search_ends=search_ends) == outcome


@pytest.fixture
def record(tmp_path):
    record = StudyRecord.create(tmp_path / "study", METADATA)
    yield record
    record.close()


def started(record, asha=ASHA, count=1, stopping=None):
    """A lifecycle whose first ``count`` trials run, with leases a, b ...; the reference, trial 0, is the first."""
    searcher = make(record, "random", asha=asha, stopping=stopping)
    for name in "abcdef"[:count]:
        searcher.suggest(name)
    return searcher, searcher.trials


def state(trials, number):
    return next((known for known in TRANSITIONS if number in trials.in_state(known)), "")


def test_a_trial_is_ready_when_it_is_proposed_and_runs_until_it_is_complete(record):
    _, trials = started(record)
    trials.add(7)
    assert state(trials, 7) == READY
    for epoch in range(1, 9):
        assert trials.report("a", result(epoch, 50.0))
        assert state(trials, 0) == RUNNING
    assert not trials.report("a", result(9, 50.0))
    assert state(trials, 0) == ""
    assert record.rows[0].state == COMPLETE
    assert not trials.leases


def test_a_paused_trial_is_ready_when_the_scheduler_resumes_it_and_else_pruned_in_the_end(record):
    _, trials = started(record, PROMOTION, 3)
    assert trials.report("a", result(1, 9.0))
    for lease, loss in (("b", 8.0), ("c", 8.5)):
        trials.report(lease, result(1, loss))
    assert [state(trials, number) for number in (1, 2)] == [RUNNING, PAUSED]
    with record.transaction():
        trials.resume_paused()
    assert state(trials, 2) == PAUSED  # two of three cannot be promoted
    trials.prune_paused()
    assert [record.rows[number].state for number in (1, 2)] == [RUNNING, PRUNED]


def test_a_promoted_trial_runs_again_under_a_new_lease_and_the_old_one_counts_no_more(record):
    searcher, trials = started(record, PROMOTION, 3)
    trials.report("b", result(1, 8.0))
    trials.report("c", result(1, 7.0))
    assert [state(trials, number) for number in (1, 2)] == [PAUSED, RUNNING]
    trials.report("a", result(1, 9.0))
    searcher.suggest("d")  # a new one: one of three is promoted
    trials.report("d", result(1, 9.5))
    assert searcher.suggest("e")[TRIAL] == 1
    assert trials.leases["e"] == 1
    assert not trials.report("b", result(2, 1.0))
    trials.fail("b", "too late")
    assert (record.rows[1].epochs, record.rows[1].state) == (1, RUNNING)
    assert trials.report("e", result(2, 7.9)) in (True, False)
    assert record.rows[1].epochs == 2


def test_a_trial_never_changes_its_state_against_the_table(record):
    _, trials = started(record)
    with pytest.raises(ValueError, match="trial 0 is RUNNING; it cannot become RUNNING"):
        trials.start("b", 0)
    assert (state(trials, 0), list(trials.leases)) == (RUNNING, ["a"])


def test_a_report_that_ends_a_trial_and_its_end_are_on_disk_together(record, monkeypatch):
    _, trials = started(record)
    writes = []
    write = record._journal._write
    monkeypatch.setattr(record._journal, "_write", lambda: writes.append(1) or write())
    trials.report("a", result(9, 50.0))
    assert len(writes) == 1


def told_in(order, searcher, scheduler, lease, report):
    """Tell a report as each part of Ray Tune does, in some order, or more than once."""
    trial = type("Trial", (), {"trial_id": lease})
    for part in order:
        match part:
            case "scheduler":
                answer = scheduler.on_trial_result(None, trial, report)
            case "searcher":
                searcher.on_trial_result(lease, report)
            case "complete":
                if lease not in searcher.trials.leases or answer == "STOP":
                    searcher.on_trial_complete(lease, report)


REPORTS = [
    ("a", result(1, 9.0)),
    ("b", result(1, 8.0)),
    ("c", result(1, 8.5)),
    ("d", {EPOCH: 1, VAL_LOSS: math.nan}),
    ("b", result(2, 7.0)),
    ("a", result(2, 8.0)),
    ("e", result(1, 3.0)),
]


def run(folder, order, asha):
    record = StudyRecord.create(folder, METADATA)
    searcher, trials = started(record, asha, 5)
    scheduler = ReportsToLifecycle(trials)
    for lease, report in REPORTS:
        told_in(order, searcher, scheduler, lease, report)
    states = [state(trials, row.trial) for row in record.rows]
    record.close()
    return states, [(row.state, row.epochs, row.reason, row.diverged) for row in record.rows]


@pytest.mark.parametrize("asha", [ASHA, PROMOTION], ids=["stops", "pauses"])
@pytest.mark.parametrize(
    "order",
    [
        ("scheduler",),
        ("searcher", "scheduler"),
        ("scheduler", "scheduler", "searcher"),
        *[(*first, "complete") for first in itertools.permutations(("scheduler", "searcher"))],
        ("scheduler", "complete", "searcher", "scheduler"),
    ],
    ids="-".join,
)
def test_any_order_in_which_ray_tells_a_report_leads_to_the_same_states(tmp_path, order, asha):
    expected = run(tmp_path / "expected", ("scheduler", "searcher", "complete"), asha)
    assert run(tmp_path / "other", order, asha) == expected
    assert [state for state, *_ in expected[1]].count(FAIL) == 1
    assert (PAUSED if asha == PROMOTION else PRUNED) in [*expected[0], *(state for state, *_ in expected[1])]


def test_the_last_report_of_a_search_counts_at_its_rung_and_is_decided_upon(record):
    """Else later decisions would not know a loss that the record has, and the audit would contradict them."""
    stopping = Stopping()
    _, trials = started(record, ASHA, 2, stopping)
    assert trials.report("a", result(1, 5.0))
    stopping.request("interrupted")
    assert not trials.report("b", result(1, 9.0))
    assert record.rows[1].state == PRUNED
    assert not trials.report("a", result(2, 4.0))
    assert (state(trials, 0), record.rows[0].state) == (READY, RUNNING)


def test_a_slow_trial_that_a_time_budget_stops_frees_its_place(record, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    _, trials = started(record, ASHA, 2, Stopping(time_budget=100.0))
    now[0] += 60
    assert not trials.report("a", {**result(1, 9.0), "seconds": 30.0})
    assert list(trials.leases) == ["b"]
    assert state(trials, 0) == READY


@pytest.mark.parametrize("error", [{STORAGE_ERROR: "no such bucket"}, {GPU_ERROR: "no driver"}])
def test_an_error_that_no_trial_is_to_blame_for_ends_the_search_and_the_trial_is_ready_for_a_resume(record, error):
    stopping = Stopping()
    _, trials = started(record, stopping=stopping)
    assert not trials.report("a", {EPOCH: 1, VAL_LOSS: 5.0, **error})
    assert next(iter(error.values())) in stopping.error
    assert (state(trials, 0), record.rows[0].epochs) == (READY, 0)


def test_a_trial_that_runs_out_of_gpu_memory_is_tried_once_more_and_then_fails_with_the_numbers(record):
    stopping, said = Stopping(), []
    stopping.warn = said.append
    searcher, trials = started(record, stopping=stopping)
    trials.report("a", result(1, 50.0))
    numbers = {EPOCH: 0, VAL_LOSS: math.inf, GPU_MEMORY: "it held 9.8 GB and asked for more, 0.3 GB were free"}
    assert not trials.report("a", numbers)
    assert not trials.report("a", numbers)  # Ray Tune tells of it again
    assert (state(trials, 0), trials.out_of_memory) == (READY, {0})
    assert said == [f"Trial 0 ran out of GPU memory: {numbers[GPU_MEMORY]}. It is tried once more, alone."]
    assert searcher.suggest("b")[TRIAL] == 0
    assert not trials.report("b", numbers)
    assert (record.rows[0].state, record.rows[0].epochs) == (FAIL, 1)
    assert record.rows[0].reason == f"out of GPU memory, also alone: {numbers[GPU_MEMORY]}"
    assert len(said) == 1


def test_a_worker_that_stops_before_the_last_epoch_leaves_a_pruned_trial(record):
    searcher, _ = started(record)
    searcher.on_trial_complete("a", result(2, 50.0))
    assert (record.rows[0].state, record.rows[0].epochs) == (PRUNED, 2)


def test_a_trial_that_never_reported_when_the_search_ended_is_ready(record):
    searcher, trials = started(record)
    searcher.on_trial_complete("a")
    assert (state(trials, 0), record.rows[0].state) == (READY, RUNNING)


@pytest.mark.parametrize("asha", [ASHA, PROMOTION], ids=["stops", "pauses"])
def test_a_resume_rebuilds_every_state(record, asha):
    _, trials = started(record, asha, 5)
    for lease, report in REPORTS:
        trials.report(lease, report)
    before = [state(trials, row.trial) for row in record.rows]
    record.close()
    again = StudyRecord.resume(record.folder, METADATA)
    rebuilt = make(again, "random", asha=asha).trials
    assert [state(rebuilt, row.trial) for row in again.rows] == [
        {RUNNING: READY}.get(known, known) for known in before
    ]
    again.close()


def test_a_resume_finishes_a_trial_whose_end_a_crash_kept_out_of_the_record(record):
    number = started(record, count=2)[0].trials.leases["b"]
    for epoch in range(1, BASE.max_epochs + 1):
        record.report(number, result(epoch, 5.0))  # without the lifecycle
    record.close()
    again = StudyRecord.resume(record.folder, METADATA)
    trials = make(again, "random", asha=ASHA).trials
    assert again.rows[number].state == COMPLETE
    assert trials.in_state(READY) == [0]
    again.close()


class BestFirst:
    """A scheduler that frees the worker after most epochs, and resumes the best paused trial once three are known."""

    proposes = False
    basis = None

    def __init__(self):
        self.losses = {}
        self.decided = []

    def open(self, space, num_samples):
        pass

    def begin(self, trial, values):
        pass

    def proposal(self):
        return None

    def decide(self, trial, epoch, loss):
        self.decided.append((trial, epoch))
        if epoch < BASE.max_epochs:
            self.losses[trial] = loss
        return CONTINUE if epoch in (2, 6) else PAUSE

    def next_paused(self, may_open=False):
        if len({trial for trial, _ in self.decided} | self.losses.keys()) < 3 or not self.losses:
            return None
        best = min(self.losses, key=self.losses.get)
        del self.losses[best]
        return best

    def rebuild(self, rows):
        self.losses = {row.trial: row.val_loss for row in rows if row.state == RUNNING and row.reports}
        return dict.fromkeys(self.losses, PAUSE)


def test_a_scheduler_may_decide_after_every_epoch_and_resume_any_trial(record):
    def searcher_of(record, scheduler):
        return StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping(), scheduler, num_samples=3)

    def train(searcher, reports, names):
        while reports and isinstance(handed := searcher.suggest(name := next(names)), dict):
            for epoch in itertools.count(handed["epochs"] + 1):
                report, reports = result(epoch, 10.0 * (3 - handed[TRIAL]) + 1 / epoch), reports - 1
                goes_on = searcher.trials.report(name, report)
                searcher.on_trial_result(name, report)
                if not goes_on:
                    searcher.on_trial_complete(name, report)
                    break

    names = map(str, itertools.count())
    first = BestFirst()
    train(searcher_of(record, first), 7, names)
    assert first.decided == [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5)]  # each report once
    record.close()
    again = StudyRecord.resume(record.folder, METADATA)
    second = BestFirst()
    searcher = searcher_of(again, second)
    assert searcher.trials.in_state(PAUSED) == [0, 1, 2]
    train(searcher, 99, names)
    assert second.decided[:4] == [(2, epoch) for epoch in range(6, 10)]
    assert [(row.state, row.epochs) for row in again.rows] == [(COMPLETE, 9)] * 3
    again.close()
