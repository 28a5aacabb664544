import numpy as np
from optuna.distributions import IntDistribution

from tests.studies import hand_made
from vae_tune.config.space import DEFAULT_SPACE, Space
from vae_tune.plots import active_units, draw_train_validation_gap, loss_parts, pareto, train_validation_gap
from vae_tune.views.report.page import render


def test_loss_parts_are_those_of_the_newest_report(tmp_path):
    study = hand_made(
        tmp_path / "s", {"losses": [120, 110, 100], "val_kl": 30.0, "val_reconstruction": 70.0}, {"state": "FAIL"}
    )
    assert loss_parts(study).to_dict("records") == [
        {"trial": 0, "state": "COMPLETE", "epochs": 3, "val_reconstruction": 70, "val_kl": 30, "val_loss": 100}
    ]


def test_active_units_stand_beside_the_latent_size(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1]}, {"losses": [3, 2, 1], "values": {"latent_size": 10}})
    table = active_units(study)
    assert list(table.latent_size) == [20, 10]
    assert list(table.share) == [0.35, 0.7]


def test_a_latent_size_that_is_not_searched_is_the_references(tmp_path):
    space = Space({"learning_rate": DEFAULT_SPACE.distributions["learning_rate"]})
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1]}, space=space)
    assert list(active_units(study).latent_size) == [20]


def test_the_gap_is_validation_minus_training(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [120, 110, 103.5], "train_loss": 101.0})
    assert list(train_validation_gap(study).gap) == [2.5]


def test_a_training_loss_of_another_kind_has_no_gap(tmp_path):
    space = Space({"iwae_samples": IntDistribution(1, 8)})
    trials = [{"losses": [120, 110, 103.5], "train_loss": 101.0, "values": {"iwae_samples": k}} for k in (1, 4)]
    study = hand_made(tmp_path / "s", *trials, space=space)
    np.testing.assert_equal(train_validation_gap(study).gap.to_numpy(), [2.5, np.nan])
    points = [dots.get_offsets()[:, 1] for dots in draw_train_validation_gap(study).axes[0].collections]
    assert set(np.concatenate(points)) == {2.5}
    assert render(hand_made(tmp_path / "t", trials[1] | {"losses": [9, 8, 7]}, space=space))


def test_the_front_holds_complete_trials_that_no_smaller_one_matches(tmp_path):
    sizes_and_losses = {400: [9, 8, 100], 100: [9, 8, 110], 200: [9, 8, 120], 300: [9, 8, 110], 800: [9, 8, 99]}
    study = hand_made(
        tmp_path / "s",
        *({"losses": losses, "values": {"hidden_width": width}} for width, losses in sizes_and_losses.items()),
        {"losses": [50], "state": "PRUNED", "values": {"hidden_width": 64}},
        {"losses": [50], "state": "PRUNED", "values": {"hidden_width": 150}},
    )
    table = pareto(study)
    assert table.parameters.is_monotonic_increasing
    assert list(table.trial[table.on_front]) == [1, 0, 4]
