"""The measures of the comparison with other libraries, against values worked by hand."""

import math

import numpy as np
import pytest
from peer_clock import Epoch
from peer_measures import Scale, Search, cost_to_near, interval, is_near, paired_ratio, regret
from peer_results import Case, Comparison, Limits, Outcome, Results

SCALE = Scale.of(best=100.0, median=150.0)


def search(*completed, epochs=40, seconds=400.0):
    return Search([(spent, 10.0 * spent, loss) for spent, loss in completed], epochs, seconds, trials=9)


def test_a_search_is_summarized_by_its_complete_trials():
    log = [Epoch(1, 0, 1, 9.0), Epoch(2, 0, 2, 8.0), Epoch(3, 1, 1, 9.0), Epoch(5, 1, 2, math.inf)]
    assert Search.of(log, max_epochs=2) == Search([(2, 2, 8.0)], epochs=4, seconds=5, trials=2)


def test_near_is_one_percent_of_the_span_from_best_to_median():
    reached = search((10, 120.0), (20, 100.5), (30, 100.1))
    assert (cost_to_near(reached, SCALE, "epochs"), cost_to_near(reached, SCALE, "seconds")) == (20, 200.0)
    assert [is_near(reached, SCALE, epochs) for epochs in (19, 20)] == [False, True]
    assert cost_to_near(reached, Scale.of(100.0, 150.0, 0.2), "epochs") == 30


def test_never_counts_as_the_end():
    never = search((10, 100.6))
    assert (cost_to_near(never, SCALE, "epochs"), cost_to_near(never, SCALE, "seconds")) == (40, 400.0)


def test_regret_is_the_incumbents_and_at_first_that_of_the_median():
    found = search((10, 120.0), (20, 130.0), (30, 101.0))
    assert [regret(found, SCALE, epochs) for epochs in (9, 10, 25, 30)] == [50.0, 20.0, 20.0, 1.0]
    assert regret(search((10, 170.0)), SCALE, 40) == 50.0


def test_intervals_contain_the_statistic_and_shrink():
    few, many = interval(range(5)), interval(range(0, 500, 5))
    assert few[1] < few[0] == 2 < few[2]
    assert many[2] - many[1] < 0.5 * 500
    assert np.isnan(interval([3.0])[1])


def test_ratios_resample_pairs_of_the_same_seed():
    theirs = {seed: float(cost) for seed, cost in enumerate([10, 20, 40, 80, 160])}
    halved = {seed: cost / 2 for seed, cost in theirs.items()}
    assert paired_ratio(halved, theirs | {9: 1e9}) == (0.5, 0.5, 0.5)  # though the costs themselves vary
    assert paired_ratio({1: 30.0}, theirs)[0] == 1.5


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "new" / "results.jsonl")


WHOLE, CAPPED = Limits(40), Limits(40, 50)


def add(results, method, seed, found, limits=WHOLE):
    results.add(Case(method, 2, limits, seed), Outcome(found, "" if found else "exit code 1", 1.5, {"smac": "2"}))


def test_results_are_read_back(results, tmp_path):
    add(results, "smac", 0, search((20, 100.2)))
    add(results, "smac", 1, None)
    add(results, "ours", 0, search((20, 99.0)), CAPPED)
    again = Results(tmp_path / "new" / "results.jsonl")
    assert list(again.outcomes) == list(results.outcomes)
    assert again.outcomes[Case("smac", 2, WHOLE, 0)].search.trials == 9
    assert again.epochs("ours", 2, CAPPED) == 40
    assert (again.lowest(100.0), again.lowest(98.0)) == (99.0, 98.0)


def test_the_table_compares_ours_with_the_best_peer(results):
    for seed in range(4):
        add(results, "ours", seed, search((10, 100.2)))
        add(results, "slow", seed, search((30, 100.2)))
        add(results, "good", seed, search((20, 100.2)))
    add(results, "good", 4, None)
    add(results, "other limits", 0, search((1, 100.0)), CAPPED)
    table = Comparison(results, WHOLE, SCALE, {2: 25.0})
    by_name = {row[0]: row[1:5] for row in table.rows()}
    assert by_name == {
        "2 workers, good": ["4, 1 failed", "20 (20 to 20)", "100%", "0.20 (0.20 to 0.20)"],
        "2 workers, ours": ["4", "10 (10 to 10)", "100%", "0.20 (0.20 to 0.20)"],
        "2 workers, slow": ["4", "30 (30 to 30)", "0%", "50.00 (50.00 to 50.00)"],
    }
    (remark,) = table.remarks()
    assert "25 epochs" in remark
    assert "ours / good (the best peer): 0.50 (0.50 to 0.50)" in remark
