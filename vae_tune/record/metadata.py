"""``study.json``, the metadata of a study: write it, read it, and refuse a resume that makes trials incomparable."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL, PIPE, run
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json, json_to_distribution

from vae_tune.config import message_hints, names
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.files import absolute, address, is_remote
from vae_tune.config.local_copies import original_address
from vae_tune.config.metric import METRIC, Metric
from vae_tune.config.settings import NO_EARLY_STOPPING, SLURM, SearchConfig, TrialConfig
from vae_tune.config.slurm_job import job_id, job_options
from vae_tune.config.space import Space
from vae_tune.config.storage import StorageError, exists, read_bytes
from vae_tune.config.version import __version__
from vae_tune.images.datasets import Images, is_named
from vae_tune.record.lengths import refuse_length
from vae_tune.vae.image_defaults import with_image_defaults
from vae_tune.vae.likelihoods.likelihood import metric_of
from vae_tune.vae.likelihoods.registry import kind_of
from vae_tune.vae.networks.registry import admitted_code
from vae_tune.vae.user_metric import UserMetric

SCHEMA, SCHEMA_WITH_METRIC, SCHEMA_WITHOUT_METRIC = 4, 3, 2
"""Versions of the record that this code writes: of a study whose journal was written anew, of one that a user's metric
ranks, and of any other. It rises when older code would misread a study. Version 2 is ranked by ``val_loss``. Version 1
had neither ``schema`` nor ``kind``, and noted only in the trials' ``reason`` which were audited, collapsed, diverged.
"""
_SHAPE: dict[str, Any] = {
    **dict.fromkeys(("name", "kind", "status"), str),
    "schema": int,
    **dict.fromkeys(("config", "reference", "space", "fixed"), dict),
    "data": {"dataset": str, "sha256": str, "train": int, "validation": int, "test": int, "shape": list},
    "metric": {"name": str, "unit": str, "kind": str, "direction": str},
    **dict.fromkeys(("rungs", "runs"), list),
}
"""The required entries of a ``study.json`` and their types."""
MUST_STAY = {"asha", "data", "maximize", "points", "trial", "warm_start"}
"""Fields that must not change in a resume, or the trials would not be comparable; ``space`` is compared by content."""

MAY_CHANGE = "min_gain"
"""A setting of the scheduler that only says when a search ends."""


def new_metadata(
    name: str,
    config: SearchConfig,
    base: TrialConfig,
    space: Space,
    images: Images,
    kind: str = names.SEARCH,
    metric: UserMetric | None = None,
) -> dict[str, Any]:
    """Return the content of ``study.json`` for a new study.

    ``base`` is the reference configuration; for ``kind`` see :data:`vae_tune.config.names.KINDS`. ``metric`` is the
    user's that ranks trials in place of the validation loss.
    """
    losses = metric_of(kind_of(base, images.shape[0], config.data.binarization), images.pixels)
    return {
        "name": name,
        "schema": SCHEMA_WITH_METRIC if metric else SCHEMA_WITHOUT_METRIC,
        "kind": kind,
        "config": to_dict(replace(config, notify=None)),
        "reference": to_dict(base),
        **space_to_dict(space),
        "data": describe_data(config, images),
        "metric": metric.describe() if metric else {"name": METRIC.name, **losses, "direction": METRIC.direction},
        **({names.LOSSES: losses} if metric else {}),
        "rungs": list(config.asha.rungs(base.max_epochs)),
        "runs": [],
        "status": "running",
    }


def describe_data(config: SearchConfig, images: Images) -> dict[str, Any]:
    """Return a description of the images, by which to decide whether another study is comparable."""
    return {
        "dataset": config.data.dataset,
        "sha256": images.sha256(),
        **{split: len(getattr(images, split)) for split in ("train", "validation", "test")},
        "shape": list(images.recorded_shape),
    }


def channels_of(metadata: Mapping[str, Any]) -> int:
    """Return the channels of the images of a study; of gray images, the record holds only height and width."""
    channels: int = ([1, *metadata["data"]["shape"]])[-3]
    return channels


def this_run() -> dict[str, Any]:
    """Return the command and the versions of this process; if it has a Slurm job, its id and what it was given."""
    packages = ("vae-tune", "torch", "torchvision", "ray", "optuna", "pandas", "numpy")
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        git = run(command, stdout=PIPE, stderr=DEVNULL, text=True, check=False).stdout.strip()
    except OSError:
        git = ""
    versions = {name: importlib.metadata.version(name) for name in packages}
    job, given = job_id(os.environ), job_options(os.environ)
    return {
        "command": _recorded(sys.argv),
        "versions": {"python": sys.version.split()[0], **versions, "git": git},
        **({names.SLURM_JOB: job} if job else {}),
        **({names.SBATCH: given} if given else {}),
    }


def _recorded(words: Sequence[str]) -> list[str]:
    """Return a command line without the command of ``--notify``, which may name a secret address."""
    option = message_hints.option("notify")
    words = [f"{option}=..." if word.startswith(f"{option}=") else word for word in words]
    return ["..." if before == option else word for before, word in zip(["", *words], words, strict=False)]


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the ``study.json`` in ``folder``, with the entries added that an older version did not write.

    Raises:
        UsageError: the folder is no study, or a newer version wrote something that this one cannot read.
    """
    metadata: Any = None
    try:
        metadata = json.loads(read_bytes(folder / names.STUDY_FILE))
        old = isinstance(metadata, dict) and "schema" not in metadata
        _check(metadata | {"schema": 1, "kind": names.SEARCH} if old else metadata, _SHAPE)
        from_dict(SearchConfig, metadata["config"])
        from_dict(TrialConfig, metadata["reference"])
        read_space(metadata)
        if old:
            metadata |= {"schema": 1, "kind": _kind_of_schema_1(metadata, folder)}
        metadata = _as_in_journal(metadata, folder)
        if metadata["kind"] not in names.KINDS or metadata["schema"] > SCHEMA:
            raise ValueError(f"'kind' is {metadata['kind']!r}, 'schema' {metadata['schema']}")
    except FileNotFoundError as error:
        missing = names.STUDY_FILE if is_remote(folder) or folder.exists() else "the folder"
        raise UsageError(f"{original_address(folder)} is no study: {missing} is missing.") from error
    except NotADirectoryError as error:
        raise UsageError(f"{address(folder)} is no study: it is no folder.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        if writer := _newer_writer(metadata):
            raise UsageError(
                f"{address(folder)} was written by {writer}, this is {__version__}.\nUpgrade vae_tune to read it."
            ) from error
        what = "cannot be read" if isinstance(error, StorageError) else "is damaged"
        reason = str(error).splitlines()[0]
        raise UsageError(f"{original_address(folder)} is no study: {names.STUDY_FILE} {what} ({reason}).") from error
    return dict(metadata)


def as_reopened(metadata: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a study whose journal was written anew; ``note`` is what the journal says of that."""
    last, config = note["max_epochs"], metadata["config"]
    most = config.get("max_total_epochs")
    config = {
        **config,
        "trial": {**config["trial"], "max_epochs": last},
        "max_total_epochs": None if most is None else max(most, last),
    }
    return {
        **metadata,
        "schema": SCHEMA,
        "config": config,
        "reference": {**metadata["reference"], "max_epochs": last},
        "rungs": list(from_dict(SearchConfig, config).asha.rungs(last)),
        "status": "running",
        names.REOPENED: dict(note),
    }


def _as_in_journal(metadata: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return ``study.json`` as the journal beside it has it, which is replaced first when it is written anew."""
    try:
        with (folder / names.JOURNAL_FILE).open("rb") as file:
            lines = [file.readline(), file.readline()]
        note = json.loads(lines[1])["user_attr"][names.REOPENED]
    except (OSError, ValueError, LookupError, TypeError):  # as of most studies; reading the journal tells of damage
        return metadata
    return metadata if metadata.get(names.REOPENED) == note else as_reopened(metadata, note)


def _newer_writer(metadata: Any) -> str:
    """Return the vae_tune that wrote a ``study.json``, if it is newer than this one, else ""."""
    try:
        version = str(metadata["runs"][-1]["versions"]["vae-tune"])
    except (TypeError, LookupError):
        version = ""
    if _numbers(version) > _numbers(__version__):
        return f"vae_tune {version}"
    schema = metadata.get("schema") if isinstance(metadata, dict) else None
    return f"a newer vae_tune (schema {schema})" if isinstance(schema, int) and schema > SCHEMA else ""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _kind_of_schema_1(metadata: dict[str, Any], folder: Path) -> str:
    """Derive the kind of a study of version 1 from its configuration.

    Explorations and confirmations were grids of given points: no sampler, no early stopping, all checkpoints kept. The
    grid of an exploration is of sizes and seeds; a confirmation lies in the folder of its search.
    """
    config: SearchConfig = from_dict(SearchConfig, metadata["config"])
    searched = read_space(metadata).distributions
    trains_all = config.asha.scheduler == NO_EARLY_STOPPING.scheduler
    given = trains_all and (config.sampler, config.keep) == ("random", config.num_samples)
    if not given or names.SEED not in searched:
        return names.SEARCH
    sizes = searched.get(names.LATENT_SIZE)
    of_sizes = len(searched) == 2 and isinstance(sizes, CategoricalDistribution)
    named = re.fullmatch(rf"{names.CONFIRMATION_FOLDER}(-\d+)?", metadata["name"]) is not None
    if named and (not of_sizes or exists(absolute(folder).parent / names.STUDY_FILE)):
        return names.CONFIRMATION
    return names.EXPLORATION if of_sizes else names.SEARCH


def resume_command(metadata: Mapping[str, Any], folder: Path, **changes: object) -> str:
    """Return the command that resumes the study in ``folder``; a confirmation is resumed with its search.

    It names the code of a user's class, from where this process has it; several by their space file too. It names
    that of a user's metric. ``changes`` are options to set, by the names of their fields. A search that last ran in a
    job of Slurm is resumed by another one, which is given the same.
    """
    kind, own = metadata["kind"], list(metadata.get(names.CODE, {}))
    code = admitted_code(own[0]) if own else None
    model = code.model if code else "".join(own[:1])
    config = metadata["config"]
    also = {"metric": config.get("metric"), "space": config["space"] if len(own) > 1 else None}
    named: dict[str, Any] = {name: path for name, path in also.items() if isinstance(path, str)}
    if kind == names.EXPLORATION:
        return message_hints.resume(folder, "explore", model=model, **named)
    place = folder.parent if kind == names.CONFIRMATION else folder
    named |= changes
    if config.get("resources", {}).get("address") == SLURM:
        given = next((run[names.SBATCH] for run in reversed(metadata["runs"]) if names.SBATCH in run), ())
        return message_hints.resume_in_slurm(place, given, model=model, **named)
    return message_hints.resume(place, model=model, **named)


_WORDS = {names.SEARCH: "a search", names.EXPLORATION: "an exploration", names.CONFIRMATION: "a confirmation"}


def _check(values: Any, shape: Mapping[str, Any], where: str = "it") -> None:
    """Refuse a mapping that lacks an entry, or has a value of another type there."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is not a mapping")
    for name, kind in shape.items():
        if name not in values:
            raise ValueError(f"{where} lacks {name!r}")
        if isinstance(kind, dict):
            _check(values[name], kind, name)
        elif not isinstance(values[name], kind):
            raise ValueError(f"{name!r} is {values[name]!r}")


def read_search_config(folder: Path, kind: str = names.SEARCH) -> SearchConfig:
    """Return the configuration with which to resume the study in ``folder``; its space is the recorded one.

    It notifies nobody: no command of a record is run.

    Raises:
        UsageError: the folder is no study, or a study of another kind. More trials of an exploration would only
            repeat those that are there.
    """
    metadata = read_metadata(folder)
    if metadata["kind"] != kind:
        raise UsageError(
            f"{address(folder)} is {_WORDS[metadata['kind']]}, not {_WORDS[kind]}.\n"
            f"Go on with: {resume_command(metadata, folder)}"
        )
    config: SearchConfig = from_dict(
        SearchConfig, metadata["config"] | {"resume": str(folder), "space": None, "notify": None}
    )
    return config


def status_label(status: str, *, is_running: bool) -> str:
    """Return the ``status`` of a ``study.json`` in words."""
    if status == "running":
        return "running" if is_running else "killed"
    return {names.INTERRUPTED: "interrupted", names.FAILED: "ended by an error"}.get(status, status or "unknown")


def read_space(metadata: dict[str, Any]) -> Space:
    """Return the search space of a study."""
    distributions = {name: json_to_distribution(text) for name, text in metadata["space"].items()}
    conditions = {name: tuple(models) for name, models in metadata.get("conditions", {}).items()}
    return Space(distributions, metadata["fixed"], conditions)


def refuse_changes(metadata: dict[str, Any], config: SearchConfig, space: Space) -> None:
    """Refuse to resume with settings that would make the trials incomparable; a search may get longer.

    Raises:
        UsageError: it names the field, its value in the study, and the new value.
    """
    before: SearchConfig = from_dict(SearchConfig, metadata["config"])  # with defaults for fields newer than the study
    channels = channels_of(metadata)
    old, new = (
        _flat(to_dict(replace(each, trial=with_image_defaults(each.trial, channels)))) for each in (before, config)
    )
    moved = {"data.data_dir"}  # whether the images are the same is decided by their checksum
    if not (is_named(before.data.dataset) and is_named(config.data.dataset)):
        moved.add("data.dataset")
    moved |= {name for name in new if name.endswith(f".{MAY_CHANGE}")}
    if metadata["kind"] == names.SEARCH:
        refuse_length(before.trial, config.trial.max_epochs, space)
        moved.add("trial.max_epochs")
    for name, value in new.items():
        if name not in moved and name.partition(".")[0] in MUST_STAY and old.get(name) != value:
            last = name.rpartition(".")[2]
            _refuse(last, old.get(name), value, f"Leave out {message_hints.option(last)} to go on")
    for part, values in space_to_dict(space).items():
        before_this = metadata.get(part, {})
        for name in {**values, **before_this}:
            if values.get(name) != before_this.get(name):
                _refuse(f"{part} {name}", before_this.get(name), values.get(name), "Leave out --space to go on")


def refuse_other_metric(metadata: Mapping[str, Any], metric: UserMetric | None) -> UserMetric | None:
    """Refuse to resume with another metric, or with other code of it; return it with the names of its values.

    Raises:
        UsageError: it names the difference.
    """
    known = metadata["metric"]
    if metric is None or names.SHA256 not in known:
        if names.SHA256 in known or metric is not None:
            new = None if metric is None else metric.code.model
            _refuse("metric", known.get(names.FUNCTION), new, "Leave out --metric to go on")
        return None
    if metric.code.digest != known[names.SHA256]:
        raise UsageError(
            f"metric {metric.code.model} is not the code that ranked this study, {known[names.FUNCTION]}: its trials "
            "could not be compared.\n"
            "Name the file as it was (best/metric_code has a copy to read), or start a new study."
        )
    return replace(metric, ranking=Metric.of(known))


def refuse_other_data(metadata: Mapping[str, Any], config: SearchConfig, images: Images) -> None:
    """Refuse to resume on other images: their checksum decides, not the place where they are.

    Raises:
        UsageError: it names the images, those of the study, and both checksums.
    """
    known, found = metadata["data"], describe_data(config, images)
    if known["sha256"] == found["sha256"]:
        return
    checksums = f"SHA-256 {found['sha256'][:8]}, not {known['sha256'][:8]}"
    option = "--data-dir" if is_named(config.data.dataset) else "--dataset"
    raise UsageError(
        f"{found['dataset']} holds other images than {known['dataset']} when this study began ({checksums}).\n"
        f"Name the place of this study's images with {option} to go on, or start a new study."
    )


def _refuse(name: str, old: Any, new: Any, way: str) -> None:
    raise UsageError(
        f"{name} is {old!r} in this study, but got {new!r}: its trials could not be compared.\n"
        f"{way}, or start a new study."
    )


def space_to_dict(space: Space) -> dict[str, dict[str, Any]]:
    """Return a space as ``study.json`` holds it; ``conditions`` only where there are any."""
    distributions = {name: distribution_to_json(dist) for name, dist in space.distributions.items()}
    conditions = {name: list(models) for name, models in space.conditions.items()}
    return {
        "space": distributions,
        "fixed": dict(space.fixed),
        **({"conditions": conditions} if conditions else {}),
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
