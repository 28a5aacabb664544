"""Training state to and from disk or object storage: one safetensors file per epoch, never a pickle.

A checkpoint holds the weights, Adam's moments, the configuration, the shape of the images, the epoch's report and the
reports before it. It appears under its name only when it is complete, and the newest two are kept, so a crash at any
moment leaves a good one. A damaged one does not count: training goes on from the one before it and overwrites it.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from vae_tune.config import storage
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.files import address, delete_temporary_files, named_path, read_json, write_json
from vae_tune.config.local_copies import local_copy, original_address
from vae_tune.config.names import (
    BEST_FOLDER,
    CHECKPOINTS_FOLDER,
    CODE,
    CONFIG_FILE,
    FUNCTION,
    METRIC,
    METRIC_CODE,
    MODEL_FILE,
    SHA256,
    STUDY_FILE,
)
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.vae.flat_parameters import from_row_major, row_major
from vae_tune.vae.model import VAE, Shape, build_model
from vae_tune.vae.networks.code import Code
from vae_tune.vae.networks.registry import admit_again, admitted_code
from vae_tune.vae.schedule import continues
from vae_tune.vae.training import EpochReport, TrainingState, new_state

KEPT = 2
_MIDWAY_FILE = "midway.safetensors"
_MODEL, _OPTIMIZER, _LOSS = "model.", "optimizer.", "loss"
"""Prefixes of the names of the weights and of Adam's moments, and the name of the loss so far."""
_LIKELIHOOD = "likelihood:"
"""Prefix of the names of a likelihood's own parameters: no name in a network has a colon."""
_PROGRESS = ("epoch", "step", "seconds")
"""The fields of a training state that are no tensors."""
_OLD_SHAPE = (1, 28, 28)
"""The shape of all images that version 0.1.0 read; its files do not name it."""
DAMAGE = (SafetensorError, OSError, LookupError, TypeError, AttributeError, ValueError, RuntimeError, UsageError)
"""The errors that reading a file raises which was cut, changed, or written by another program."""


class Checkpoint(NamedTuple):
    """A training that can go on, and the report of its newest epoch."""

    config: TrialConfig
    state: TrainingState
    report: EpochReport
    earlier: tuple[EpochReport, ...] = ()
    """The reports before it that the writer knew."""


def write_checkpoint(
    folder: Path, config: TrialConfig, state: TrainingState, report: EpochReport, earlier: Sequence[EpochReport] = ()
) -> Path:
    """Write ``folder/epoch_NNNN.safetensors``, and delete older checkpoints except the last of them."""
    return store_checkpoint(folder, state.epoch, checkpoint_bytes(config, state, report, earlier))


def checkpoint_bytes(
    config: TrialConfig, state: TrainingState, report: EpochReport, earlier: Sequence[EpochReport] = ()
) -> bytes:
    """Return the content of a checkpoint."""
    reports = {"report": report.to_dict(), "earlier": [one.to_dict() for one in earlier]}
    return _save(_tensors(state), config=to_dict(config), shape=state.model.shape, **reports)


def store_checkpoint(folder: Path, epoch: int, content: bytes) -> Path:
    """Write the :func:`checkpoint_bytes` of ``epoch``, as :func:`write_checkpoint` does."""
    path = checkpoint_file(folder, epoch)
    storage.write_bytes(path, content)
    before = [other for other in checkpoints(folder) if _epoch(other) < epoch]
    for old in before[KEPT - 1 :]:
        storage.delete(old)
    return path


def write_midway(folder: Path, config: TrialConfig, state: TrainingState) -> None:
    """Write ``folder/midway.safetensors``, from which a training goes on in the middle of an epoch."""
    tensors, progress = _tensors(state) | {_LOSS: state.loss}, {name: getattr(state, name) for name in _PROGRESS}
    content = _save(tensors, config=to_dict(config), shape=state.model.shape, progress=progress)
    storage.write_bytes(folder / _MIDWAY_FILE, content, storage.QUICK)


def read_midway(folder: Path, config: TrialConfig, epoch: int, device: torch.device) -> TrainingState | None:
    """Return the state that :func:`write_midway` wrote in the epoch after ``epoch``; None if there is no good one."""
    try:
        tensors, metadata = _load(storage.read_bytes(folder / _MIDWAY_FILE, storage.QUICK))
        progress = metadata["progress"]
        if progress["epoch"] != epoch or not continues(from_dict(TrialConfig, metadata["config"]), config):
            return None
        state = _state(tensors, metadata, config, device)
        state.loss.copy_(tensors[_LOSS])
        for name in _PROGRESS:
            setattr(state, name, progress[name])
    except DAMAGE:
        return None
    return state


def newest_checkpoint(folder: Path, device: torch.device) -> Checkpoint | None:
    """Return the newest readable checkpoint in ``folder``, from which a training goes on; None if there is none.

    Damaged checkpoints are skipped with a warning. The temporary file that a killed worker left is deleted first: only
    when a trial starts, because a worker that lost contact with the search, but not with its disk, would delete the
    file that its successor is writing. Raises OSError if the object storage does not answer.
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
    """Return the checkpoint at ``path``, its tensors on ``device``; raise one of DAMAGE if it is damaged."""
    tensors, metadata = _load(storage.read_bytes(path, storage.PATIENCE))
    config = from_dict(TrialConfig, metadata["config"])
    report = EpochReport(**metadata["report"])
    earlier = tuple(EpochReport(**one) for one in metadata.get("earlier", []))
    state = _state(tensors, metadata, config, device)
    state.epoch = report.epoch
    return Checkpoint(config, state, report, earlier)


def _read_unless_damaged(path: Path, device: torch.device) -> Checkpoint | str:
    """Return the checkpoint at ``path``, or a line that says how it is damaged."""
    try:
        return read_checkpoint(path, device)
    except storage.StorageError:
        raise
    except DAMAGE as error:
        return telling_line(error)


def model_from_bytes(content: bytes) -> tuple[VAE, TrialConfig]:
    """Return the model in a checkpoint's bytes, on the CPU, and its configuration; raise DAMAGE at other bytes."""
    tensors, metadata = _load(content)
    config = from_dict(TrialConfig, metadata["config"])
    likelihood = {name: tensor for name, tensor in tensors.items() if name.startswith(_LIKELIHOOD)}
    return _model(_part(tensors, _MODEL) | likelihood, metadata, config), config


def checkpoint_folder(study: Path, trial: int) -> Path:
    """Return the folder for the checkpoints of a trial of the study in the folder ``study``."""
    return study / CHECKPOINTS_FOLDER / f"trial_{trial:05d}"


def checkpoint_file(folder: Path, epoch: int) -> Path:
    """Return the name of the checkpoint after ``epoch`` epochs."""
    return folder / f"epoch_{epoch:04d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, the newest first."""
    names = storage.list_folder(folder, storage.PATIENCE).files
    own = [folder / name for name in names if re.fullmatch(r"epoch_\d+\.safetensors", name)]
    return sorted(own, key=_epoch, reverse=True)


def trials_with_checkpoints(study: Path) -> set[int]:
    """Return the numbers of the trials that have checkpoints."""
    found = storage.list_folder(study / CHECKPOINTS_FOLDER, storage.PATIENCE).folders
    return {int(name.removeprefix("trial_")) for name in found if name.removeprefix("trial_").isdecimal()}


def discard_checkpoints(study: Path, trial: int, keep: int) -> None:
    """Delete the checkpoints of a trial except the newest readable one of its first ``keep`` epochs.

    If none of them can be read, all files stay, as they do no harm. Raises OSError if the storage does not answer.
    """
    folder = checkpoint_folder(study, trial)
    if not keep:
        storage.delete_folder(folder)
        return
    storage.delete(folder / _MIDWAY_FILE)
    found = checkpoints(folder)
    if len(found) < 2:
        return
    cpu = torch.device("cpu")
    first = (path for path in found if _epoch(path) <= keep)
    newest = next((path for path in first if isinstance(_read_unless_damaged(path, cpu), Checkpoint)), None)
    for path in found:
        if newest and path != newest:
            storage.delete(path)


def keep_newest_checkpoint(study: Path, trial: int) -> None:
    """Delete the older checkpoints of a trial, without a look at the newest."""
    for path in checkpoints(checkpoint_folder(study, trial))[1:]:
        storage.delete(path)


def write_model(
    folder: Path,
    model: VAE,
    config: TrialConfig,
    data: DataConfig | None = None,
    images: str | None = None,
    metric: Code | None = None,
) -> None:
    """Write ``model.safetensors``, which also names the ``data`` that it was trained on, and ``config.json``.

    ``images`` is the checksum of the images of ``data``, see :meth:`vae_tune.images.datasets.Images.sha256`;
    ``metric`` is the user's, if there is one. Of its code, and of that of a user's class, there are copies to read, in
    ``metric_code/`` and ``code/``, under names that Python does not import.
    """
    weights, code = model.network.state_dict() | _likelihood(model), admitted_code(config.model)
    more: dict[str, Any] = {} if code is None else {CODE: code.digest}
    more |= {} if images is None else {SHA256: images}
    more |= {} if metric is None else {METRIC: {FUNCTION: metric.model, SHA256: metric.digest}}
    content = _save(weights, data=to_dict(data or DataConfig()), shape=model.shape, **more)
    storage.write_bytes(folder / MODEL_FILE, content)
    for name, copied in ((CODE, code), (METRIC_CODE, metric)):
        for module, text in copied.texts.items() if copied else ():
            storage.write_bytes(folder / name / f"{module}.py.txt", text.encode())
    write_json(folder / CONFIG_FILE, to_dict(config))


def find_model(path: Path) -> Path:
    """Return the folder of a model that a user named: by its folder, its file, or the study whose best it is.

    Raises UsageError if the study has none.
    """
    path = local_copy(path)
    if (path / STUDY_FILE).exists():
        if not (path / BEST_FOLDER).is_dir():
            raise UsageError(f"The study {original_address(path)} has no model: none of its trials has succeeded yet.")
        return path / BEST_FOLDER
    return named_path(path.parent) if path.name == MODEL_FILE else path


def load_model(path: str | Path, model: str | None = None) -> VAE:
    """Return a trained model on the CPU, an ``nn.Module`` in eval mode: ``model.encode(images)`` gives latent means.

    ``path`` is the folder of a model or its ``model.safetensors``, or a study, for its best model. ``model`` is
    FILE.py:CLASS or MODULE:CLASS where its network is a class of yours: code runs only from a file that you name.
    Raises UsageError if there is no model, or it is damaged, or the class is not that of the training.
    """
    return read_model(find_model(named_path(path)), model)[0].eval()


def read_model(folder: Path, model: str | None = None) -> tuple[VAE, TrialConfig]:
    """Return the model that :func:`write_model` wrote, on the CPU, and its configuration; see :func:`load_model`.

    Raises UsageError if a file is missing, damaged, or does not fit the other, or if the class is missing or another.
    """
    try:
        config = from_dict(TrialConfig, read_json(folder / CONFIG_FILE))
        content = (folder / MODEL_FILE).read_bytes()
        recorded = _metadata(content).get(CODE)
    except FileNotFoundError as error:
        missing = f"{Path(error.filename).name} is missing" if folder.is_dir() else "there is no such folder"
        raise UsageError(f"No usable model in {original_address(folder)}: {missing}.") from error
    except DAMAGE as error:
        raise UsageError(f"No usable model in {original_address(folder)}: {telling_line(error)}") from error
    admit_again([config.model], {config.model: recorded}, [] if model is None else [model], original_address(folder))
    try:
        return _model(*_load(content), config), config
    except DAMAGE as error:
        raise UsageError(f"No usable model in {original_address(folder)}: {telling_line(error)}") from error


def read_trial_config(path: Path) -> TrialConfig:
    """Return the configuration in a ``config.json``; raise UsageError if it is missing or damaged."""
    try:
        return from_dict(TrialConfig, read_json(path))
    except DAMAGE as error:
        reason = f"No usable configuration in {path}: {telling_line(error).rstrip('.')}."
        raise UsageError(f"{reason}\nIt takes a JSON file such as results/NAME/best/config.json.") from error


def read_data_config(folder: Path) -> DataConfig:
    """Return the data that the model in ``folder`` was trained on; the default if its file does not say.

    Raises UsageError if the file is missing or damaged.
    """
    return read_data(folder)[0]


def read_data(folder: Path) -> tuple[DataConfig, str | None]:
    """Return what :func:`read_data_config` does, and the checksum of the images; None if the file does not say.

    Raises UsageError if the file is missing or damaged.
    """
    try:
        metadata = _metadata((folder / MODEL_FILE).read_bytes())
        return from_dict(DataConfig, metadata.get("data", {})), metadata.get(SHA256)
    except DAMAGE as error:
        raise UsageError(f"No usable model in {original_address(folder)}: {telling_line(error)}") from error


def read_metric_code(folder: Path) -> tuple[str, str] | None:
    """Return the user's metric of the training whose model is in ``folder``: its name, and the hash of its code.

    Returns None if it had none.
    """
    recorded = _metadata((folder / MODEL_FILE).read_bytes()).get(METRIC)
    return None if recorded is None else (str(recorded[FUNCTION]), str(recorded[SHA256]))


def _epoch(path: Path) -> int:
    """Return the epoch of the checkpoint at ``path``."""
    return int(path.stem.removeprefix("epoch_"))


def _save(tensors: dict[str, torch.Tensor], **metadata: Any) -> bytes:
    """Return a safetensors file; its metadata are texts, here JSON."""
    in_rows = {name: tensor.contiguous() for name, tensor in tensors.items()}  # it takes no other memory format
    return save(in_rows, {name: json.dumps(value) for name, value in metadata.items()})


def _load(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the metadata that :func:`_save` wrote."""
    return load(content), _metadata(content)


def _metadata(content: bytes) -> dict[str, Any]:
    """Return the metadata in the header of a safetensors file: its length, then JSON. Raise ValueError without one."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except ValueError:
        raise ValueError(f"{MODEL_FILE} does not begin with a safetensors header.") from None
    return {name: json.loads(text) for name, text in header.get("__metadata__", {}).items()}


def _tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return the weights and Adam's moments."""
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in state.model.network.state_dict().items()}
    tensors |= _likelihood(state.model)
    moments = state.optimizer.moments.items()
    return tensors | {f"{_OPTIMIZER}{name}": row_major(tensor, state.model) for name, tensor in moments}


def _likelihood(model: VAE) -> dict[str, torch.Tensor]:
    """Return the parameters of the likelihood, such as the scales of a Gaussian; most have none."""
    own = model.likelihood.state_dict() if isinstance(model.likelihood, torch.nn.Module) else {}
    return {f"{_LIKELIHOOD}{name}": tensor for name, tensor in own.items()}


def _load_likelihood(model: VAE, tensors: dict[str, torch.Tensor]) -> None:
    """Load what :func:`_likelihood` returned; files before 0.2.0 have nothing of it."""
    if isinstance(model.likelihood, torch.nn.Module) and (own := _part(tensors, _LIKELIHOOD)):
        model.likelihood.load_state_dict(own)


def _state(
    tensors: dict[str, torch.Tensor], metadata: dict[str, Any], config: TrialConfig, device: torch.device
) -> TrainingState:
    """Return a training with the weights and moments in ``tensors``."""
    state = new_state(config, _shape(metadata), device)
    state.model.network.load_state_dict(_part(tensors, _MODEL))
    _load_likelihood(state.model, tensors)
    moments = _part(tensors, _OPTIMIZER).items()
    state.optimizer.load({name: from_row_major(tensor, state.model) for name, tensor in moments})
    return state


def _model(weights: dict[str, torch.Tensor], metadata: dict[str, Any], config: TrialConfig) -> VAE:
    model = build_model(config, _shape(metadata))
    model.network.load_state_dict({name: found for name, found in weights.items() if _LIKELIHOOD not in name})
    _load_likelihood(model, weights)
    return model


def _shape(metadata: dict[str, Any]) -> Shape:
    channels, height, width = metadata.get("shape", _OLD_SHAPE)
    return channels, height, width


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
