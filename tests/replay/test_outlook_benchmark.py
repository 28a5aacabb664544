"""What the benchmark of the outlook says that going on gains, against the same searches replayed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from outlook import end_of
from peer_searches import own_setting

from vae_tune.config.names import COMPLETE, FAIL
from vae_tune.config.optuna_logging import silence_optuna
from vae_tune.replay.curves import Tabular, load_curves
from vae_tune.replay.simulator import simulate

TABLE = Path(__file__).parents[1] / "curves"


class Surprising(Tabular):
    """The last epoch of a few configurations brings what no model can expect."""

    def curve(self, values):
        found = super().curve(values)
        lucky = values["hidden_width"] % 4 == 0
        return replace(found, losses=np.append(found.losses[:-1], found.losses[-1] - 30 * lucky))


def test_going_on_gains_what_the_best_paused_trial_has_at_the_end_of_its_curve():
    source, gains = Surprising(load_curves(TABLE)), []
    for seed in range(12):
        with silence_optuna():
            end = end_of(source, 2, 8, seed)
        trials = simulate(source, own_setting("ours:freeze-thaw", 2), 8, seed)
        best = min(trial.val_loss for trial in trials if trial.state == COMPLETE)
        paused = [trial.final_loss for trial in trials if trial.state not in (COMPLETE, FAIL)]
        assert end.epochs == sum(trial.epochs for trial in trials)
        assert end.gained == pytest.approx(max(0.0, best - min(paused, default=best)))
        assert min(end.mean, end.high) >= 0
        gains.append(end.gained)
    assert any(gains)
    assert not all(gains)
