"""What a Ray Tune worker runs: one trial after another, in a process that is reused."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune

from vae_tune.checkpoint import checkpoint_folder, read_midway, take_up, write_checkpoint, write_midway
from vae_tune.config import TrialConfig
from vae_tune.data import Images
from vae_tune.drain import on_notice
from vae_tune.files import is_remote
from vae_tune.names import (
    DEVICE,
    EPOCH,
    EPOCHS,
    EVALUATION_SECONDS,
    GPUS,
    REASON,
    STORAGE_ERROR,
    TRIAL,
    VAL_LOSS,
    VALUES,
)
from vae_tune.storage import delete_folder
from vae_tune.training import Diverged, EpochReport, TrainingState, fit, new_state


def train_trial(
    config: dict[str, Any], *, images: Images, base: TrialConfig, folder: Path, threads: int, spot: bool = False
) -> None:
    """Train one trial and report each epoch to Ray Tune; go on from its newest checkpoint where there is one.

    Args:
        config: the trial's number, its hyperparameters, how many of its epochs the record knows, its share of a GPU.
        images: shared by all trials of a node, read-only.
        base: the reference configuration; the hyperparameters replace its fields.
        folder: the study, on disk or object storage: it gets the checkpoints.
        threads: CPU threads of the trial.
        spot: whether its node may be taken away, with a notice before.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if config.get(GPUS) else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    trial_config = dataclasses.replace(base, **config[VALUES])
    checkpoints = checkpoint_folder(folder, config[TRIAL])

    def report(epoch: EpochReport, **more: str) -> None:
        evaluating = epoch.seconds - len(images.train) / epoch.images_per_second
        tune.report({**asdict(epoch), DEVICE: name, EVALUATION_SECONDS: evaluating, **more})

    try:
        with warnings.catch_warnings(record=True) as damage:
            checkpoint = take_up(checkpoints, device)
    except OSError as error:
        tune.report({EPOCH: 0, VAL_LOSS: float("inf"), STORAGE_ERROR: str(error)})
        return
    note = {REASON: " ".join(str(warning.message) for warning in damage)} if damage else {}
    reports: list[EpochReport] = []
    if checkpoint is None or (checkpoint.config != trial_config and is_remote(folder)):
        if checkpoint:  # a head was lost with the end of its record, and the trial's number was given again
            delete_folder(checkpoints)
        state = new_state(trial_config, images.pixels, device)
    elif checkpoint.config != trial_config:
        raise ValueError(f"{checkpoints} holds checkpoints of another configuration: {checkpoint.config}")
    else:
        state = checkpoint.state
        reports = [*checkpoint.earlier, checkpoint.report]
        for done in reports:  # the last was perhaps never received; the record ignores an epoch that it knows
            if done.epoch > config.get(EPOCHS, 0) or done is checkpoint.report:
                report(done, **note)
    state = read_midway(checkpoints, trial_config, state.epoch, device) or state
    watch = on_notice(partial(_save_midway, checkpoints, trial_config, state)) if spot else None
    try:
        for epoch in fit(trial_config, images, device, state, watch and (lambda _: watch())):
            try:
                write_checkpoint(checkpoints, trial_config, state, epoch, reports)
            except OSError as error:  # no fault of the trial: the search has to end, and goes on from the epoch before
                report(epoch, **{STORAGE_ERROR: str(error)})
                return
            reports.append(epoch)
            report(epoch)
    except Diverged as diverged:
        tune.report({EPOCH: diverged.epoch, VAL_LOSS: float("nan"), REASON: str(diverged), DEVICE: name})


def _save_midway(folder: Path, config: TrialConfig, state: TrainingState) -> None:
    """Save a training in the middle of an epoch, so that not even that is lost; where it fails, only that is."""
    with contextlib.suppress(OSError):
        write_midway(folder, config, state)
