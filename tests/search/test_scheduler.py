import math
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from vae_tune.config.names import EPOCH, ORDER, TRIAL, VAL_LOSS
from vae_tune.record.trials import TrialRow
from vae_tune.search.scheduler import Asha, Rungs, replay


def test_the_first_trial_at_a_rung_goes_on():
    assert Rungs([1, 3], reduction_factor=3).promotes(1, 1, 200.0)


def test_with_fewer_trials_than_the_reduction_factor_only_the_best_so_far_goes_on():
    rungs = Rungs([1], reduction_factor=3)
    assert rungs.promotes(1, 1, 100.0)
    assert not rungs.promotes(2, 1, 101.0)
    assert rungs.promotes(3, 1, 99.0)


def test_one_in_reduction_factor_passes_by_rank_among_all_seen():
    # A hand-worked stream at one rung: after n losses the best n // 3 pass (at least one).
    losses = [9.0, 8.0, 7.0, 6.5, 7.5, 6.8, 6.9, 6.6, 6.7]
    # n:       1    2    3    4    5    6    7    8    9   quota 1 1 1 1 1 2 2 2 3
    passes = [True, True, True, True, False, True, False, True, True]
    rungs = Rungs([1], reduction_factor=3)
    assert [rungs.promotes(trial, 1, loss) for trial, loss in enumerate(losses)] == passes


def test_between_rungs_every_trial_goes_on():
    rungs = Rungs([1, 3], reduction_factor=3)
    rungs.promotes(1, 1, 1.0)
    assert rungs.promotes(2, 2, 1e9)


def test_a_trial_that_comes_back_from_a_checkpoint_is_not_judged_again():
    rungs = Rungs([1], reduction_factor=2)
    assert rungs.promotes(1, 1, 5.0)
    assert rungs.promotes(2, 1, 4.0)
    assert rungs.promotes(1, 1, 5.0)
    assert not rungs.promotes(3, 1, 4.5)  # the repeated report did not count twice


def _decide(scheduler, trial, epoch, loss):
    return scheduler.on_trial_result(None, SimpleNamespace(config={TRIAL: trial}), {EPOCH: epoch, VAL_LOSS: loss})


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_stops_the_trial_at_once_even_the_reference(loss):
    scheduler = Asha(Rungs([], 3), max_epochs=10)
    assert _decide(scheduler, 0, 2, loss) == TrialScheduler.STOP
    assert _decide(scheduler, 5, 2, loss) == TrialScheduler.STOP


def test_a_trial_ends_at_max_epochs():
    scheduler = Asha(Rungs([1], 3), max_epochs=4)
    assert _decide(scheduler, 1, 3, 5.0) == TrialScheduler.CONTINUE
    assert _decide(scheduler, 1, 4, 5.0) == TrialScheduler.STOP


def test_the_reference_is_never_stopped_early_but_counts_in_the_rung():
    scheduler = Asha(Rungs([1], 3), max_epochs=4)
    assert _decide(scheduler, 1, 1, 5.0) == TrialScheduler.CONTINUE
    assert _decide(scheduler, 0, 1, 9.0) == TrialScheduler.CONTINUE
    assert _decide(scheduler, 2, 1, 4.0) == TrialScheduler.CONTINUE
    assert _decide(scheduler, 3, 1, 4.5) == TrialScheduler.STOP


def test_replaying_the_reports_in_their_order_repeats_every_decision():
    stream = [(1, 1, 9.0), (2, 1, 8.0), (1, 2, 7.0), (3, 1, 8.5), (2, 2, 6.0), (1, 3, 5.0), (4, 1, 7.9), (2, 3, 5.5)]
    live = Asha(Rungs([1, 3], 2), max_epochs=5)
    decisions = {trial: live.goes_on(trial, epoch, loss) for trial, epoch, loss in stream}
    reports: dict[int, list[dict]] = {}
    for order, (trial, epoch, loss) in enumerate(stream):
        reports.setdefault(trial, []).append({EPOCH: epoch, VAL_LOSS: loss, ORDER: order})
    rows = [TrialRow(trial, {}, "", reports=tuple(mine)) for trial, mine in sorted(reports.items(), reverse=True)]
    assert replay(Asha(Rungs([1, 3], 2), max_epochs=5), rows) == decisions == {1: True, 2: False, 3: False, 4: True}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({4: "RUNNING", 7: "PENDING", 5: "PENDING", 1: "PAUSED"}, 5),
        ({4: "RUNNING", 7: "PAUSED", 6: "PAUSED"}, 6),
        ({4: "RUNNING"}, None),
    ],
)
def test_the_next_trial_to_start_is_the_first_that_waits_then_the_first_that_is_paused(states, expected):
    trials = [SimpleNamespace(status=status, config={TRIAL: number}) for number, status in states.items()]
    chosen = Asha(Rungs([1], 2), 3).choose_trial_to_run(SimpleNamespace(get_live_trials=lambda: trials))
    assert (chosen and chosen.config[TRIAL]) == expected
