"""Curves of spaces with several models, and of trials that diverged."""

import io
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.curves import write_curves
from tests.studies import hand_made, make_study
from vae_tune import load_study
from vae_tune.cli.replay import ReplayOptions
from vae_tune.config.errors import UsageError
from vae_tune.config.names import COMPLETE, FAIL, PRUNED
from vae_tune.config.settings import AshaConfig
from vae_tune.config.space import Space
from vae_tune.replay import forecast as module
from vae_tune.replay.curves import Tabular, load_curves, places
from vae_tune.replay.forecast import forecast
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import simulate
from vae_tune.replay.surrogate import Surrogate
from vae_tune.tasks.replay import replay
from vae_tune.views.console import make_console

MODELS = Space(
    {
        "model": CategoricalDistribution(["mlp", "conv"]),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "hidden_width": IntDistribution(64, 1024, log=True),
        "model.channels": IntDistribution(8, 64),
        "model.blocks": IntDistribution(0, 2),
    },
    conditions={"hidden_width": ("mlp",), "model.channels": ("conv",), "model.blocks": ("conv",)},
)
MLP = {"model": "mlp", "learning_rate": 1e-3, "hidden_width": 400}
CONV = {"model": "conv", "learning_rate": 1e-3, "model.channels": 36, "model.blocks": 1}


def conv(channels, losses, **more):
    return {"losses": losses, "values": {**CONV, "model.channels": channels}, **more}


def mixed(folder, *trials):
    return hand_made(folder, {"losses": [9.0, 8.0, 7.0]}, *trials, space=MODELS)


def test_a_trial_has_the_hyperparameters_of_its_model_and_whole_numbers_stay_whole(tmp_path):
    study = mixed(tmp_path / "s", conv(16, [5.0, 4.0, 3.0]))
    for curves in (load_curves(study.folder), load_curves(write_curves(study.folder, tmp_path / "t").parent)):
        assert curves.values == (MLP, {**CONV, "model.channels": 16})
        assert isinstance(curves.values[1]["model.channels"], int)
        assert curves.space == MODELS
        assert curves.losses.tolist() == [[9, 8, 7], [5, 4, 3]]


def test_a_place_has_its_middle_where_the_model_has_no_such_hyperparameter():
    assert places(MODELS, [MLP, CONV])[:, 4].tolist() == [0.5, 0.5]
    assert places(MODELS, [MLP, CONV])[:, :2].tolist() == [[1, 0], [0, 1]]
    assert places(MODELS, [CONV, {**CONV, "model.channels": 64}])[:, 4].tolist() == [0.5, 1]


def test_a_configuration_gets_a_curve_of_its_own_model(tmp_path):
    fast = {"losses": [6.0, 6.0, 6.0], "values": {**MLP, "learning_rate": 1e-2, "hidden_width": 256}}
    slow = {**CONV, "learning_rate": 1e-4, "model.channels": 8, "model.blocks": 0}
    study = mixed(tmp_path / "s", fast, {"losses": [5.0, 4.0, 3.0], "values": slow})
    source = Tabular(load_curves(study.folder))
    largest = {**CONV, "learning_rate": 1e-2, "model.channels": 64, "model.blocks": 2}
    mlp, conv = (np.linalg.norm(np.diff(places(MODELS, [largest, other]), axis=0)) for other in (fast["values"], slow))
    assert mlp < conv
    assert source.curve(largest).losses.tolist() == [5, 4, 3]
    assert source.curve({**MLP, "learning_rate": 9e-3, "hidden_width": 900}).losses.tolist() == [6, 6, 6]


def test_each_model_needs_a_whole_curve(tmp_path):
    study = mixed(tmp_path / "s", conv(16, [5.0], state=PRUNED))
    with pytest.raises(UsageError, match="no whole curve of conv, which a replay needs"):
        Tabular(load_curves(study.folder))


def test_a_search_of_models_is_replayed_on_both_kinds_of_curves(tmp_path):
    curves = load_curves(make_study(tmp_path / "s", trials=40, space=MODELS, scheduler="none", failed=0.0))
    for source in (Tabular(curves), Surrogate(curves)):
        trials = simulate(source, Setting("tpe", AshaConfig(), 2), 30, 0)
        assert {trial.values["model"] for trial in trials} == {"mlp", "conv"}
        assert all(MODELS.is_complete(trial.values) for trial in trials)
        assert {COMPLETE, PRUNED} == {trial.state for trial in trials}


def test_a_search_of_models_ends_with_a_forecast(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MORE", 8)
    monkeypatch.setattr(module, "_REPEATS", 3)
    study = load_study(make_study(tmp_path / "s", trials=40, space=MODELS, scheduler="none", failed=0.0))
    findings = [str(finding) for finding in forecast(study, 60)]
    assert any(sentence.startswith("8 more trials are expected to gain ") for sentence in findings), findings
    assert any("The recorded trials replayed: reduction factor 2 (" in sentence for sentence in findings), findings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "gp"}, "--sampler gp cannot search options that only some models have"),
        ({"sampler": "tpe", "bridge": "stock"}, "--bridge stock cannot search options that only some models have"),
    ],
)
def test_what_cannot_search_models_is_refused_in_a_replay(tmp_path, options, message):
    folder = make_study(tmp_path / "s", trials=8, space=MODELS, scheduler="none", failed=0.0)
    settings = ReplayOptions(source=folder, **options).settings
    with pytest.raises(UsageError, match=message):
        replay(folder, settings, seeds=[0], curves="tabular", console=make_console(file=io.StringIO()))


def diverging(folder):
    """A study in which large learning rates diverge in epoch 2; losses are negative."""
    trials = [
        {"losses": [-1.0], "values": {"learning_rate": 9e-3}, "state": FAIL, "diverged": True, "reason": "diverged"},
        {"losses": [-3.0, -4.0, -5.0], "values": {"learning_rate": 2e-4}},
        {"losses": [-2.0], "state": FAIL, "reason": "out of memory"},
    ]
    return hand_made(folder, {"losses": [-1.0, -2.0, -3.0]}, *trials)


def test_a_table_holds_the_divergence_that_the_study_recorded(tmp_path):
    study = diverging(tmp_path / "s")
    curves = load_curves(write_curves(study.folder, tmp_path / "t").parent)
    np.testing.assert_array_equal(curves.losses, load_curves(study.folder).losses)
    np.testing.assert_array_equal(curves.losses[1], [-1, np.inf, np.nan])
    assert len(curves.values) == 3
    assert Tabular(curves).best == -5


def test_a_proposal_near_a_diverged_configuration_diverges(tmp_path):
    source = Tabular(load_curves(diverging(tmp_path / "s").folder))
    near = {**source.curves.values[0], "learning_rate": 8e-3}
    assert source.curve(near).losses.tolist() == [-1, np.inf, np.inf]
    trials = simulate(source, Setting("random", AshaConfig(scheduler="none"), 2), 20, 0)
    failed = [trial for trial in trials if trial.state == FAIL]
    assert failed
    assert all(trial.epochs == 2 and trial.final_loss == np.inf for trial in failed)


def test_the_best_of_searches_with_diverged_trials_is_known(tmp_path):
    folder, text = diverging(tmp_path / "s").folder, io.StringIO()
    settings = ReplayOptions(source=folder, sampler="random").settings
    output = Path(tmp_path / "out")
    summary = replay(
        folder, settings, num_samples=8, seeds=[0, 1], curves="tabular", output=output, console=make_console(file=text)
    )
    assert summary["best_stopped"].notna().all()
    assert np.isfinite(summary["regret"]).all()
