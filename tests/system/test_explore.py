"""A whole exploration, on Ray."""

import csv

import pytest

from vae_tune import DataConfig
from vae_tune.audit import audit
from vae_tune.explore import explore
from vae_tune.options import ExploredConfig, ExploreOptions

pytestmark = pytest.mark.system


def test_an_exploration_trains_its_grid_and_compares_the_sizes_on_test(tmp_path):
    options = ExploreOptions(
        latent_size="2,5",
        repeats=2,
        study_name="e",
        results_dir=tmp_path,
        data=DataConfig(train_size=300),
        trial=ExploredConfig(hidden_width=16, max_epochs=2),
    )
    sizes = explore(options)
    assert sizes["latent_size"].tolist() == [2, 5]
    assert sizes["trials"].tolist() == [2, 2]
    folder = tmp_path / "e"
    assert audit(folder) == []
    with (folder / "explored.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["latent_size"], row["seed"]) for row in rows] == [("2", "0"), ("5", "0"), ("2", "1"), ("5", "1")]
    mean = sum(float(row["test_loss"]) for row in rows if row["latent_size"] == "2") / 2
    assert sizes["test_loss_mean"][0] == pytest.approx(mean)
    for name in ("latent_sizes.csv", "latent_sizes.png", "samples_002.png", "samples_005.png"):
        assert (folder / name).exists()
