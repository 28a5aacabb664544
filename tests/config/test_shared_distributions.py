"""Distributions that a study's trials share: one object for all, and no other space for TPE than Optuna's own."""

import random
from unittest import mock

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.search_space import IntersectionSearchSpace, intersection
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, _storage
from optuna.trial import TrialState

from vae_tune.config.compat.optuna import share_distributions

X, Y, WIDER = FloatDistribution(0, 1), FloatDistribution(0, 1), FloatDistribution(0, 2)
SPACES = [{"x": X, "y": Y}, {"x": X}, {"x": X, "y": WIDER}]


@pytest.fixture
def shared(monkeypatch):
    """Patch Optuna as it is without the package, whatever was imported before; return its own function."""
    own = getattr(intersection._calculate, "args", (intersection._calculate,))[0]
    monkeypatch.setattr(intersection, "_calculate", own)
    monkeypatch.setattr(_storage, "json_to_distribution", optuna.distributions.json_to_distribution)
    share_distributions()
    return own


@pytest.mark.parametrize("include_pruned", [True, False])
def test_the_space_that_trials_share_is_optunas_own_in_any_history(shared, include_pruned):
    choose = random.Random(0)
    found = set()
    for _ in range(200):
        study = optuna.create_study(storage=InMemoryStorage())
        spaces = [IntersectionSearchSpace(include_pruned) for _ in range(2)]
        for _ in range(choose.randrange(9)):
            trial = study.ask(choose.choice([SPACES[0], *SPACES]))
            if (state := choose.choice([*TrialState, TrialState.COMPLETE])).is_finished():
                study.tell(trial, 1.0 if state == TrialState.COMPLETE else None, state)
            fast = spaces[0].calculate(study)
            with mock.patch.object(intersection, "_calculate", shared):
                assert fast == spaces[1].calculate(study)
            found.add(tuple(fast))
    assert found == {(), ("x",), ("x", "y")}


def test_trials_with_the_space_of_a_later_one_are_not_looked_at(shared):
    study = optuna.create_study(storage=InMemoryStorage())
    for number in range(50):
        study.tell(study.ask(SPACES[0] if number else SPACES[1]), 1.0)
    looked_at = []
    with mock.patch.object(intersection, "_calculate", intersection._calculate.func):
        intersection._calculate(lambda trials, *_: looked_at.extend(trials), study.trials, True)
    assert [trial.number for trial in looked_at] == [0, 49]


def test_equal_distributions_of_a_journal_are_one_object(shared, tmp_path):
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    study = optuna.create_study(storage=storage)
    for _ in range(2):
        study.ask(SPACES[0])
    first, second = (trial.distributions for trial in storage.get_all_trials(0, deepcopy=False))
    assert first == second == SPACES[0]
    assert first["x"] is second["x"]
