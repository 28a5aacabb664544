"""Training state to and from disk: one safetensors file an epoch, never a pickle.

A checkpoint holds the weights, Adam's moments, the configuration and the epoch's report. It appears under its
name only when it is complete, and the newest two are kept, so a crash at any moment leaves a good one.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save

from vae_tune.config import DataConfig, TrialConfig, UsageError, from_dict, telling_line, to_dict
from vae_tune.files import atomic, read_json, write_json
from vae_tune.model import VAE, build
from vae_tune.names import BEST_FOLDER, CHECKPOINTS_FOLDER, CONFIG_FILE, MODEL_FILE, STUDY_FILE
from vae_tune.training import EpochReport, TrainingState, new_state

KEPT = 2
DAMAGE = (SafetensorError, OSError, LookupError, TypeError, AttributeError, ValueError, RuntimeError, UsageError)
"""What reading a file raises that was cut, changed, or written by something else."""


class Checkpoint(NamedTuple):
    """A training that can go on, and what its newest epoch reported."""

    config: TrialConfig
    state: TrainingState
    report: EpochReport


def write_checkpoint(folder: Path, config: TrialConfig, state: TrainingState, report: EpochReport) -> Path:
    """Write ``folder/epoch_NNNN.safetensors`` and delete all but the newest two checkpoints there."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    metadata = {"config": json.dumps(to_dict(config)), "report": json.dumps(asdict(report))}
    path = checkpoint_file(folder, state.epoch)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(save(tensors, metadata))
    for old in checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def read_newest(folder: Path, device: torch.device) -> Checkpoint | None:
    """Return the newest readable checkpoint in ``folder``, or None where there is none.

    A damaged checkpoint is passed over with a warning.
    """
    found = checkpoints(folder)
    for number, path in enumerate(found, start=1):
        try:
            return read_checkpoint(path, device)
        except DAMAGE as error:
            remedy = "using the checkpoint before it" if number < len(found) else "training from the start"
            warnings.warn(f"{path} is damaged ({telling_line(error)}); {remedy}.", stacklevel=2)
    return None


def read_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Return what :func:`write_checkpoint` wrote, its tensors on ``device``.

    Raises:
        One of DAMAGE: the file is damaged.
    """
    tensors, metadata = load_file(path), _metadata(path)
    config = from_dict(TrialConfig, json.loads(metadata["config"]))
    report = EpochReport(**json.loads(metadata["report"]))
    weights = _part(tensors, "model.")
    state = new_state(config, _pixels(weights), device)
    state.model.load_state_dict(weights)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer.").items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.epoch = report.epoch
    return Checkpoint(config, state, report)


def model_from_bytes(content: bytes) -> tuple[VAE, TrialConfig]:
    """Return the model in a checkpoint's bytes, on the CPU, and its configuration.

    Raises:
        One of DAMAGE: these are not the bytes of a checkpoint.
    """
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # safetensors: its length, then JSON
    config = from_dict(TrialConfig, json.loads(header["__metadata__"]["config"]))
    weights = _part(load(content), "model.")
    model = build(config, _pixels(weights))
    model.load_state_dict(weights)
    return model, config


def checkpoint_folder(study: Path, trial: int) -> Path:
    """Return where a trial of the study in the folder ``study`` keeps its checkpoints."""
    return study / CHECKPOINTS_FOLDER / f"trial_{trial:05d}"


def checkpoint_file(folder: Path, epoch: int) -> Path:
    """Return the name of the checkpoint after ``epoch`` epochs."""
    return folder / f"epoch_{epoch:04d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, the newest first."""
    epochs = {path: path.stem.removeprefix("epoch_") for path in folder.glob("epoch_*.safetensors")}
    own = [path for path, epoch in epochs.items() if epoch.isdecimal()]
    return sorted(own, key=lambda path: int(epochs[path]), reverse=True)


def write_model(folder: Path, model: VAE, config: TrialConfig, data: DataConfig | None = None) -> None:
    """Write ``model.safetensors``, which also says what ``data`` it was trained on, and ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / MODEL_FILE) as file:
        file.write(save(model.state_dict(), {"data": json.dumps(to_dict(data or DataConfig()))}))
    write_json(folder / CONFIG_FILE, to_dict(config))


def find_model(path: Path) -> Path:
    """Return the folder of a model that a person named: by its folder, its file, or the study whose best it is."""
    if (path / STUDY_FILE).exists():
        return path / BEST_FOLDER
    return path.parent if path.name == MODEL_FILE else path


def read_model(folder: Path) -> tuple[VAE, TrialConfig]:
    """Return the model that :func:`write_model` wrote, on the CPU, and its configuration.

    Raises:
        UsageError: a file is missing, damaged, or does not fit the other.
    """
    try:
        config = from_dict(TrialConfig, read_json(folder / CONFIG_FILE))
        weights = load_file(folder / MODEL_FILE)
        model = build(config, _pixels(weights))
        model.load_state_dict(weights)
    except DAMAGE as error:
        raise UsageError(f"No usable model in {folder}: {telling_line(error)}") from error
    return model, config


def read_config(path: Path) -> TrialConfig:
    """Return the configuration in a ``config.json``.

    Raises:
        UsageError: it is missing or damaged.
    """
    try:
        config: TrialConfig = from_dict(TrialConfig, read_json(path))
    except DAMAGE as error:
        raise UsageError(f"No usable configuration in {path}: {telling_line(error)}") from error
    return config


def read_data_config(folder: Path) -> DataConfig:
    """Return what data the model in ``folder`` was trained on; the default where its file does not say.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        data: DataConfig = from_dict(DataConfig, json.loads(_metadata(folder / MODEL_FILE).get("data", "{}")))
    except DAMAGE as error:
        raise UsageError(f"No usable model in {folder}: {telling_line(error)}") from error
    return data


def _pixels(weights: dict[str, torch.Tensor]) -> int:
    """Return the number of pixels that a model's weights are for."""
    weight = weights.get("encoder.hidden.0.weight")
    if weight is None or weight.ndim != 2:
        raise ValueError("encoder.hidden.0.weight is missing or no matrix")
    return weight.shape[1]


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
