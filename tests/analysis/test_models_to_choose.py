"""A study that searches models with hyperparameters of their own: its tables, figures, advice and next space."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from optuna.importance import FanovaImportanceEvaluator

from tests.search.test_sampler_of_models import CONDITIONS, MODELS, WIDE
from tests.studies import make_study
from vae_tune.analysis.advice import conclusions
from vae_tune.analysis.audit import audit
from vae_tune.analysis.hyperparameters import FANOVA, importance, pair_grid, parallel, slices
from vae_tune.analysis.next_space import as_yaml, next_space
from vae_tune.analysis.range_edges import range_edges
from vae_tune.analysis.study import load_study, parts_by_model, trial_configs
from vae_tune.config.space import Space
from vae_tune.views.figures import FIGURES
from vae_tune.views.report.page import write_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("models") / "both", trials=60, space=WIDE, scheduler="none", failed=0)


@pytest.fixture(scope="module")
def study(folder):
    return load_study(folder)


def test_cells_of_another_models_hyperparameters_are_empty(study):
    mlp, conv = (study.trials[study.trials["model"] == model] for model in ("mlp", "conv"))
    assert min(len(mlp), len(conv)) >= 20
    assert mlp["hidden_width"].notna().all()
    assert conv["hidden_width"].isna().all()
    assert mlp["model.channels"].isna().all()
    assert conv["model.channels"].notna().all()
    assert trial_configs(study, [conv.index[0]])[0].model_options == {
        "channels": conv["model.channels"].iloc[0],
        "blocks": conv["model.blocks"].iloc[0],
    }
    assert audit(study.folder) == []


def test_a_part_has_the_trials_and_the_hyperparameters_of_a_model(study):
    parts = parts_by_model(study)
    assert list(parts) == ["", "mlp", "conv"]
    assert list(parts[""].space.distributions) == ["model", "learning_rate"]
    assert list(parts["conv"].space.distributions) == ["learning_rate", "model.channels", "model.blocks"]
    assert set(parts["conv"].trials["model"]) == {"conv"}
    assert set(parts["conv"].epochs["trial"]) == set(parts["conv"].trials.index)


def test_importance_is_given_for_all_trials_and_for_those_of_each_model(study):
    table = importance(study)
    shares = table.groupby(["model", "method"])["importance"].sum()
    assert shares.to_numpy() == pytest.approx([1.0] * 6)
    fanova = table[(table["method"] == FANOVA) & (table["model"] == "mlp")].set_index("hyperparameter")["importance"]
    assert set(fanova.index) == {"learning_rate", "hidden_width"}
    counts = table.groupby("model")["trials"].first()
    assert counts[""] == counts["mlp"] + counts["conv"] == 60


def test_importance_is_unknown_where_a_model_has_too_few_trials(tmp_path):
    study = load_study(make_study(tmp_path / "few", trials=16, space=WIDE, scheduler="none", failed=0, seed=3))
    few = study.trials["model"].value_counts().idxmin()
    table = importance(study)
    assert table[table["model"] == few]["importance"].isna().all()
    known = study.trials["model"].value_counts()[few]
    assert (table[table["model"] == few]["trials"] == known).all()
    said = f"Among the trials of {few}: importance is unknown: {known} trials, needs 10."
    assert said in map(str, conclusions(study))
    panel = FIGURES["importance"].panels(study)[""]
    other = "mlp" if few == "conv" else "conv"
    assert f"from 16 trials of all models at epoch 9, {16 - known} trials of {other} at epoch 9." in panel.note
    assert f"Unknown for {few} ({known} trials): needs 10 trials that differ" in panel.note
    texts = {name: text for trace in panel.data for name, text in zip(panel.y["ticktext"], trace["text"], strict=True)}
    assert {name for name, text in texts.items() if text == "unknown"} == {name for name in texts if few in name}


def test_importance_is_unknown_where_trials_do_not_differ(study):
    same = study.epochs.assign(val_loss=100.0)
    alike = replace(study, epochs=same)
    alike.__dict__["space"] = study.space
    assert importance(alike)["importance"].isna().all()
    assert FIGURES["importance"].panels(alike) == {}
    assert any("Among the trials of conv: importance is unknown: its" in str(each) for each in conclusions(alike))


def test_an_importance_that_optuna_cannot_compute_is_not_made_up_of_equal_shares(study, monkeypatch):
    class Blind(FanovaImportanceEvaluator):
        def evaluate(self, *arguments, **options):
            return dict.fromkeys(super().evaluate(*arguments, **options), 0.0)

    monkeypatch.setattr("optuna.importance.FanovaImportanceEvaluator", Blind)
    assert importance(study)["importance"].isna().all()


def test_slices_and_cells_have_the_trials_that_have_the_hyperparameter(study):
    counts = slices(study)["hyperparameter"].value_counts()
    models = study.trials["model"].value_counts()
    assert counts["hidden_width"] == models["mlp"]
    assert counts["model.channels"] == models["conv"]
    assert counts["learning_rate"] == 60
    assert pair_grid(study, "learning_rate", "model.channels")["trials"].sum() == models["conv"]
    assert len(parallel(study)) == 60


def test_ranges_are_judged_by_the_trials_of_their_model(study):
    edges = {edge.hyperparameter: edge for edge in range_edges(study)}
    assert set(edges) == {"learning_rate", "hidden_width", "model.channels", "model.blocks"}
    assert edges["hidden_width"].trials == study.trials["model"].value_counts()["mlp"]
    assert edges["learning_rate"].trials == 60


def test_the_next_space_keeps_the_conditions_of_the_models_that_stay(study):
    space = next_space(study)
    assert set(space.distributions) | set(space.fixed) <= {*WIDE.distributions}
    if "model" in space.distributions:
        assert space.conditions == CONDITIONS
    else:
        assert not set(space.distributions) & {
            name for name, own in CONDITIONS.items() if space.fixed["model"] not in own
        }
    assert as_yaml(space)


def test_the_report_with_every_figure_is_drawn(folder, study):
    write_report(folder)
    assert "model.channels" in (folder / "report.html").read_text()
    assert repr(study)


def test_a_space_in_which_all_models_share_everything_is_one_part(study):
    shared = replace(study, trials=study.trials, epochs=study.epochs)
    shared.__dict__["space"] = Space({"model": MODELS})
    assert list(parts_by_model(shared)) == [""]
    assert not math.isnan(importance(study)["importance"].iloc[0])
