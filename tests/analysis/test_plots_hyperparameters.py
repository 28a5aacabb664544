import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tests.studies import hand_made, make_study
from vae_tune import TrialConfig, load_study
from vae_tune.analysis.hyperparameters import MIN_TRIALS, Axis, axes, comparable, pair
from vae_tune.config.errors import UsageError
from vae_tune.config.space import Space
from vae_tune.plots import importance, pair_grid, parallel, slices

SPACE = Space(
    {
        "learning_rate": FloatDistribution(0.001, 0.1, log=True),
        "batch_size": IntDistribution(32, 256, step=32),
        "encoder_activation": CategoricalDistribution(("linear", "relu")),
    }
)
ZERO = Space(
    {
        "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
        "kl_warmup_epochs": IntDistribution(1, 8, log=True),
        "latent_size": IntDistribution(2, 64, log=True),
    }
)
"""Log ranges, of which the reference's zeros have no logarithm."""


@pytest.fixture
def study(tmp_path):
    return hand_made(
        tmp_path / "s",
        {"losses": [120, 110, 105]},
        {"losses": [150], "state": "PRUNED", "values": {"learning_rate": 0.1, "encoder_activation": "relu"}},
        {"state": "FAIL", "values": {"learning_rate": 0.02}},
        space=SPACE,
    )


def test_slices_have_a_row_for_each_trial_and_hyperparameter(study):
    table = slices(study)
    assert len(table) == 9
    rates = table[table.hyperparameter == "learning_rate"]
    assert list(rates.value) == [0.001, 0.1, 0.02]
    assert list(rates.epochs) == [3, 1, 0]
    np.testing.assert_equal(rates.val_loss.to_numpy(), [105, 150, np.nan])
    assert list(table[table.hyperparameter == "encoder_activation"].value) == ["linear", "relu", "linear"]


def test_axes_follow_the_space(study):
    assert axes(study) == {
        "learning_rate": Axis("learning_rate", "log", 0.001, 0.1),
        "batch_size": Axis("batch_size", "linear", 32, 256),
        "encoder_activation": Axis("encoder_activation", "category", choices=("linear", "relu")),
    }
    assert list(axes(study)["learning_rate"].edges(2)) == pytest.approx([0.001, 0.01, 0.1])
    assert list(axes(study)["batch_size"].edges(2)) == [32, 144, 256]


def test_a_range_of_one_value_is_a_choice(tmp_path):
    space = Space({"latent_size": IntDistribution(2, 64), "hidden_width": IntDistribution(400, 400)})
    study = hand_made(tmp_path / "s", *[{"losses": [3, 2, 1]}] * 2, space=space)
    assert axes(study)["hidden_width"] == Axis("hidden_width", "category", choices=(400,))
    assert list(pair_grid(study, cells=2).hidden_width) == [400, 400]


def test_places_are_shares_of_a_range_on_its_own_scale():
    rate, size = Axis("learning_rate", "log", 1e-4, 1e-2), Axis("batch_size", "linear", 32, 232)
    assert list(rate.place([1e-4, 1e-3, 1])) == pytest.approx([0, 0.5, 2])
    assert list(rate.place([0, -1])) == [-np.inf] * 2
    assert list(size.place(pd.Series([32, 82, None], dtype="Int64"))) == pytest.approx([0, 0.25, np.nan], nan_ok=True)
    assert list(Axis("batch_size", "linear", 32, 32).place([32])) == [0]


def test_parallel_holds_whole_configurations(study):
    assert parallel(study).iloc[1].to_dict() == {
        "trial": 1,
        "state": "PRUNED",
        "epochs": 1,
        "learning_rate": 0.1,
        "batch_size": 128,
        "encoder_activation": "relu",
        "val_loss": 150,
    }


def test_in_a_cell_the_trials_that_trained_longest_speak(tmp_path):
    study = hand_made(
        tmp_path / "s",
        {"losses": [9, 9, 110], "values": {"latent_size": 2, "learning_rate": 1e-4}},
        {"losses": [9, 9, 105], "values": {"latent_size": 2, "learning_rate": 1.1e-4}},
        {"losses": [90], "state": "PRUNED", "values": {"latent_size": 2, "learning_rate": 1e-4}},
        {"losses": [80], "state": "FAIL", "values": {"latent_size": 2, "learning_rate": 1e-4}},
        {"losses": [95], "state": "PRUNED", "values": {"latent_size": 64, "learning_rate": 1e-2}},
    )
    table = pair_grid(study, cells=2)
    assert list(table.latent_size) == pytest.approx([2**2.25] * 2 + [2**4.75] * 2)
    assert list(table.learning_rate) == pytest.approx([10**-3.5, 10**-2.5] * 2)
    assert list(table.trials) == [3, 0, 0, 1]
    assert list(table.epochs) == [3, 0, 0, 1]
    np.testing.assert_equal(table.val_loss.to_numpy(), [105, np.nan, np.nan, 95])


def test_a_category_has_a_cell_for_each_choice(study):
    table = pair_grid(study, "encoder_activation", "batch_size", cells=7)
    assert list(table.encoder_activation.unique()) == ["linear", "relu"]
    assert len(table) == 14
    assert table.trials.sum() == 2


def test_a_reference_outside_of_the_space_is_in_no_cell(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1], "values": {"latent_size": 100}})
    assert pair_grid(study).trials.sum() == 0


def test_a_pair_that_is_not_searched_is_refused_by_name(study):
    with pytest.raises(UsageError, match=r"'latent_size' is not searched in s; choose from learning_rate, batch_size"):
        pair_grid(study, "latent_size", "learning_rate")


def test_the_usual_pair_gives_way_to_what_is_searched(study, tmp_path):
    assert pair(study) == ("learning_rate", "batch_size")
    assert pair(hand_made(tmp_path / "usual")) == ("latent_size", "learning_rate")
    lonely = hand_made(tmp_path / "one", {"losses": [3, 2, 1]}, space=Space({"batch_size": IntDistribution(32, 256)}))
    assert pair(lonely) is None
    assert pair_grid(lonely).empty


def test_trials_are_compared_at_the_deepest_epoch_that_enough_reached(tmp_path):
    whole = {"losses": [120, 110, 105]}
    stopped = {"losses": [150, 140], "state": "PRUNED"}
    failed = {"losses": [150, 140, 130], "state": "FAIL"}
    few = hand_made(tmp_path / "few", *[whole] * 3, *[stopped] * (MIN_TRIALS - 3), *[failed] * MIN_TRIALS)
    assert set(comparable(few).epoch) == {2}
    assert sorted(comparable(few).val_loss) == [110] * 3 + [140] * 7
    assert list(comparable(few, epoch=3).trial) == [0, 1, 2]
    enough = hand_made(tmp_path / "enough", *[whole] * MIN_TRIALS, *[stopped] * 30)
    assert set(comparable(enough).epoch) == {3}
    assert comparable(hand_made(tmp_path / "none", *[whole] * (MIN_TRIALS - 1))).empty


def test_importance_finds_the_hyperparameter_that_matters(tmp_path):
    random = np.random.default_rng(0)
    trials = []
    for _ in range(60):
        rate, width = 10 ** random.uniform(-4, -2), int(random.integers(64, 1024))
        loss = 100 + 20 * (np.log10(rate) + 3) ** 2
        trials.append({"losses": [loss + 2, loss + 1, loss], "values": {"learning_rate": rate, "hidden_width": width}})
    table = importance(hand_made(tmp_path / "s", *trials))
    assert set(table.method) == {"ped-anova", "fanova"}
    for _, own in table.groupby("method"):
        assert own.importance.sum() == pytest.approx(1)
        shares = own.set_index("hyperparameter").importance
        assert set(shares.index) == {"latent_size", "hidden_width", "learning_rate"}
        assert shares["learning_rate"] > 0.8
    assert set(table.epoch) == {3}
    assert set(table.trials) == {60}


def test_fanova_counts_each_decade_of_a_log_range_alike(tmp_path):
    """Two steps of equal height in the middle of a range each: of the log range that is a tenth of the length."""
    space = Space({"learning_rate": FloatDistribution(1e-4, 1e-2, log=True), "batch_size": IntDistribution(1, 201)})
    random = np.random.default_rng(0)
    trials = []
    for _ in range(100):
        rate, size = 10 ** random.uniform(-4, -2), int(random.integers(1, 202))
        loss = 100 + (10 if rate < 1e-3 else 0) + (10 if size < 101 else 0)
        trials.append({"losses": [loss] * 3, "values": {"learning_rate": rate, "batch_size": size}})
    table = importance(hand_made(tmp_path / "s", *trials, space=space))
    shares = table[table.method == "fanova"].set_index("hyperparameter").importance
    assert shares["learning_rate"] == pytest.approx(0.5, abs=0.1)


def test_importance_of_few_trials_is_not_told(tmp_path):
    table = importance(load_study(make_study(tmp_path / "s", trials=MIN_TRIALS - 1)))
    assert table.empty
    assert list(table.columns) == ["hyperparameter", "method", "importance", "epoch", "trials"]


def test_importance_leaves_out_a_reference_outside_of_the_space(tmp_path):
    study = load_study(make_study(tmp_path / "s", reference=TrialConfig(latent_size=100, max_epochs=1), trials=20))
    assert len(comparable(study)) == len(study.trials) - (study.trials.state == "FAIL").sum()
    assert set(importance(study).trials) == {len(comparable(study)) - 1}


def test_importance_knows_categories_and_steps(tmp_path):
    table = importance(load_study(make_study(tmp_path / "s", space=SPACE, trials=30, scheduler="none")))
    assert set(table.hyperparameter) == set(SPACE.distributions)
