"""Several seeds of one configuration: their test numbers and what they say together."""

import math
import shutil
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from vae_tune.config.files import write_json
from vae_tune.config.names import COMPLETE, PRUNED
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import load_space
from vae_tune.images.datasets import to_tensor
from vae_tune.record.metadata import new_metadata
from vae_tune.record.trials import TrialRow
from vae_tune.tasks.repeats import evaluate_trials, load_last_checkpoint, mean_and_interval, summarize_seeds
from vae_tune.vae.checkpoint import checkpoint_file, checkpoint_folder, read_checkpoint, write_checkpoint
from vae_tune.vae.threads import cpu_threads
from vae_tune.vae.training import evaluate, fit, new_state
from vae_tune.vae.user_metric import read_metric

CPU = torch.device("cpu")


def test_the_interval_is_that_of_students_t():
    values = [104.2, 103.9, 105.0, 104.4]
    mean, deviation, half = mean_and_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_one_value_has_no_interval():
    mean, deviation, half = mean_and_interval([3.0])
    assert mean == 3
    assert math.isnan(deviation)
    assert math.isnan(half)


def test_a_summary_has_a_row_for_each_value_with_its_spread():
    table = pd.DataFrame(
        {"latent_size": [5, 2, 5, 2], "test_loss": [110.0, 160.0, 112.0, 160.0], "kl": [1.0, 2, 3, 4]}
    )
    summary = summarize_seeds(table, ["latent_size"], ["test_loss", "kl"])
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
        state = new_state(config, tiny.shape, CPU)
        reports = []
        for report in fit(config, tiny, CPU, state):
            write_checkpoint(checkpoint_folder(tmp_path, number), config, state, report)
            reports.append(asdict(report))
        rows.append(TrialRow(number, {"latent_size": 2 + number}, "", reports=tuple(reports)))
        expected.append(evaluate(state.model, to_tensor(tiny.test, CPU), config))
    table = evaluate_trials(tmp_path, rows, tiny, pytest.fail)
    assert table["trial"].tolist() == [0, 3]
    assert table["latent_size"].tolist() == [2, 5]
    assert table["test_loss"].tolist() == [result.negative_elbo for result in expected]
    assert table["test_kl"].tolist() == [result.kl for result in expected]
    assert table["val_loss"].tolist() == [row.val_loss for row in rows]


def test_a_metric_that_fails_on_test_has_no_value_there(tiny, tmp_path):
    (tmp_path / "mine.py").write_text("def f(model, images):\n    return 1 / (len(images) - 30)\n")
    metric = read_metric(f"{tmp_path}/mine.py:f")
    metric = replace(metric, ranking=replace(metric.ranking, columns=("f",)))
    config = TrialConfig(hidden_width=4, max_epochs=1, batch_size=20)
    state, said = new_state(config, tiny.shape, CPU), []
    (report,) = fit(config, tiny, CPU, state, metric=metric)
    write_checkpoint(checkpoint_folder(tmp_path, 0), config, state, report)
    rows = [TrialRow(0, {"latent_size": 20}, "", reports=(asdict(report) | report.metrics,))]
    table = evaluate_trials(tmp_path, rows, tiny, said.append, metric)
    assert table["f"].tolist() == [0.1]
    where = f"{tmp_path}/mine.py:2 in f"
    assert said == [f"Trial 0 has no f on the test images: {where}: ZeroDivisionError: division by zero."]
    assert math.isnan(summarize_seeds(table, ["latent_size"], ["test_f"])["test_f_mean"].iloc[0])


@pytest.mark.parametrize("damage", ["lost", "cut", "all lost"])
def test_a_last_checkpoint_that_is_lost_is_trained_again_and_said(tiny, tmp_path, damage):
    config = TrialConfig(hidden_width=4, max_epochs=3, batch_size=20)
    searched = SearchConfig(trial=config)
    write_json(tmp_path / "study.json", new_metadata("s", searched, config, load_space(None, config), tiny))
    trained = replace(config, latent_size=5)
    state, reports = new_state(trained, tiny.shape, CPU), []
    for report in fit(trained, tiny, CPU, state):
        newest = write_checkpoint(checkpoint_folder(tmp_path, 3), trained, state, report)
        reports.append(asdict(report))
    match damage:
        case "lost":
            newest.unlink()
        case "cut":
            newest.write_bytes(newest.read_bytes()[:100])
        case "all lost":
            shutil.rmtree(newest.parent)
    said = []
    row = TrialRow(3, {"latent_size": 5}, "", COMPLETE, reports=tuple(reports))
    checkpoint = load_last_checkpoint(tmp_path, row, tiny, said.append)
    assert len(said) == 1
    assert "trial_00003/epoch_0003.safetensors is missing or damaged" in said[0]
    assert checkpoint.report.val_loss == row.val_loss
    assert all(map(torch.equal, checkpoint.state.model.state_dict().values(), state.model.state_dict().values()))
    assert read_checkpoint(newest, CPU).report == checkpoint.report
    assert load_last_checkpoint(tmp_path, row, tiny, pytest.fail).config == trained


def test_a_trial_is_trained_again_with_as_many_threads_as_it_had(mnist, tmp_path):
    small = replace(mnist, train=mnist.train[:300], validation=mnist.validation[:500])
    config = TrialConfig(latent_size=5, hidden_width=16, max_epochs=1)
    write_json(tmp_path / "study.json", new_metadata("s", SearchConfig(), config, load_space(None, config), small))
    weights = []
    for threads in (1, 2, 4):
        row = TrialRow(threads, {}, "", COMPLETE, reports=({"epoch": 1, "val_loss": 1.0},))
        with cpu_threads(threads):
            weights.append(load_last_checkpoint(tmp_path, row, small, lambda _: None).state.optimizer.parameter)
    assert all(torch.equal(weights[0], other) for other in weights[1:])


def test_a_checkpoint_beyond_a_trials_last_epoch_is_not_gone_on_from(tiny, tmp_path):
    config = TrialConfig(hidden_width=4, max_epochs=3, batch_size=20)
    write_json(tmp_path / "study.json", new_metadata("s", SearchConfig(), config, load_space(None, config), tiny))
    state, reports = new_state(config, tiny.shape, CPU), []
    for report in fit(config, tiny, CPU, state):
        write_checkpoint(checkpoint_folder(tmp_path, 0), config, state, report)
        reports.append(asdict(report))
    checkpoint_file(checkpoint_folder(tmp_path, 0), 2).unlink()
    row = TrialRow(0, {}, "", PRUNED, reports=tuple(reports[:2]))
    assert load_last_checkpoint(tmp_path, row, tiny, lambda _: None).report.val_loss == row.val_loss


def test_a_trial_that_trains_to_another_loss_now_is_named(tiny, tmp_path):
    config = TrialConfig(hidden_width=4, max_epochs=1, batch_size=20)
    write_json(tmp_path / "study.json", new_metadata("s", SearchConfig(), config, load_space(None, config), tiny))
    row = TrialRow(0, {}, "", COMPLETE, reports=({"epoch": 1, "val_loss": 1.0},))
    said = []
    load_last_checkpoint(tmp_path, row, tiny, said.append)
    assert said[1].startswith("Trial 0 now has a loss of")
