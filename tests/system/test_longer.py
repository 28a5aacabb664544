"""A search that is made longer goes on as one that was so from the start."""

import pytest

from tests.system.conftest import is_whole, table
from vae_tune.record.trials import read_trials

pytestmark = pytest.mark.system

POINTS = "latent_size,hidden_width,learning_rate\n20,100,3e-3\n10,100,1e-3\n"
OPTIONS = ("--num-samples", 3, "--points", "points.csv", "--results-dir", "out")
SMALL = ("--train-size", 1000, "--hidden-width", 100, "--max-concurrent", 2)
NUMBERS = ("train_loss", "val_loss", "val_reconstruction", "val_kl", "active_units")


def numbers(folder):
    """The losses of a study, to the last bit, by trial and epoch."""
    return {(row["trial"], row["epoch"]): [row[name] for name in NUMBERS] for row in table(folder / "epochs.csv")}


def test_trials_go_on_as_if_the_end_had_been_later_from_the_start(search, tmp_path):
    (tmp_path / "points.csv").write_text(POINTS)
    folder, unstopped = tmp_path / "out" / "s", tmp_path / "out" / "unstopped"
    freeze_thaw = ("--scheduler", "freeze-thaw", "--min-gain", 0)
    code, output = search("--study-name", "s", "--max-epochs", 2, *freeze_thaw, *OPTIONS, *SMALL).wait()
    assert code == 0, output
    before = numbers(folder)
    code, output = search("--resume", folder, "--max-epochs", 4).wait()
    assert code == 0, output
    assert "Reopened 3 trials, from epoch 2 to 4.\n" in output
    is_whole(folder, trials=3)
    assert max(len(trial.intermediate_values) for trial in read_trials(folder)) == 4
    unlike = ("--study-name", "unstopped", "--scheduler", "none", "--max-epochs", 4)
    code, output = search(*unlike, *OPTIONS, *SMALL).wait()
    assert code == 0, output
    after, whole = numbers(folder), numbers(unstopped)
    assert len(after) > len(before)
    assert after == {place: whole[place] for place in after}
