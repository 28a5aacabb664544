"""A search that an older version began, and a kill ended, is completed by today's code as that version would have."""

import shutil
from pathlib import Path

import pytest

from tests.system.conftest import is_whole, table

pytestmark = pytest.mark.system
OLD = Path(__file__).parents[1] / "old"
EXACT = ("trial", "state", "epochs", "latent_size", "hidden_width", "audited", "collapsed", "diverged")
CLOSE = ("val_loss", "val_reconstruction", "val_kl", "learning_rate")


def test_a_killed_search_of_schema_2_is_resumed_to_the_numbers_of_the_unbroken_one(search, tmp_path):
    folder = shutil.copytree(OLD / "killed", tmp_path / "killed")
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    is_whole(folder, trials=12)
    resumed, whole = table(folder / "trials.csv"), table(OLD / "whole" / "trials.csv")
    assert [[row[name] for name in EXACT] for row in resumed] == [[row[name] for name in EXACT] for row in whole]
    for row, expected in zip(resumed, whole, strict=True):  # another processor rounds otherwise
        numbers, close = [float(row[name]) for name in CLOSE], [float(expected[name]) for name in CLOSE]
        assert numbers == pytest.approx(close, rel=1e-3)
    assert [row["epoch"] for row in table(folder / "epochs.csv")] == [
        row["epoch"] for row in table(OLD / "whole" / "epochs.csv")
    ]
    is_whole(folder / "confirmation", trials=4)
