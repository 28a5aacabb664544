import numpy as np
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tests.analysis.test_plots_hyperparameters import ZERO
from tests.studies import hand_made, make_study
from vae_tune import TrialConfig, load_study
from vae_tune.analysis.advice import conclusions
from vae_tune.analysis.next_space import as_yaml, next_space
from vae_tune.config.space import DEFAULT_SPACE, Space, load_space


def trials(name, values):
    """Trials with these values of a hyperparameter, the first the best."""
    return [{"losses": [150, 140, 100 + rank], "values": {name: value}} for rank, value in enumerate(values)]


def test_a_range_narrows_to_the_best_trials_with_a_margin(tmp_path):
    values = [1e-3, 1.1e-3, 9e-4, 1.2e-3, 8e-4, *np.geomspace(1e-4, 1e-2, 9)]
    found = next_space(hand_made(tmp_path / "s", *trials("learning_rate", values))).distributions["learning_rate"]
    assert found.log
    assert found.low == pytest.approx(1e-3 * 10**-0.4, rel=0.1)  # four tenths of two decades, around the best
    assert found.high == pytest.approx(1e-3 * 10**0.4, rel=0.1)


def test_a_range_that_ends_too_soon_is_widened(tmp_path):
    values = [62, 60, 58, 56, 54, *range(2, 42, 4)]
    found = next_space(hand_made(tmp_path / "s", *trials("latent_size", values))).distributions["latent_size"]
    assert found.high == 160  # 64 times a quarter of the range, 32 ** 0.25, rounded up
    assert found.low > 2


def test_an_end_that_suits_is_not_passed_by_rounding(tmp_path):
    worse = [*range(100, 200, 10)]
    found = next_space(hand_made(tmp_path / "s", *trials("hidden_width", [500, 1000, 300, 250, 350, *worse])))
    assert found.distributions["hidden_width"].high == 1024


def test_a_winner_that_no_log_range_has_lies_below_it(tmp_path):
    best = {"losses": [3, 2, 1], "values": {"weight_decay": 0.0, "kl_warmup_epochs": 0}}
    decays = np.geomspace(1e-6, 1e-2, 17)
    others = [
        {"losses": [150, 140, 10 + 2 * number + number % 3], "values": {"weight_decay": decay}}
        for number, decay in enumerate(decays)
    ]
    study = hand_made(tmp_path / "s", best, *others, space=ZERO)
    assert "Search below 1e-06 too." in [finding.advice for finding in conclusions(study)]
    found = next_space(study).distributions["weight_decay"]
    assert next_space(study).distributions["kl_warmup_epochs"].low == 1
    assert found.low == pytest.approx(1e-7)  # a quarter of four decades below
    assert found.high < 1e-3


def test_the_next_range_holds_a_reference_that_is_the_best_beyond_the_range(tmp_path):
    values = [200, 60, 50, 40, 30, *range(2, 30, 2)]
    found = next_space(hand_made(tmp_path / "s", *trials("latent_size", values))).distributions["latent_size"]
    assert found.high == 200
    assert found.low > 2


def test_a_range_of_one_value_stays_what_it_is(tmp_path):
    space = Space({"latent_size": IntDistribution(2, 64), "hidden_width": IntDistribution(400, 400)})
    found = next_space(hand_made(tmp_path / "s", *trials("latent_size", range(4, 24)), space=space))
    assert found.fixed == {"hidden_width": 400}
    assert list(found.distributions) == ["latent_size"]


def test_choices_stay_that_are_good_or_hardly_tried(tmp_path):
    space = Space(
        {
            "encoder_activation": CategoricalDistribution(("linear", "relu", "tanh", "elu")),
            "batch_size": CategoricalDistribution((64, 128)),
        }
    )
    activations = ["relu"] * 4 + ["linear"] + ["tanh"] * 6 + ["elu"] * 2
    made = trials("encoder_activation", activations)
    for rank, trial in enumerate(made):
        trial["values"]["batch_size"] = 64 if rank < 7 else 128
    found = next_space(hand_made(tmp_path / "s", *made, space=space))
    assert found.distributions["encoder_activation"].choices == ("linear", "relu", "elu")
    assert found.fixed == {"batch_size": 64}


def test_a_range_with_steps_stays(tmp_path):
    space = Space({"batch_size": IntDistribution(32, 256, step=32), "learning_rate": FloatDistribution(1e-4, 1e-2)})
    study = load_study(make_study(tmp_path / "s", space=space, trials=20, scheduler="none"))
    assert next_space(study).distributions["batch_size"] == space.distributions["batch_size"]


def test_the_winner_lies_in_the_next_space(tmp_path):
    for seed in range(5):
        study = load_study(make_study(tmp_path / str(seed), seed=seed, trials=60))
        winner = {name: study.best[name] for name in study.space.distributions}
        for name, distribution in next_space(study).distributions.items():
            assert distribution.low <= winner[name] <= distribution.high


def test_few_trials_make_no_next_space(tmp_path):
    assert next_space(hand_made(tmp_path / "s", {"losses": [3, 2, 1]})) is None


@pytest.mark.parametrize(
    "space",
    [
        DEFAULT_SPACE,
        Space(
            {
                "encoder_activation": CategoricalDistribution(("linear", "relu")),
                "batch_size": IntDistribution(32, 256, step=32),
                "learning_rate": FloatDistribution(1e-5, 0.1),
            },
            {"hidden_width": 300, "precision": "bfloat16"},
        ),
    ],
)
def test_a_space_is_written_as_it_is_read(tmp_path, space):
    path = tmp_path / "space.yaml"
    path.write_text(as_yaml(space))
    assert load_space(path, TrialConfig()) == space


def test_the_next_space_of_a_study_can_be_searched(tmp_path):
    path = tmp_path / "next.yaml"
    found = next_space(load_study(make_study(tmp_path / "s", trials=60)))
    path.write_text(as_yaml(found))
    assert load_space(path, TrialConfig()) == found


@pytest.mark.parametrize("text", ["first\nsecond: third", "yes", "- a", "a: b # c", "{}", "'", "~", "=1"])
def test_a_text_in_a_space_is_written_as_text(text):
    choices = CategoricalDistribution([text, "relu"])
    read = yaml.safe_load(
        as_yaml(Space({"activation": choices, "latent_size": IntDistribution(2, 9)}, {"fixed": text}))
    )
    assert read["fixed"] == text
    assert read["activation"] == {"type": "categorical", "choices": [text, "relu"]}
