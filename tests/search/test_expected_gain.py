"""Expected gains against numerical integration and simulation; what a chooser offers."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.search import expected_gain
from vae_tune.search.expected_gain import INITIAL, NEW, Chooser, Known, _plan_values, expected_improvement

LAST = 10


def loss(place, epoch):
    """A made-up loss that falls with the epochs to a minimum in the middle of the cube."""
    return 100 + 40 * float(np.sum((place - 0.5) ** 2)) + 30 / epoch


def known(chooser, lengths, **states):
    """Return trials of the initial sequence with so many epochs each, reported one after another."""
    trials, order = [], 0
    for number, length in enumerate(lengths):
        place = chooser.anywhere(number)
        orders = [order := order + 1 for _ in range(length)]
        losses = [loss(place, epoch) for epoch in range(1, length + 1)]
        trials.append(Known(number, place, losses, orders, **states.get(str(number), {})))
    return trials


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.3), (2.0, 1.0), (-3.0, 0.1), (3.0, 0.01)])
def test_the_expected_improvement_is_its_integral(mean, deviation):
    best = 4.0
    integral, _ = quad(lambda z: max(0.0, best - np.exp(z)) * norm.pdf(z, mean, deviation), -15, 15, points=[mean])
    found = expected_improvement(best, np.array([mean]), np.array([deviation**2]))[0]
    assert found == pytest.approx(integral, abs=1e-7)


def test_the_value_of_a_plan_is_that_of_simulated_plans():
    best, mean, variance, learned, left, price = 4.0, 1.5, 0.36, 0.3, 9, 2.0
    random = np.random.default_rng(0)
    then = mean + np.sqrt(learned) * random.normal(size=200_000)
    final = then + np.sqrt(variance - learned) * random.normal(size=len(then))
    simulated = []
    for threshold in np.quantile(then, np.linspace(0.02, 1, 50)):
        goes_on = then <= threshold
        gains = np.where(goes_on, np.maximum(0.0, best - np.exp(final)), 0.0)
        simulated.append(gains.mean() / (price + 1 + (left - 1) * goes_on.mean()))
    arrays = [np.array([value]) for value in (mean, variance, learned, left, price)]
    assert _plan_values(best, *arrays)[0] == pytest.approx(max(simulated), rel=0.02)


def test_an_epoch_that_tells_nothing_makes_a_plan_as_good_as_training_to_the_end():
    mean, variance, left, price = (np.array([value]) for value in (1.0, 0.5, 6, 0.0))
    expected = expected_improvement(4.0, mean, variance) / 6
    assert _plan_values(4.0, mean, variance, np.array([1e-12]), left, price) == pytest.approx(expected)


def test_it_offers_paused_trials_and_new_configurations_but_no_running_complete_or_diverged_one():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    states = {"1": {"is_running": True}, "2": {"has_diverged": True}}
    options = chooser.options(known(chooser, [LAST, 3, 2, 1, 4], **states), may_open=True)
    assert set(options.numbers) == {3, 4, NEW}
    assert np.isfinite(options.per_epoch).all()
    assert (options.gains >= 0).all()
    assert set(chooser.options(known(chooser, [LAST, 3, 2, 1, 4], **states), may_open=False).numbers) == {3, 4}


def test_there_is_nothing_to_choose_before_a_report_or_without_a_trial_to_go_on():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    assert chooser.options(known(chooser, [0, 0]), may_open=True) is None
    assert chooser.options(known(chooser, [LAST, LAST]), may_open=False) is None


def test_trials_are_chosen_by_wider_variances_than_those_of_the_gains(monkeypatch):
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    trials = known(chooser, [LAST, LAST - 1, *[3] * 9])
    options = chooser.options(trials, may_open=False)
    one_left = options.numbers == 1
    assert options.per_epoch[one_left] > options.gains[one_left]
    monkeypatch.setattr(expected_gain, "CAUTION", 1.0)
    again = chooser.options(trials, may_open=False)
    assert again.per_epoch[one_left] == pytest.approx(again.gains[one_left])
    assert (again.gains == options.gains).all()


def test_a_new_configuration_is_charged_a_whole_training_more(monkeypatch):
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    trials = known(chooser, [LAST, *[3] * 9])
    charged = chooser.options(trials, may_open=True)
    monkeypatch.setattr(expected_gain, "PRICE", 0.0)
    ratio = charged.per_epoch / chooser.options(trials, may_open=True).per_epoch
    is_new = charged.numbers == NEW
    assert (ratio[~is_new] == 1).all()
    assert ratio[is_new].min() >= 1 / (1 + LAST) - 1e-9
    assert ratio[is_new].max() <= LAST / (2 * LAST) + 1e-9


def test_of_two_trials_as_long_the_better_one_promises_more():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    trials = known(chooser, [LAST, *[3] * 9])
    options = chooser.options(trials, may_open=False)
    best = min(trials[1:], key=lambda trial: trial.losses[-1])
    assert options.numbers[options.best] == best.number


def test_a_running_trial_keeps_new_ones_from_its_place():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    trials, corner = known(chooser, [LAST, *[3] * 9]), np.array([0.05, 0.95, 0.05])
    running = [Known(20, corner, [], [], is_running=True)]
    gains = [
        chooser._model([*trials, *others]).value(np.array([NEW]), corner[None] + 0.01, np.array([0]))[3][0]
        for others in ([], running)
    ]
    assert gains[1] < 0.8 * gains[0]


def test_after_many_complete_trials_new_configurations_are_sought_near_the_best():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    options = chooser.options(known(chooser, [LAST] * 40), may_open=True)
    assert np.linalg.norm(options.places[options.best] - 0.5) < 0.25


def test_a_choice_follows_from_seed_and_reports_whatever_was_asked_before():
    trials = known(Chooser(DEFAULT_SPACE, LAST, seed=3), [LAST, 3, 2, 1, 4, 5, 1, 1])
    one, other = Chooser(DEFAULT_SPACE, LAST, seed=3), Chooser(DEFAULT_SPACE, LAST, seed=3)
    other.options(trials[:4], may_open=True)
    first, again = (chooser.options(trials, may_open=True) for chooser in (one, other))
    assert (first.per_epoch == again.per_epoch).all()
    assert (first.places == again.places).all()
    assert (Chooser(DEFAULT_SPACE, LAST, seed=4).anywhere(1) != one.anywhere(1)).any()


def test_after_the_initial_configurations_one_in_three_is_anywhere():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    assert [chooser.is_initial(number) for number in (1, INITIAL, INITIAL + 1)] == [True, True, False]
    assert [number - INITIAL for number in range(INITIAL + 1, 20) if chooser.is_anywhere(number)] == [3, 6, 9]


def test_the_outlook_is_between_nothing_and_all_and_worth_is_a_thousandth_of_the_spread():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    trials = known(chooser, [LAST] * 12 + [4] * 6)
    mean, most = chooser.outlook(trials)
    assert 0 <= mean <= most < 40
    assert chooser.outlook(known(chooser, [LAST] * 12)) == (0.0, 0.0)
    finals = [loss(trial.place, LAST) for trial in trials]
    assert chooser.options(trials, may_open=False).worth == pytest.approx(
        (np.median(finals) - min(finals)) / 1000, rel=0.2
    )


def test_of_a_thousand_trials_a_part_is_used():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    random = np.random.default_rng(0)
    places = chooser.cube.snap(random.random((1000, 3)))
    trials = [Known(n, place, [loss(place, 1)], [n + 1]) for n, place in enumerate(places)]
    options = chooser.options(trials, may_open=True)
    assert len(options.numbers) > 1000
    assert np.linalg.norm(options.places[options.best] - 0.5) < 0.4


def test_losses_may_be_negative_and_of_any_scale():
    chooser = Chooser(DEFAULT_SPACE, LAST, seed=0)
    trials = known(chooser, [LAST, *[3] * 9])
    picks = []
    for factor, shift in ((1.0, 0.0), (1e-3, -5.0), (1e4, 0.0)):
        moved = [Known(t.number, t.place, [factor * x + shift for x in t.losses], t.orders) for t in trials]
        options = chooser.options(moved, may_open=True)
        picks.append((options.numbers[options.best], *options.places[options.best]))
        assert options.gains.max() < 60 * factor
    assert picks[0] == picks[1] == picks[2]
