"""Repeats: trials of the same configuration with different seeds, evaluated on test and averaged over the seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vae_tune.config.errors import telling_line
from vae_tune.config.fields import from_dict
from vae_tune.config.files import address
from vae_tune.config.names import TEST_LOSS, TRIAL, VAL_LOSS
from vae_tune.config.settings import TrialConfig
from vae_tune.config.trial_values import with_values
from vae_tune.images.datasets import Images, to_tensor
from vae_tune.record.metadata import read_metadata
from vae_tune.record.trials import TrialRow
from vae_tune.vae.checkpoint import (
    DAMAGE,
    Checkpoint,
    checkpoint_file,
    checkpoint_folder,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from vae_tune.vae.model import VAE
from vae_tune.vae.schedule import continues
from vae_tune.vae.threads import cpu_threads
from vae_tune.vae.training import evaluate, fit, new_state
from vae_tune.vae.user_metric import MetricFailed, UserMetric

if TYPE_CHECKING:
    import pandas as pd

_CPU = torch.device("cpu")
_TOLERANCE, _RELATIVE_TOLERANCE = 5e-4, 1e-6  # nats and share by which rounding may change a loss
CONFIDENCE = 0.95


def evaluate_trials(
    folder: Path,
    rows: Sequence[TrialRow],
    images: Images,
    say: Callable[[str], None],
    metric: UserMetric | None = None,
) -> pd.DataFrame:
    """Evaluate the last checkpoint of each trial on the test images; pass lost checkpoints to ``say``.

    Returns:
        One row per trial: its number, hyperparameters, val_loss, and test_loss with its parts, in nats per image; and
        each value of ``metric``, on the test images with ``test_`` before its name, NaN where the metric fails.
    """
    import pandas as pd

    test = to_tensor(images.test, _CPU)
    table = []
    for row in rows:
        checkpoint = load_last_checkpoint(folder, row, images, say)
        result = asdict(evaluate(checkpoint.state.model, test, checkpoint.config))
        numbers = {TRIAL: row.trial, **row.values, VAL_LOSS: row.val_loss, TEST_LOSS: result.pop("negative_elbo")}
        if metric:
            numbers |= {name: row.reports[-1][name] for name in metric.ranking.columns}
            missing = dict.fromkeys(metric.ranking.columns, math.nan)
            result |= missing | values_on_test(metric, row, checkpoint.state.model, test, say)
        table.append({**numbers, **{f"test_{name}": value for name, value in result.items()}})
    return pd.DataFrame(table)


def values_on_test(
    metric: UserMetric, row: TrialRow, model: VAE, test: torch.Tensor, say: Callable[[str], None]
) -> dict[str, float]:
    """Return the values of a user's metric on the test images, uint8; where it fails, none, and ``say`` why."""
    try:
        return metric(model, test.div(255.0))
    except MetricFailed as failed:
        say(f"Trial {row.trial} has no {metric.ranking.name} on the test images: {failed}.")
        return {}


def load_last_checkpoint(folder: Path, row: TrialRow, images: Images, say: Callable[[str], None]) -> Checkpoint:
    """Return the last checkpoint of a trial of the study in ``folder``.

    If it is missing or damaged, pass that to ``say`` and train the trial again on the CPU, from an earlier checkpoint
    or from the start. The numbers are the same if it was trained on a CPU before, else nearly the same.
    """
    place = checkpoint_folder(folder, row.trial)
    path = checkpoint_file(place, row.epochs)
    try:
        return read_checkpoint(path, _CPU)
    except DAMAGE as error:
        say(f"{address(path)} is missing or damaged ({telling_line(error)}): trial {row.trial} is trained again.")
    metadata = read_metadata(folder)
    config = with_values(from_dict(TrialConfig, metadata["reference"]), row.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said already
        before = newest_checkpoint(place, _CPU)
    goes_on = before is not None and continues(before.config, config) and before.state.epoch < row.epochs
    state = before.state if before and goes_on else new_state(config, images.shape, _CPU)
    with cpu_threads(metadata["config"]["resources"]["cpus_per_trial"]):
        report = next(report for report in fit(config, images, _CPU, state) if report.epoch == row.epochs)
    if abs(report.val_loss - (row.val_loss or 0)) >= max(_TOLERANCE, _RELATIVE_TOLERANCE * abs(report.val_loss)):
        say(f"Trial {row.trial} now has a loss of {report.val_loss:.3f} nats, {row.val_loss:.3f} before.")
    write_checkpoint(place, config, state, report)
    return Checkpoint(config, state, report)


def summarize_seeds(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return one row per value of ``by``: the number of trials; mean, deviation and 95 % interval of each column.

    The interval is that of the mean, by Student's t: what another set of seeds would give. One trial has none.
    """
    rows = []
    for values, group in table.groupby(list(by), sort=True):
        row: dict[str, Any] = dict(zip(by, values, strict=True)) | {"trials": len(group)}
        for name in columns:
            mean, deviation, half = mean_and_interval(group[name].tolist())
            row |= {f"{name}_mean": mean, f"{name}_sd": deviation}
            row |= {f"{name}_low": mean - half, f"{name}_high": mean + half}
        rows.append(row)
    import pandas as pd

    return pd.DataFrame(rows)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, standard deviation, and half the width of the mean's 95 % interval; NaN for one value."""
    from scipy.stats import t

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.nan, math.nan
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, deviation, float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation / math.sqrt(count)
