"""Several seeds of one configuration: their test numbers and what they say together."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from vae_tune.checkpoint import checkpoint_folder, write_checkpoint
from vae_tune.config import SearchError, TrialConfig
from vae_tune.data import to_tensor
from vae_tune.repeats import last_checkpoint, spread, summarise, test_numbers
from vae_tune.training import evaluate, fit, new_state
from vae_tune.trials import TrialRow

test_numbers.__test__ = False  # a function of the package, no test


def test_the_interval_is_that_of_students_t():
    values = [104.2, 103.9, 105.0, 104.4]
    mean, deviation, half = spread(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_one_value_has_no_interval():
    mean, deviation, half = spread([3.0])
    assert mean == 3
    assert math.isnan(deviation)
    assert math.isnan(half)


def test_a_summary_has_a_row_for_each_value_with_its_spread():
    table = pd.DataFrame(
        {"latent_size": [5, 2, 5, 2], "test_loss": [110.0, 160.0, 112.0, 160.0], "kl": [1.0, 2, 3, 4]}
    )
    summary = summarise(table, ["latent_size"], ["test_loss", "kl"])
    assert summary["latent_size"].tolist() == [2, 5]
    assert summary["trials"].tolist() == [2, 2]
    assert summary["test_loss_mean"].tolist() == [160, 111]
    assert summary["test_loss_sd"].tolist() == pytest.approx([0, math.sqrt(2)])
    assert summary["kl_mean"].tolist() == [3, 2]
    assert (summary["test_loss_high"] - summary["test_loss_mean"]).tolist() == pytest.approx(
        [0, stats.t.ppf(0.975, 1) * math.sqrt(2) / math.sqrt(2)]
    )


def test_test_numbers_are_those_of_each_trials_last_checkpoint(tiny, tmp_path):
    rows, expected = [], []
    for number in (0, 3):
        config = TrialConfig(latent_size=2 + number, hidden_width=4, max_epochs=2, batch_size=20)
        state = new_state(config, tiny.pixels, torch.device("cpu"))
        reports = []
        for report in fit(config, tiny, torch.device("cpu"), state):
            write_checkpoint(checkpoint_folder(tmp_path, number), config, state, report)
            reports.append(asdict(report))
        rows.append(TrialRow(number, {"latent_size": 2 + number}, "", reports=tuple(reports)))
        expected.append(evaluate(state.model, to_tensor(tiny.test, torch.device("cpu")), config))
    table = test_numbers(tmp_path, rows, tiny)
    assert table["trial"].tolist() == [0, 3]
    assert table["latent_size"].tolist() == [2, 5]
    assert table["test_loss"].tolist() == [result.negative_elbo for result in expected]
    assert table["test_kl"].tolist() == [result.kl for result in expected]
    assert table["val_loss"].tolist() == [row.val_loss for row in rows]


def test_a_checkpoint_that_is_gone_is_named(tmp_path):
    row = TrialRow(3, {}, "", reports=({"epoch": 2},))
    with pytest.raises(SearchError, match=r"trial_00003/epoch_0002\.safetensors, from which trial 3 is evaluated"):
        last_checkpoint(tmp_path, row)
