"""ASHA with promotion in a whole search that is killed while trials are paused."""

import pytest

from tests.system.conftest import is_whole, table, wait_for
from vae_tune.record.sampler_view import SET_ASIDE
from vae_tune.record.trials import read_trials

pytestmark = pytest.mark.system

OPTIONS = ("--scheduler", "asha-promotion", "--reduction-factor", 2, "--num-samples", 8, "--max-epochs", 4)
SMALL = ("--train-size", 2000, "--hidden-width", 100, "--results-dir", "out", "--max-concurrent", 1)
RATES = (8e-4, 6e-4, 4e-4, 1.5e-4, 1.4e-4, 1.3e-4, 1.2e-4)
"""Of trials 1 to 7, each worse than the one before: 1, 2 and 3 pause, and are promoted when 4, 6 and 8 have come."""


def paused(folder):
    """Return the numbers of the trials that are paused at a rung."""
    if not (folder / "epochs.csv").exists():
        return []
    trials = read_trials(folder)
    return [t.number for t in trials if t.state.name == "RUNNING" and t.user_attrs.get(SET_ASIDE)]


def test_a_kill_9_loses_no_paused_trial_and_a_promoted_one_goes_on_from_its_checkpoint(search, tmp_path):
    points = "".join(f"20,100,{rate}\n" for rate in RATES)
    (tmp_path / "points.csv").write_text(f"latent_size,hidden_width,learning_rate\n{points}")
    running = search("--study-name", "s", "--points", "points.csv", *OPTIONS, *SMALL)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: paused(folder))
    running.kill()
    running.process.wait()
    before, left = table(folder / "epochs.csv"), paused(folder)
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    is_whole(folder, trials=8)  # every state and promotion, derived again
    after = table(folder / "epochs.csv")
    assert after[: len(before)] == before
    seen = [(row["trial"], row["epoch"]) for row in after]
    assert len(seen) == len(set(seen))
    epochs = {trial.number: len(trial.intermediate_values) for trial in read_trials(folder)}
    assert [number for number in epochs if epochs[number] > 1] == [0, 1, 2, 3]
    assert {*left} & {1, 2, 3}
