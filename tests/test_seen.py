"""What a sampler is shown of a long history, and that a short one is shown whole."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState, create_trial

from vae_tune import seen
from vae_tune.seen import seen_study


def history(count):
    """A study with every third trial complete, the others pruned after one or two epochs; the best are old and new."""
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), study_name="s")
    shown = seen_study("s", study._storage)
    for number in range(count):
        x = number * 0.618 % 1
        state = TrialState.PRUNED if number % 3 else TrialState.COMPLETE
        steps = {1: x} if number % 2 else {1: x, 2: x}
        study.add_trial(
            create_trial(
                state=state,
                value=x if state == TrialState.COMPLETE else None,
                params={"x": x},
                distributions={"x": FloatDistribution(0, 1)},
                intermediate_values=steps,
            )
        )
    return study, shown


def numbers(study, **how):
    return [trial.number for trial in study.get_trials(deepcopy=False, **how)]


@pytest.fixture
def few(monkeypatch):
    """Make a history of 40 a long one."""
    monkeypatch.setattr(seen, "MOST", 40)
    monkeypatch.setattr(seen, "_BEST", 30)


def test_a_short_history_is_shown_whole_and_a_long_one_by_its_best_and_its_newest_trials(few):
    assert numbers(history(40)[1]) == list(range(40))
    study, shown = history(300)
    running = study.ask()
    kept = numbers(shown)
    assert kept[-11:] == [*range(290, 300), running.number]
    complete = sorted((trial for trial in study.trials if trial.value is not None), key=lambda trial: trial.value)
    assert {trial.number for trial in complete[:30]} <= set(kept)
    assert len(kept) <= 41


def test_tpe_takes_the_same_trials_for_its_good_ones(few):
    study, shown = history(300)
    good = [
        _split_trials(place, place.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)), 25)[0]
        for place in (study, shown)
    ]
    assert numbers_of(good[0]) == numbers_of(good[1])


def numbers_of(trials):
    return [trial.number for trial in trials]


def test_what_is_shown_does_not_depend_on_when_it_was_asked_for_before(few):
    study, asked_often = history(0)
    for trial in history(120)[0].trials:
        study.add_trial(trial)
        numbers(asked_often)
    assert numbers(asked_often) == numbers(seen_study("s", study._storage))


def test_a_trial_that_waits_or_runs_is_never_forgotten(few):
    study, shown = history(0)
    running = study.ask()
    for trial in history(120)[0].trials:
        study.add_trial(trial)
    study.enqueue_trial({"x": 0.5})
    numbers(shown)
    assert running.number in numbers(shown)
    assert numbers(shown, states=(TrialState.WAITING,)) == [121]


def test_a_suggestion_from_a_short_history_is_optunas_own():
    study, shown = history(60)
    drawn = []
    for place in (study, shown):
        place.sampler = TPESampler(seed=3)
        trial = place.ask()
        drawn.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, state=TrialState.FAIL)
    assert drawn[0] == drawn[1]
