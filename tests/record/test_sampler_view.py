"""What a sampler is shown: what is expected of trials that did not come to the end; of a long history, a part."""

import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from vae_tune.config.compat.optuna import trial_id
from vae_tune.record import sampler_view as seen
from vae_tune.record.journal import Journal, UtcStorage
from vae_tune.record.sampler_view import SET_ASIDE, sampler_view


def history(count):
    """A study with every third trial complete, the others pruned after one or two epochs; the best are old and new."""
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), study_name="s")
    shown = sampler_view("s", study._storage)
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


def test_trials_on_their_way_are_shown_with_what_is_expected_of_them():
    study, shown = history(0)
    curves = {  # of 3 epochs; changes to epoch 2 are -20, -30, -100 (median and mean differ), then -4 and -6
        TrialState.COMPLETE: [(200.0, 170.0, 164.0), (150.0, 130.0, 126.0)],
        TrialState.PRUNED: [(180.0, 80.0), (300.0,)],
    }
    for state, losses in curves.items():
        for curve in losses:
            values = dict(enumerate(curve, start=1))
            value = curve[-1] if state == TrialState.COMPLETE else None
            some = {"params": {"x": 0.5}, "distributions": {"x": FloatDistribution(0, 1)}}
            study.add_trial(create_trial(state=state, value=value, intermediate_values=values, **some))
    running, silent = study.ask(), study.ask()
    running.suggest_float("x", 0, 1)
    running.report(160.0, 1)
    seen = shown.get_trials()
    assert [trial.value for trial in seen] == [164.0, 126.0, 80.0 - 5, 300.0 - 30 - 5, 160.0 - 30 - 5, None]
    assert [trial.state.name for trial in seen] == ["COMPLETE"] * 5 + ["RUNNING"]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2 + ["PRUNED"] * 2 + ["RUNNING"] * 2
    assert silent.number == 5


def test_what_is_shown_does_not_depend_on_when_it_was_asked_for_before(few):
    study, asked_often = history(0)
    for trial in history(120)[0].trials:
        study.add_trial(trial)
        numbers(asked_often)
    assert numbers(asked_often) == numbers(sampler_view("s", study._storage))


def test_a_trial_that_was_paused_and_wins_later_is_seen_as_after_a_resume(few):
    storage = optuna.storages.InMemoryStorage()
    truth = optuna.create_study(storage=storage, study_name="s")
    live = sampler_view("s", storage)
    paused = live.ask({"x": FloatDistribution(0, 1)})
    paused.report(50.0, 1)
    paused.set_user_attr(SET_ASIDE, 1)
    for number in range(1, 100):
        trial = live.ask({"x": FloatDistribution(0, 1)})
        trial.report(10.0 + number % 7, 1)
        truth.tell(trial, 9.0 + number % 5 if number % 3 else None, None if number % 3 else TrialState.PRUNED)
        if number == 80:
            paused.set_user_attr(SET_ASIDE, 0)
            truth.tell(paused, 1.0)
        now = [trial.number for trial in live.get_trials()]
        assert now == [trial.number for trial in sampler_view("s", storage).get_trials()]
        assert number < 80 or 0 in now
    assert len(now) < 100


@pytest.mark.parametrize("journal", [True, False])
def test_what_is_shown_is_what_a_fresh_view_shows_after_every_kind_of_change(monkeypatch, tmp_path, journal):
    """A storage is asked several times between two changes, of which each is the smallest that there is."""
    monkeypatch.setattr(seen, "MOST", 12)
    monkeypatch.setattr(seen, "_BEST", 8)
    (file := Journal(tmp_path / "journal")).open()
    storage = UtcStorage(file) if journal else optuna.storages.InMemoryStorage()
    truth = optuna.create_study(storage=storage, study_name="s")
    live = sampler_view("s", storage)
    choose = random.Random(0)
    running = []

    def same():
        for states in (None, (TrialState.WAITING,), (TrialState.COMPLETE, TrialState.RUNNING), None):
            fresh = sampler_view("s", storage).get_trials(deepcopy=False, states=states)
            assert list(map(vars, live.get_trials(deepcopy=False, states=states))) == list(map(vars, fresh))

    for _ in range(40):
        running.append(live.ask({"x": FloatDistribution(0, 1)}))
        same()
        for trial in choose.sample(running, k=min(3, len(running))):
            epoch = len(storage.get_trial(trial_id(trial)).intermediate_values) + 1
            trial.report(choose.random(), epoch)
            same()
            if choose.random() < 0.5:
                trial.set_user_attr(SET_ASIDE, choose.choice([0, epoch]))
                same()
            elif choose.random() < 0.5:
                running.remove(trial)
                state = choose.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
                truth.tell(trial, choose.random() if state == TrialState.COMPLETE else None, state)
                same()
    assert len(truth.trials) == 40 > len(live.get_trials()) > 12
    file.close()


def test_a_trial_that_waits_or_runs_is_never_forgotten(few):
    study, shown = history(0)
    running = study.ask()
    for trial in history(120)[0].trials:
        study.add_trial(trial)
    study.enqueue_trial({"x": 0.5})
    numbers(shown)
    assert running.number in numbers(shown)
    assert numbers(shown, states=(TrialState.WAITING,)) == [121]


def test_a_reference_outside_of_the_space_leaves_tpe_proposing_hyperparameters_together():
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), study_name="s")
    shown = sampler_view("s", study._storage)
    reference = study.ask()
    reference.report(120.0, 1)  # it has no values of the space, and its expected loss counts while it runs
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    for value in (0.1, 0.5, 0.9):
        study.add_trial(create_trial(value=value, params={"x": value, "y": value}, distributions=space))
    sampler = optuna.samplers.TPESampler(n_startup_trials=1)
    for tell in (lambda: None, lambda: study.tell(reference, 110.0)):
        tell()
        assert [trial.number for trial in shown.get_trials(states=[TrialState.COMPLETE])] == [1, 2, 3]
        assert sampler.infer_relative_search_space(shown, study.trials[-1]) == space
