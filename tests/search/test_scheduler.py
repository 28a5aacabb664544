import math
from types import SimpleNamespace

import pytest

from vae_tune.config.names import EPOCH, ORDER, TRIAL, VAL_LOSS
from vae_tune.config.settings import AshaConfig
from vae_tune.record.trials import TrialRow
from vae_tune.search.asha import Asha, reports_in_order
from vae_tune.search.callbacks import ReportsToLifecycle
from vae_tune.search.scheduler import CONTINUE, STOP


def asha(reduction_factor, max_epochs=9, grace_period=1):
    return Asha(AshaConfig(reduction_factor=reduction_factor, grace_period=grace_period), max_epochs)


def goes_on(scheduler, *report):
    return scheduler.decide(*report) == CONTINUE


def test_the_first_trial_at_a_rung_goes_on():
    assert goes_on(asha(3), 1, 1, 200.0)


def test_with_fewer_trials_than_the_reduction_factor_only_the_best_so_far_goes_on():
    scheduler = asha(3)
    assert goes_on(scheduler, 1, 1, 100.0)
    assert not goes_on(scheduler, 2, 1, 101.0)
    assert goes_on(scheduler, 3, 1, 99.0)


def test_one_in_reduction_factor_passes_by_rank_among_all_seen():
    # A hand-worked stream at one rung: after n losses the best n // 3 pass (at least one).
    losses = [9.0, 8.0, 7.0, 6.5, 7.5, 6.8, 6.9, 6.6, 6.7]
    # n:       1    2    3    4    5    6    7    8    9   quota 1 1 1 1 1 2 2 2 3
    passes = [True, True, True, True, False, True, False, True, True]
    scheduler = asha(3)
    assert [goes_on(scheduler, trial, 1, loss) for trial, loss in enumerate(losses, start=1)] == passes


def test_equal_losses_pass_together():
    scheduler = asha(2)
    assert [goes_on(scheduler, trial, 1, 5.0) for trial in (3, 2, 1)] == [True] * 3


def test_between_rungs_every_trial_goes_on():
    scheduler = asha(3)
    scheduler.decide(1, 1, 1.0)
    assert goes_on(scheduler, 2, 2, 1e9)


def test_a_trial_that_comes_back_from_a_checkpoint_is_not_judged_again():
    scheduler = asha(2)
    assert goes_on(scheduler, 1, 1, 5.0)
    assert goes_on(scheduler, 2, 1, 4.0)
    assert goes_on(scheduler, 1, 1, 5.0)
    assert not goes_on(scheduler, 3, 1, 4.5)  # the repeated report did not count twice


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_stops_the_trial_at_once_even_the_reference(loss):
    scheduler = Asha(AshaConfig(scheduler="none"), max_epochs=10)
    assert scheduler.decide(0, 2, loss) == STOP
    assert scheduler.decide(5, 2, loss) == STOP


def test_a_trial_ends_at_max_epochs():
    scheduler = asha(3, max_epochs=4)
    assert scheduler.decide(1, 3, 5.0) == CONTINUE
    assert scheduler.decide(1, 4, 5.0) == STOP


def test_the_reference_is_never_stopped_early_but_counts_in_the_rung():
    scheduler = asha(3)
    assert scheduler.decide(1, 1, 5.0) == CONTINUE
    assert scheduler.decide(0, 1, 9.0) == CONTINUE
    assert scheduler.decide(2, 1, 4.0) == CONTINUE
    assert scheduler.decide(3, 1, 4.5) == STOP


def test_rebuilding_from_the_record_repeats_every_decision():
    stream = [(1, 1, 9.0), (2, 1, 8.0), (1, 2, 7.0), (3, 1, 8.5), (2, 2, 6.0), (1, 4, 5.0), (4, 1, 7.9), (2, 4, 5.5)]
    live = asha(2, max_epochs=5)
    decisions = {trial: live.decide(trial, epoch, loss) for trial, epoch, loss in stream}
    reports: dict[int, list[dict]] = {}
    for order, (trial, epoch, loss) in enumerate(stream):
        reports.setdefault(trial, []).append({EPOCH: epoch, VAL_LOSS: loss, ORDER: order})
    rows = [TrialRow(trial, {}, "", reports=tuple(mine)) for trial, mine in sorted(reports.items(), reverse=True)]
    assert reports_in_order(rows) == stream
    assert asha(2, max_epochs=5).rebuild(rows) == decisions == {1: CONTINUE, 2: STOP, 3: STOP, 4: CONTINUE}


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
    chosen = ReportsToLifecycle(SimpleNamespace()).choose_trial_to_run(SimpleNamespace(get_live_trials=lambda: trials))
    assert (chosen and chosen.config[TRIAL]) == expected
