"""Training state to and from disk or object storage: one safetensors file an epoch, never a pickle.

A checkpoint holds the weights, Adam's moments, the configuration, the epoch's report and those before it. It appears
under its name only when it is complete, and the newest two are kept, so a crash at any moment leaves a good one. Those
of later epochs than the newest that could be read are damaged: they do not count, and the training overwrites them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from vae_tune.config.files import address, delete_temporary_files, named_path, read_json, write_json
from vae_tune.config.local_copies import local_copy, original_address
from vae_tune.config.names import BEST_FOLDER, CHECKPOINTS_FOLDER, CONFIG_FILE, MODEL_FILE, STUDY_FILE
from vae_tune.config.settings import DataConfig, TrialConfig, UsageError, from_dict, telling_line, to_dict
from vae_tune.config.storage import (
    PATIENCE,
    QUICK,
    StorageError,
    delete,
    delete_folder,
    list_folder,
    read_bytes,
    write_bytes,
)
from vae_tune.vae.model import VAE, Shape, build_model
from vae_tune.vae.training import EpochReport, TrainingState, new_state

KEPT = 2
_MIDWAY_FILE = "midway.safetensors"
_MODEL = "model."
"""Prefix of the names of the network's weights."""
_OPTIMIZER = "optimizer."
"""Prefix of the names of Adam's moments; each is one tensor, in the order of ``flatten_parameters``."""
_LOSS = "loss"
_PROGRESS = ("epoch", "step", "seconds")
"""What a training state has besides its tensors."""
DAMAGE = (SafetensorError, OSError, LookupError, TypeError, AttributeError, ValueError, RuntimeError, UsageError)
"""What reading a file raises that was cut, changed, or written by something else."""


class Checkpoint(NamedTuple):
    """A training that can go on, and what its newest epoch reported."""

    config: TrialConfig
    state: TrainingState
    report: EpochReport
    earlier: tuple[EpochReport, ...] = ()
    """The reports before it, as far as they were known to who wrote it."""


def write_checkpoint(
    folder: Path,
    config: TrialConfig,
    state: TrainingState,
    report: EpochReport,
    earlier: Sequence[EpochReport] = (),
) -> Path:
    """Write ``folder/epoch_NNNN.safetensors``, and delete the checkpoints before it but for the last of them."""
    return store_checkpoint(folder, state.epoch, checkpoint_bytes(config, state, report, earlier))


def checkpoint_bytes(
    config: TrialConfig, state: TrainingState, report: EpochReport, earlier: Sequence[EpochReport] = ()
) -> bytes:
    """Return the content of a checkpoint."""
    more = {"report": asdict(report), "earlier": [asdict(one) for one in earlier]}
    return _state_bytes(config, state, more)


def store_checkpoint(folder: Path, epoch: int, content: bytes) -> Path:
    """Write what :func:`checkpoint_bytes` returned after ``epoch`` epochs, as :func:`write_checkpoint` does."""
    path = checkpoint_file(folder, epoch)
    write_bytes(path, content)
    before = [other for other in checkpoints(folder) if _epoch(other) < epoch]
    for old in before[KEPT - 1 :]:
        delete(old)
    return path


def write_midway(folder: Path, config: TrialConfig, state: TrainingState) -> None:
    """Write ``folder/midway.safetensors``, from which a training goes on in the middle of an epoch."""
    progress = {name: getattr(state, name) for name in _PROGRESS}
    content = _state_bytes(config, state, {"progress": progress}, {_LOSS: state.loss})
    write_bytes(folder / _MIDWAY_FILE, content, QUICK)


def read_midway(folder: Path, config: TrialConfig, epoch: int, device: torch.device) -> TrainingState | None:
    """Return what :func:`write_midway` wrote in the epoch after ``epoch``; None where that is not there or damaged."""
    try:
        content = read_bytes(folder / _MIDWAY_FILE, QUICK)
        metadata = _metadata(content)
        progress = json.loads(metadata["progress"])
        if progress["epoch"] != epoch or from_dict(TrialConfig, json.loads(metadata["config"])) != config:
            return None
        tensors = load(content)
        state = _state(tensors, config, _shape(metadata), device)
        state.loss.copy_(tensors[_LOSS])
        for name in _PROGRESS:
            setattr(state, name, progress[name])
    except DAMAGE:
        return None
    return state


def take_up(folder: Path, device: torch.device) -> Checkpoint | None:
    """Return the newest readable checkpoint in ``folder``, from which a training goes on; None where there is none.

    A damaged checkpoint is passed over with a warning. What a worker that was killed in the middle of one left behind
    is deleted first. No other moment is right for that: a worker that was cut off from the search, but not from its
    disk, would delete what its successor is writing.

    Raises:
        OSError: the storage that it lies on does not answer.
    """
    delete_temporary_files(folder)
    found = checkpoints(folder)
    for number, path in enumerate(found, start=1):
        read = _read_unless_damaged(path, device)
        if isinstance(read, Checkpoint):
            return read
        remedy = "using the checkpoint before it" if number < len(found) else "training from the start"
        warnings.warn(f"{address(path)} is damaged ({read}); {remedy}.", stacklevel=2)
    return None


def read_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Return what :func:`write_checkpoint` wrote, its tensors on ``device``.

    Raises:
        One of DAMAGE: the file is damaged.
    """
    content = read_bytes(path, PATIENCE)
    tensors, metadata = load(content), _metadata(content)
    config = from_dict(TrialConfig, json.loads(metadata["config"]))
    report = EpochReport(**json.loads(metadata["report"]))
    earlier = tuple(EpochReport(**one) for one in json.loads(metadata.get("earlier", "[]")))
    state = _state(tensors, config, _shape(metadata), device)
    state.epoch = report.epoch
    return Checkpoint(config, state, report, earlier)


def _read_unless_damaged(path: Path, device: torch.device) -> Checkpoint | str:
    """Return the checkpoint at ``path``, or in what way it is damaged.

    Raises:
        OSError: the storage that it lies on does not answer.
    """
    try:
        return read_checkpoint(path, device)
    except StorageError:
        raise
    except DAMAGE as error:
        return telling_line(error)


def model_from_bytes(content: bytes) -> tuple[VAE, TrialConfig]:
    """Return the model in a checkpoint's bytes, on the CPU, and its configuration.

    Raises:
        One of DAMAGE: these are not the bytes of a checkpoint.
    """
    config = from_dict(TrialConfig, json.loads(_metadata(content)["config"]))
    return _model(_part(load(content), _MODEL), config, _metadata(content)), config


def checkpoint_folder(study: Path, trial: int) -> Path:
    """Return where a trial of the study in the folder ``study`` keeps its checkpoints."""
    return study / CHECKPOINTS_FOLDER / f"trial_{trial:05d}"


def checkpoint_file(folder: Path, epoch: int) -> Path:
    """Return the name of the checkpoint after ``epoch`` epochs."""
    return folder / f"epoch_{epoch:04d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, the newest first."""
    names = list_folder(folder, PATIENCE).files
    found = [folder / name for name in names if name.startswith("epoch_") and name.endswith(".safetensors")]
    own = [path for path in found if path.stem.removeprefix("epoch_").isdecimal()]
    return sorted(own, key=_epoch, reverse=True)


def trials_with_checkpoints(study: Path) -> set[int]:
    """Return the numbers of the trials that have checkpoints."""
    found = list_folder(study / CHECKPOINTS_FOLDER, PATIENCE).folders
    return {int(name.removeprefix("trial_")) for name in found if name.removeprefix("trial_").isdecimal()}


def discard_checkpoints(study: Path, trial: int, keep: int) -> None:
    """Delete the checkpoints of a trial but for the newest of its first ``keep`` epochs that can be read.

    Where none of them can be read, all files stay, as they do no harm.

    Raises:
        OSError: the storage does not answer.
    """
    folder = checkpoint_folder(study, trial)
    if not keep:
        delete_folder(folder)
        return
    delete(folder / _MIDWAY_FILE)
    found = checkpoints(folder)
    if len(found) < 2:
        return
    cpu = torch.device("cpu")
    first = (path for path in found if _epoch(path) <= keep)
    newest = next((path for path in first if isinstance(_read_unless_damaged(path, cpu), Checkpoint)), None)
    for path in found:
        if newest and path != newest:
            delete(path)


def write_model(folder: Path, model: VAE, config: TrialConfig, data: DataConfig | None = None) -> None:
    """Write ``model.safetensors``, which also says what ``data`` it was trained on, and ``config.json``."""
    metadata = {"data": json.dumps(to_dict(data or DataConfig())), "shape": json.dumps(model.shape)}
    write_bytes(folder / MODEL_FILE, save(model.network.state_dict(), metadata))
    write_json(folder / CONFIG_FILE, to_dict(config))


def find_model(path: Path) -> Path:
    """Return the folder of a model that a person named: by its folder, its file, or the study whose best it is.

    Raises:
        UsageError: the study has none.
    """
    path = local_copy(path)
    if (path / STUDY_FILE).exists():
        if not (path / BEST_FOLDER).is_dir():
            raise UsageError(f"The study {original_address(path)} has no model: none of its trials has succeeded yet.")
        return path / BEST_FOLDER
    return named_path(path.parent) if path.name == MODEL_FILE else path


def load_model(path: str | Path) -> VAE:
    """Return a trained model on the CPU, an ``nn.Module`` in eval mode: ``model.encode(images)`` gives latent means.

    Args:
        path: the folder of a model or its ``model.safetensors``, or a study, whose best model it is then.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    return read_model(find_model(named_path(path)))[0].eval()


def read_model(folder: Path) -> tuple[VAE, TrialConfig]:
    """Return the model that :func:`write_model` wrote, on the CPU, and its configuration.

    Raises:
        UsageError: a file is missing, damaged, or does not fit the other.
    """
    try:
        config = from_dict(TrialConfig, read_json(folder / CONFIG_FILE))
        content = (folder / MODEL_FILE).read_bytes()
        model = _model(load(content), config, _metadata(content))
    except FileNotFoundError as error:
        missing = f"{Path(error.filename).name} is missing" if folder.is_dir() else "there is no such folder"
        raise UsageError(f"No usable model in {original_address(folder)}: {missing}.") from error
    except DAMAGE as error:
        raise UsageError(f"No usable model in {original_address(folder)}: {telling_line(error)}") from error
    return model, config


def read_config(path: Path) -> TrialConfig:
    """Return the configuration in a ``config.json``.

    Raises:
        UsageError: it is missing or damaged.
    """
    try:
        config: TrialConfig = from_dict(TrialConfig, read_json(path))
    except DAMAGE as error:
        reason = f"No usable configuration in {path}: {telling_line(error).rstrip('.')}."
        raise UsageError(f"{reason}\nIt takes a JSON file such as results/NAME/best/config.json.") from error
    return config


def read_data_config(folder: Path) -> DataConfig:
    """Return what data the model in ``folder`` was trained on; the default where its file does not say.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        metadata = _metadata((folder / MODEL_FILE).read_bytes())
        data: DataConfig = from_dict(DataConfig, json.loads(metadata.get("data", "{}")))
    except DAMAGE as error:
        raise UsageError(f"No usable model in {original_address(folder)}: {telling_line(error)}") from error
    return data


def _epoch(path: Path) -> int:
    """Return the epoch of the checkpoint at ``path``."""
    return int(path.stem.removeprefix("epoch_"))


def _state_bytes(
    config: TrialConfig, state: TrainingState, more: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None
) -> bytes:
    """Return a file of the state and of what else is given, with the configuration and the images' shape."""
    found = {f"{_MODEL}{name}": tensor for name, tensor in state.model.network.state_dict().items()}
    found |= {f"{_OPTIMIZER}{name}": tensor for name, tensor in state.optimizer.moments.items()}
    metadata = {"config": to_dict(config), "shape": state.model.shape, **more}
    return save(found | (tensors or {}), {name: json.dumps(value) for name, value in metadata.items()})


def _state(tensors: dict[str, torch.Tensor], config: TrialConfig, shape: Shape, device: torch.device) -> TrainingState:
    """Return a training with these weights and moments."""
    state = new_state(config, shape, device)
    state.model.network.load_state_dict(_part(tensors, _MODEL))
    state.optimizer.load(_part(tensors, _OPTIMIZER))
    return state


def _model(weights: dict[str, torch.Tensor], config: TrialConfig, metadata: dict[str, str]) -> VAE:
    """Return a model with these weights."""
    model = build_model(config, _shape(metadata))
    model.network.load_state_dict(weights)
    return model


def _shape(metadata: dict[str, str]) -> Shape:
    """Return the shape of the images that a file's model is for: 28 x 28 where version 0.1.0 did not write it."""
    channels, height, width = json.loads(metadata.get("shape", "[1, 28, 28]"))
    return channels, height, width


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _metadata(content: bytes) -> dict[str, str]:
    """Return the texts in the header of a safetensors file: its length, then JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__", {}))
