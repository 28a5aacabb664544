"""A study that a search resumes: read, and refused where its trials could not be continued."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict
from vae_tune.config.files import address, argument, named_path
from vae_tune.config.local_copies import original_path
from vae_tune.config.names import ARRAYS, CLOSED, CODE, WARM_START
from vae_tune.config.settings import SearchConfig
from vae_tune.config.space import Space, load_space, read_models
from vae_tune.config.storage import reason
from vae_tune.config.trial_values import with_values
from vae_tune.images.arrays import Arrays
from vae_tune.images.datasets import is_named, refuse_at_once
from vae_tune.record.journal import UtcStorage
from vae_tune.record.lock import refuse_without_locks
from vae_tune.record.metadata import read_metadata, read_space, refuse_changes, resume_command
from vae_tune.record.remote_sync import update_working_copy
from vae_tune.record.reopening import Reopening, plan_reopening
from vae_tune.record.trials import read_study, row_from_trial, trials_in
from vae_tune.search.sampler import SAMPLERS
from vae_tune.search.scheduler_factory import SCHEDULERS
from vae_tune.tasks.model_code import models_of, with_options
from vae_tune.vae.networks.code import is_own
from vae_tune.vae.networks.registry import admit_again, read_signature


@dataclasses.dataclass(frozen=True)
class ResumedStudy:
    """A study that a search can resume."""

    config: SearchConfig
    """The settings to resume it with."""
    folder: Path
    """Where the driver writes: the study itself, or the working copy of one on object storage."""
    metadata: Mapping[str, Any]
    """Its ``study.json``."""
    space: Space
    storage: UtcStorage
    """Its journal."""
    remaining: int
    """Trials that have not finished yet, or go on."""
    reopening: Reopening | None = None
    """The trials that are opened again; None where the journal is continued as it is."""


def read_resumed(config: SearchConfig, resume: Path, arrays: Arrays | None) -> ResumedStudy:
    """Return the study in ``resume``, with the settings to resume it with, taken from ``config``.

    Raises:
        UsageError: it cannot be resumed so; nothing was changed.
    """
    if not SAMPLERS[config.sampler].can_resume:
        raise UsageError(
            f"Optuna keeps the state of {config.sampler} as a pickle, which is not read.\nResume with --sampler tpe."
        )
    if (study := original_path(resume)) != resume:
        way = resume_command(read_metadata(resume), study)
        raise UsageError(
            f"{resume} is a working copy of a study on object storage.\nTo resume the study itself: {way}"
        )
    folder = update_working_copy(resume)
    metadata = read_metadata(folder)
    try:
        refuse_without_locks(folder)
    except OSError as error:
        raise UsageError(f"The study {folder} cannot be written: {error.strerror or error}.") from error
    recorded = from_dict(SearchConfig, metadata["config"])
    for name in ("results_dir", "study_name"):
        if getattr(config, name) != getattr(recorded, name):
            raise UsageError(f"--resume {argument(resume)} names the study: leave out {message_hints.option(name)}.")
    space = read_space(metadata)
    config, names = _with_named_models(config, recorded, space, metadata)
    given = space
    if config.space is not None:
        given = load_space(config.space, config.trial, lambda model: read_signature(names.get(model, model)))
        given = given.with_models(names)
    refuse_changes(metadata, config, given)
    storage = read_study(folder)
    own = [trial for trial in trials_in(storage) if WARM_START not in trial.user_attrs]
    started = sum(trial.state != TrialState.WAITING for trial in own)
    finished = sum(trial.state.is_finished() for trial in own)
    if config.num_samples < started:
        raise UsageError(
            f"num_samples must be >= {started}, the trials started already, but got {config.num_samples}."
        )
    if arrays is None:
        _refuse_moved(config)
    before, last = metadata["reference"]["max_epochs"], with_values(config.trial, space.fixed).max_epochs
    more = config.num_samples > finished or config.asha.min_gain != recorded.asha.min_gain
    paused = SCHEDULERS[config.asha.scheduler].reopens
    has_paused = any(trial.state == TrialState.PRUNED and CLOSED not in trial.user_attrs for trial in own)
    reopening = None
    if last > before or (paused and more and has_paused):
        reopening = plan_reopening(own, _with_checkpoints(resume), last, before, paused=paused)
    remaining = config.num_samples - finished + (len(reopening.going_on) if reopening else 0)
    if reopening and reopening.is_longer and not remaining:
        raise UsageError(
            f"No trial can go on to epoch {reopening.max_epochs}: the reference failed, and no other one that was "
            "trained to the end has a checkpoint.\nAdd trials with --num-samples, or start a new study."
        )
    trained = sum(row_from_trial(trial).epochs for trial in own)
    if reopening and reopening.is_longer and trained >= (config.max_total_epochs or math.inf):
        raise UsageError(
            f"The trials have trained {trained} epochs, all that max_total_epochs allows.\n"
            "Give a larger --max-total-epochs, or None for no limit."
        )
    return ResumedStudy(config, folder, metadata, space, storage, remaining, reopening)


def _with_checkpoints(place: Path) -> set[int]:
    """Return the numbers of the trials that have checkpoints."""
    from vae_tune.vae.checkpoint import trials_with_checkpoints  # with torch, which most resumes do not wait for

    try:
        return trials_with_checkpoints(place)
    except OSError as error:
        raise UsageError(f"{address(place)} cannot be read: {reason(error)}.") from error


def _refuse_moved(config: SearchConfig) -> None:
    """Refuse to resume where the images are not in their place any more, or were given from Python."""
    dataset = config.data.dataset
    if dataset != ARRAYS and not is_named(dataset) and not named_path(dataset).exists():
        raise UsageError(
            f"The images of this study are no longer at {dataset}.\nName their place with --dataset to go on."
        )
    refuse_at_once(config.data)


def _with_named_models(
    config: SearchConfig, recorded: SearchConfig, space: Space, metadata: Mapping[str, Any]
) -> tuple[SearchConfig, dict[str, str]]:
    """Return ``config`` with the study's model, whose class it may name by another path, and typed options.

    Also return the study's name of each class of a user's that ``config`` names.
    """
    models = models_of(recorded.trial, space)
    named = [config.trial.model, *(read_models(config.space) if config.space is not None else ())]
    digests = {model: code["sha256"] for model, code in metadata.get(CODE, {}).items()}
    names = admit_again(models, digests, named, address(config.resume or Path()))
    trial = config.trial
    if trial.model in names:  # it only says where the code is
        trial = dataclasses.replace(trial, model=recorded.trial.model)
    elif is_own(trial.model) and trial.model not in models:
        return config, names  # another model is refused with the other changes
    return dataclasses.replace(config, trial=with_options(trial, space)), names
