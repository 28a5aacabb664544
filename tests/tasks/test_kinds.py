"""A search compares its trials, so their likelihoods must give numbers of one kind; else it is refused beforehand."""

import dataclasses

import numpy as np
import pytest

from tests.no_ray import without_ray
from vae_tune.config.compat.optuna import fixed_params
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import DataConfig, SearchConfig, TrialConfig
from vae_tune.config.space import load_space
from vae_tune.record.trials import read_trials
from vae_tune.tasks.kinds import refuse_kinds
from vae_tune.tasks.search import resume_search, run_search
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.search_record import with_image_defaults


def of(*choices):
    return {"likelihood": {"type": "categorical", "choices": list(choices)}}


def planned(tmp_path, space, trial=None, **data):
    config = SearchConfig(
        space=space, results_dir=tmp_path, study_name="s", trial=trial or TrialConfig(), data=DataConfig(**data)
    )
    return make_plan(config, None, tmp_path / "s")


@pytest.mark.parametrize(
    ("choices", "reference", "color", "message"),
    [
        (
            ["logistic", "gaussian"],
            None,
            "auto",
            r"levels \(logistic\); density \(gaussian\)\.\nChoose likelihoods of",
        ),
        (["bernoulli", "logistic"], "logistic", "auto", r": grey \(bernoulli\); levels \(logistic\)\.\n"),
        (
            ["logistic", "categorical"],
            None,
            "grey",
            r": grey \(bernoulli\); levels \(logistic, categorical\); the reference has bernoulli\.",
        ),
        (["logistic"], "gaussian", "auto", r"\nChoose a reference of the same kind: --likelihood logistic\."),
    ],
)
def test_likelihoods_of_different_kinds_are_refused_in_two_lines_and_nothing_is_created(
    tmp_path, choices, reference, color, message
):
    with pytest.raises(UsageError, match=message) as caught:
        planned(tmp_path, of(*choices), TrialConfig(likelihood=reference), colour=color)
    assert len(str(caught.value).splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("likelihood", [{"likelihood": "logistic"}, {}])
def test_levels_of_black_and_white_pixels_are_refused_at_once(tmp_path, likelihood):
    space = {"latent_size": {"type": "int", "low": 2, "high": 9}, **likelihood}
    trial = TrialConfig() if likelihood else TrialConfig(likelihood="logistic")
    with pytest.raises(UsageError, match=r"likelihood must be bernoulli for black and white pixels \(dynamic\)"):
        planned(tmp_path, space, trial, binarization="dynamic")


def test_what_only_the_images_can_tell_is_refused_once_they_are_read(tmp_path):
    plan = planned(tmp_path, of("logistic", "logistic-mixture"))  # of color images logistic is the reference
    refuse_kinds(plan.space, plan.base, 3, "grey")
    with pytest.raises(UsageError, match="--likelihood logistic"):
        refuse_kinds(plan.space, plan.base, 1, "grey")


def test_a_reference_that_names_no_likelihood_is_the_one_of_its_images_where_likelihoods_are_searched(tmp_path):
    plan = with_image_defaults(planned(tmp_path, of("logistic", "logistic-mixture")), 3)
    assert plan.base.likelihood == plan.config.trial.likelihood == "logistic"
    assert plan.space.contains(plan.base)
    usual = planned(tmp_path, None)
    assert with_image_defaults(usual, 3) is usual


def test_a_reference_leaves_its_encoder_to_the_images_too_and_is_checked_again_once_they_are_read(tmp_path):
    space = {"encoder_activation": {"type": "categorical", "choices": ["relu", "gelu"]}}
    plan = planned(tmp_path, space)
    assert [with_image_defaults(plan, channels).base.encoder_activation for channels in (1, 3)] == ["linear", "relu"]
    plan = dataclasses.replace(plan, config=dataclasses.replace(plan.config, sampler="gp"))
    assert with_image_defaults(plan, 3).config.trial.encoder_activation == "relu"
    with pytest.raises(UsageError, match="outside lies its encoder_activation linear"):
        with_image_defaults(plan, 1)


def test_a_choice_without_a_value_is_refused():
    with pytest.raises(UsageError, match="likelihood has a choice without a value"):
        load_space(of(None, "logistic"), TrialConfig())


def test_the_number_of_components_can_be_searched():
    space = load_space({"mixture_components": {"type": "int", "low": 2, "high": 10}}, TrialConfig())
    assert space.contains(dataclasses.replace(TrialConfig(), mixture_components=7))


def test_a_search_of_mixed_kinds_on_grey_images_leaves_nothing_behind(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (400, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", rows)
    config = SearchConfig(
        space=of("logistic", "categorical"),
        results_dir=tmp_path / "results",
        data=DataConfig(dataset=str(tmp_path / "images.npy"), colour="grey"),
    )
    with pytest.raises(UsageError, match="different kinds"):
        run_search(config)
    assert not (tmp_path / "results").exists()


def test_points_name_likelihoods_and_a_resume_keeps_their_kind(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    (tmp_path / "points.yaml").write_text("- {likelihood: categorical}\n- {likelihood: logistic-mixture}\n")
    images = np.random.default_rng(0).integers(0, 256, (700, 6, 8, 3), np.uint8)
    config = SearchConfig(
        num_samples=4,
        space=of("logistic", "categorical", "logistic-mixture"),
        points=tmp_path / "points.yaml",
        results_dir=tmp_path,
        study_name="s",
    )
    study = run_search(config, images=images)
    waiting = [fixed_params(trial) for trial in read_trials(study.folder)]
    assert waiting == [{"likelihood": name} for name in ("logistic", "categorical", "logistic-mixture")]
    assert study.metadata["metric"]["kind"] == "levels"
    resume_search(study.folder, images=images, num_samples=5)
    before = (study.folder / "study.json").read_bytes()
    for trial in (TrialConfig(likelihood="gaussian"), TrialConfig(likelihood="categorical")):
        with pytest.raises(UsageError, match=f"likelihood is 'logistic' in this study, but got '{trial.likelihood}'"):
            resume_search(study.folder, images=images, trial=trial)
    with pytest.raises(UsageError, match="colour is 'auto' in this study, but got 'grey'"):
        resume_search(study.folder, images=images, data=DataConfig(colour="grey"))
    left = dataclasses.replace(study.config.trial, likelihood=None, encoder_activation=None)
    resume_search(study.folder, images=images, trial=left, num_samples=6)  # the same, left to the images
    linear = dataclasses.replace(left, encoder_activation="linear")
    with pytest.raises(UsageError, match="encoder_activation is 'relu' in this study, but got 'linear'"):
        resume_search(study.folder, images=images, trial=linear)
    before = (study.folder / "study.json").read_bytes()
    with pytest.raises(UsageError, match="space likelihood is"):
        resume_search(study.folder, images=images, space=of("logistic", "gaussian"), trial=study.config.trial)
    assert (study.folder / "study.json").read_bytes() == before


def test_a_point_of_another_kind_is_refused(tmp_path):
    (tmp_path / "points.yaml").write_text("- {likelihood: gaussian}\n")
    config = SearchConfig(space=of("logistic", "categorical"), points=tmp_path / "points.yaml", results_dir=tmp_path)
    with pytest.raises(UsageError, match="gaussian"):
        make_plan(config, None, tmp_path / "s")
