"""What is confirmed, where, and how the fresh seeds are compared with the search."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from tests.record.test_study_record import report
from tests.studies import make_study
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.analysis.study import load_study
from vae_tune.config.names import COMPLETE, CONFIRMATION, FAIL, PRUNED
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow
from vae_tune.tasks.confirm import candidates, compare, plan, shortage
from vae_tune.vae.checkpoint import checkpoint_folder, write_checkpoint
from vae_tune.vae.training import fit, new_state

BASE = TrialConfig(max_epochs=2, hidden_width=4, batch_size=20)
CONFIG = SearchConfig(trial=BASE, confirm=2, confirm_seeds=2)


def _record(study, rows):
    """The record of a confirmation, as far as it is compared."""
    folder = study / "confirmation"
    return SimpleNamespace(folder=folder, place=folder, rows=rows, metadata={"metric": {"kind": "grey"}})


def row(number, loss, state=COMPLETE, epochs=2, latent_size=2, learning_rate=1e-3):
    reports = tuple(report(epoch, loss) for epoch in range(1, epochs + 1))
    return TrialRow(number, {"latent_size": latent_size, "learning_rate": learning_rate}, "", state, reports=reports)


ROWS = [
    row(0, 110.0, latent_size=20),
    row(1, 104.0, latent_size=3),
    row(2, 100.0, PRUNED, epochs=1, latent_size=4),
    row(3, 103.0, latent_size=5),
    row(4, 105.0, latent_size=6),
    row(5, 1.0, FAIL, latent_size=7),
]


def test_the_best_complete_trials_and_the_reference_are_confirmed():
    assert [row.trial for row in candidates(ROWS, 2, 2)] == [3, 1, 0]


def test_a_reference_among_the_best_is_confirmed_once():
    assert [row.trial for row in candidates([replace(ROWS[0], trial=0), *ROWS[4:]], 2, 5)] == [4, 0]


def test_the_same_hyperparameters_are_confirmed_once():
    assert [row.trial for row in candidates([*ROWS, row(6, 103.5, latent_size=5)], 2, 3)] == [3, 1, 4, 0]


def test_without_a_complete_trial_there_is_nothing_to_confirm():
    assert candidates(ROWS[2:3], 2, 3) == []


def test_every_configuration_is_trained_with_the_same_fresh_seeds_to_the_end(tmp_path):
    config, grid = plan([ROWS[3], ROWS[0]], replace(BASE, seed=7), CONFIG, tmp_path, {7})
    first = {"latent_size": config.trial.latent_size, "learning_rate": 1e-3, "seed": config.trial.seed}
    points = [(point["latent_size"], point["seed"]) for point in (first, *grid.points)]
    assert points == [(5, 8), (20, 8), (5, 9), (20, 9)]
    assert config.num_samples == config.keep == 4
    assert (config.asha.scheduler, config.confirm, config.study_name) == ("none", 0, "confirmation")
    assert grid.space.contains(config.trial)


def test_no_seed_of_the_search_is_fresh_and_the_last_is_followed_by_the_first(tmp_path):
    config, grid = plan(ROWS[:1], replace(BASE, seed=2**32 - 2), CONFIG, tmp_path, {2**32 - 2, 0, 5})
    assert [config.trial.seed, *(point["seed"] for point in grid.points)] == [2**32 - 1, 1]
    assert grid.space.contains(config.trial)


def create(config, grid, images, folder):
    metadata = new_metadata(config.study_name, config, config.trial, grid.space, images, grid.kind) | {"runs": []}
    StudyRecord.create(folder / config.study_name, metadata).close()


def test_the_same_confirmation_is_resumed_and_another_gets_its_own_folder(tmp_path, tiny):
    create(*plan(ROWS[:2], BASE, CONFIG, tmp_path, {0}), tiny, tmp_path)
    assert plan(ROWS[:2], BASE, CONFIG, tmp_path, {0})[0].resume == tmp_path / "confirmation"
    other = plan(ROWS[:3], BASE, CONFIG, tmp_path, {0})
    assert (other[0].study_name, other[0].resume) == ("confirmation-2", None)
    create(*other, tiny, tmp_path)
    more_seeds = plan(ROWS[:2], BASE, replace(CONFIG, confirm_seeds=3), tmp_path, {0})[0]
    assert more_seeds.study_name == "confirmation-3"
    assert plan(ROWS[:3], BASE, CONFIG, tmp_path, {0})[0].study_name == "confirmation-2"


def test_the_optimism_is_what_fresh_seeds_lose_against_the_searchs_own_number(tiny, tmp_path):
    fresh = []
    for number, (size, seed) in enumerate([(3, 1), (5, 1), (3, 2), (5, 2)]):
        config = replace(BASE, latent_size=size, seed=seed)
        state, reports = new_state(config, tiny.shape, torch.device("cpu")), []
        for epoch in fit(config, tiny, torch.device("cpu"), state):
            write_checkpoint(checkpoint_folder(tmp_path / "confirmation", number), config, state, epoch)
            reports.append(asdict(epoch))
        values = {"latent_size": size, "learning_rate": 1e-3, "seed": seed}
        fresh.append(TrialRow(number, values, "", COMPLETE, reports=tuple(reports)))
    fresh.append(TrialRow(4, {"latent_size": 20, "learning_rate": 1e-3, "seed": 1}, "", FAIL))
    table = compare(_record(tmp_path, fresh), [ROWS[3], ROWS[1], ROWS[0]], tiny, pytest.fail)
    assert table["trial"].tolist() == [3, 1]  # the reference's trainings have all failed
    assert table["trials"].tolist() == [2, 2]
    assert table["trials"].dtype.kind == "i"
    losses = [row.val_loss for row in fresh]
    mean = (losses[1] + losses[3]) / 2
    assert table["val_loss_mean"][0] == pytest.approx(mean)
    assert table["optimism"][0] == pytest.approx(mean - 103.0)
    assert table["test_loss_low"][0] < table["test_loss_mean"][0] < table["test_loss_high"][0]
    assert pd.read_csv(tmp_path / "confirmation.csv")["trial"].tolist() == [3, 1]


def test_where_all_fresh_trainings_failed_nothing_is_compared(tiny, tmp_path):
    assert compare(_record(tmp_path, [ROWS[5]]), ROWS[:2], tiny, pytest.fail).empty


def test_the_ledger_counts_the_confirmation(tmp_path):
    folder = make_study(tmp_path / "s", trials=4, max_epochs=3)
    alone = compute_cost(load_study(folder))
    make_study(folder / "confirmation-of-sizes", trials=2, max_epochs=3)  # a search that somebody put there
    other = compute_cost(
        load_study(make_study(folder / "confirmation", trials=2, max_epochs=3, scheduler="none", kind=CONFIRMATION))
    )
    both = compute_cost(load_study(folder))
    assert both.entries["cpu_hours"]["confirmation"] == pytest.approx(other.entries["cpu_hours"].sum())
    assert both.entries["epochs"]["confirmation"] == other.entries["epochs"].sum() > 0
    assert both.wall_seconds == pytest.approx(alone.wall_seconds + other.wall_seconds)
    pd.testing.assert_frame_equal(both.entries.drop("confirmation"), alone.entries)


def test_more_configurations_to_confirm_than_trials_are_named():
    assert shortage(SearchConfig(num_samples=4, confirm=4)) is None
    assert "Only 4 configurations can be confirmed, not 9" in shortage(SearchConfig(num_samples=4, confirm=9))
