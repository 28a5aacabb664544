"""A study that a user's metric ranks: it reads as the same study ranked by the loss, which its score mirrors."""

import pandas as pd
import pytest

from tests.studies import SCORE, make_study
from vae_tune import load_studies, load_study, plots
from vae_tune.analysis import advice
from vae_tune.analysis.audit import audit
from vae_tune.analysis.next_space import next_space
from vae_tune.config.errors import UsageError
from vae_tune.config.files import read_json, write_json
from vae_tune.replay.curves import study_curves
from vae_tune.tasks.compare import comparable_studies, comparison
from vae_tune.views.figures import FIGURES
from vae_tune.views.report.page import write_report


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return a study ranked by its loss, and the same one ranked by the loss negated, as a score to maximize."""
    folder = tmp_path_factory.mktemp("studies")
    return load_study(make_study(folder / "loss")), load_study(make_study(folder / "score", metric=SCORE))


def test_its_tables_have_the_values_with_their_own_sign_beside_the_loss(pair):
    loss, score = pair
    assert (score.epochs["score"] == -loss.epochs["val_loss"]).all()
    assert (score.epochs["val_loss"] == loss.epochs["val_loss"]).all()
    assert list(score.epochs)[-3:] == ["score", "half", "time"]
    assert list(score.trials)[3:8] == ["val_loss", "val_reconstruction", "val_kl", "score", "half"]


def test_it_ranks_alike_and_its_record_is_consistent(pair):
    loss, score = pair
    assert score.best_trial == loss.best_trial
    assert audit(score.folder) == []
    assert f"trial {score.best_trial}, score {score.best['score']:.4g} after epoch 9" in repr(score)


def test_an_edit_of_what_ranks_is_found(tmp_path):
    folder = make_study(tmp_path / "s", trials=5, metric=SCORE)
    journal = folder / "optuna.journal"
    journal.write_text(journal.read_text().replace('"score":-', '"score":1', 1))
    assert any("ranked" in line or "score" in line for line in audit(folder))


@pytest.mark.parametrize("name", ["best_so_far", "learning_curves", "slices", "parallel", "pair_grid", "pareto"])
def test_a_table_mirrors_that_of_the_loss(pair, name):
    loss, score = (getattr(plots, name)(study) for study in pair)
    mirrored = score.assign(**{column: -score[column] for column in {"score", "best"} & {*score}})
    mirrored = mirrored.drop(columns=["half", "val_loss"], errors="ignore")
    pd.testing.assert_frame_equal(mirrored.rename(columns={"score": "val_loss"})[list(loss)], loss)


@pytest.mark.parametrize(
    "name", ["importance", "rung_correlation", "rung_survival", "loss_parts", "train_validation_gap"]
)
def test_what_has_no_sign_is_the_same(pair, name):
    loss, score = (getattr(plots, name)(study) for study in pair)
    pd.testing.assert_frame_equal(loss, score)


def test_advice_and_the_next_space_are_the_same(pair):
    loss, score = pair
    assert next_space(score) == next_space(loss)
    pd.testing.assert_frame_equal(advice.edges(score), advice.edges(loss))
    pd.testing.assert_frame_equal(advice.stopping(score), advice.stopping(loss))
    result = str(advice.conclusions(score)[0])
    assert f"The best is trial {score.best_trial}: {score.best['score']:.4g} score on validation" in result
    assert "above the reference" in result


def test_a_replay_sees_the_same_curves(pair):
    loss, score = map(study_curves, pair)
    assert (pd.DataFrame(loss.losses).fillna(0) == pd.DataFrame(score.losses).fillna(0)).all(axis=None)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_by_its_name(pair, name, tmp_path):
    getattr(plots, f"draw_{name}")(pair[1]).savefig(tmp_path / "figure.png")
    panels = FIGURES[name].panels(pair[1])
    titles = {panel.y["title"]["text"] for panel in panels.values()}
    if name == "learning_curves":
        assert titles == {"score (validation)", "half (validation)", "validation loss (nats per image)"}
    if name in ("best_so_far", "pareto", "slices"):
        assert titles == {"score (validation)"}


def test_the_report_calls_it_by_its_name(pair):
    page = write_report(pair[1].folder).read_text()
    assert "Test score" in page
    assert "highest score at max_epochs=9" in page
    assert "score (validation)" in page


def test_it_is_compared_with_its_own_kind_alone(pair, tmp_path):
    with pytest.raises(UsageError, match="Losses of different kinds cannot be compared"):
        load_studies([study.folder for study in pair])
    other = make_study(tmp_path / "other", seed=1, metric=SCORE)
    lines = "\n".join(comparison(comparable_studies([pair[1].folder, other])))
    assert "Highest validation score: " in lines
    assert "reference: validation score" in lines
    metadata = read_json(other / "study.json")
    write_json(other / "study.json", metadata | {"metric": metadata["metric"] | {"kind": "score (other code)"}})
    with pytest.raises(UsageError, match="score \\(other code\\)"):
        load_studies([pair[1].folder, other])
