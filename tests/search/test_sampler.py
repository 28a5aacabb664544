"""Proposals in spaces so small that a sampler repeats itself: each configuration once, then repeats, never an end."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.config.space import Space
from vae_tune.search.sampler import configuration_key, count_configurations, make_sampler

SMALL = {
    "a": CategoricalDistribution(["linear", "relu", "gelu"]),
    "b": IntDistribution(2, 8, step=3),
    "c": FloatDistribution(0.1, 0.3, step=0.1),
    "d": IntDistribution(5, 5),
}


def propose(study, sampler, number, known, space=SMALL):
    study.sampler = make_sampler(sampler, 0, number, Space(space), known)
    trial = study.ask(space)
    study.tell(trial, float(number % 5))
    return trial.params


SMALLER = SMALL | {"a": CategoricalDistribution(["linear", "relu"]), "b": IntDistribution(2, 5, step=3)}
"""For the dear one: its first ten proposals are random."""


@pytest.mark.parametrize(
    ("sampler", "space", "count"),
    [
        ("tpe", SMALL, 27),
        ("random", SMALL, 27),
        ("qmc", SMALL, 27),
        ("gp", SMALLER, 12),
        ("cmaes", SMALL, 27),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_configuration_of_a_small_space_is_proposed_once_and_then_some_again(sampler, space, count):
    study, known = optuna.create_study(), set()
    assert count_configurations(Space(space)) == count
    for number in range(count):
        key = configuration_key(space, propose(study, sampler, number, known, space))
        assert key not in known
        known.add(key)
    assert configuration_key(space, propose(study, sampler, count, known, space)) in known


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_what_is_given_of_a_trial_stays_and_the_rest_is_new(sampler):
    study, known = optuna.create_study(), set()
    for number in range(9):
        study.enqueue_trial({"b": 5})
        params = propose(study, sampler, number, known)
        assert params["b"] == 5
        assert configuration_key(SMALL, params) not in known
        known.add(configuration_key(SMALL, params))
    study.enqueue_trial({"b": 5})
    assert propose(study, sampler, 9, known)["b"] == 5  # all nine are known


def test_a_step_that_no_binary_number_holds_makes_no_other_configuration():
    assert configuration_key(SMALL, {"a": "relu", "b": 2, "c": 0.1 + 2 * 0.1, "d": 5}) == configuration_key(
        SMALL, {"a": "relu", "b": 2, "c": 0.3, "d": 5}
    )


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_continuous_space_is_asked_again_until_it_is_new(sampler):
    space = {"x": FloatDistribution(0, 1), "y": IntDistribution(1, 2)}
    before, again = optuna.create_study(), optuna.create_study()
    known = {configuration_key(space, propose(before, sampler, number, set(), space)) for number in range(8)}
    fresh = {configuration_key(space, propose(again, sampler, number, known, space)) for number in range(8)}
    assert len(fresh) == 8
    assert not known & fresh
