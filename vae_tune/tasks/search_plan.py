"""The plan of a search, checked before anything is created, and the record that the search opens then."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from vae_tune.cluster.slots import Slots
from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.files import address, argument, named_path
from vae_tune.config.hyperparameters import with_values
from vae_tune.config.local_copies import mark_copy, original_path, working_copy
from vae_tune.config.names import ARRAYS, CODE, LIKELIHOOD, SEARCH, STUDY_FILE, WARM_START
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import Grid, Space, load_space, read_models
from vae_tune.config.storage import exists
from vae_tune.images.arrays import Arrays
from vae_tune.images.datasets import Images, is_named, refuse_unknown
from vae_tune.record.journal import UtcStorage
from vae_tune.record.lock import refuse_without_locks
from vae_tune.record.metadata import (
    new_metadata,
    read_metadata,
    read_space,
    refuse_changes,
    refuse_other_data,
    resume_command,
    this_run,
)
from vae_tune.record.recovery import is_unfinished_creation
from vae_tune.record.remote_sync import delete_outdated_copy, update_working_copy
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import now, read_study, trials_in
from vae_tune.search.initial_trials import InitialTrials, read_points
from vae_tune.search.sampler import SAMPLERS, configuration_key, count_configurations
from vae_tune.search.warm_start import read_warm_start, refuse_repeats
from vae_tune.tasks.kinds import refuse_kinds, refuse_kinds_for_all
from vae_tune.tasks.models import describe_codes, models_of, signature_of_named, with_options
from vae_tune.vae.likelihoods.registry import likelihood_name
from vae_tune.vae.networks.code import is_own
from vae_tune.vae.networks.registry import admit_again, read_signature
from vae_tune.views.live import require_packages
from vae_tune.views.terminal import View


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search that passed all checks that need no Ray and no images."""

    config: SearchConfig
    folder: Path
    """Where the driver writes: the study itself, or the working copy of one on object storage."""
    place: Path
    """The study itself."""
    space: Space
    base: TrialConfig
    """The reference configuration: the configuration's own, with what the space fixes."""
    points: Sequence[Mapping[str, Any]]
    remaining: int
    """Trials that have not finished yet."""
    metadata: Mapping[str, Any] | None
    """``study.json`` of the study to resume, or None for a new one."""
    kind: str = SEARCH
    """Of a new study: see :data:`vae_tune.config.names.KINDS`."""
    storage: UtcStorage | None = None
    """The journal of the study to resume, where it was read already."""
    arrays: Arrays | None = None
    """The images, where they were given from Python."""


def make_plan(config: SearchConfig, grid: Grid | None, place: Path, arrays: Arrays | None = None) -> Plan:
    """Check everything about a search that needs no Ray and no images; :func:`study_place` returns its ``place``.

    ``arrays`` are its images, where they are given from Python.

    Raises:
        UsageError: it cannot run as configured; nothing was created or changed.
    """
    require_packages(config.views)
    if config.resume is None:
        if arrays is None:
            refuse_unknown(config.data.dataset)
        signature_of_named(config.trial.model)
        space = grid.space if grid else load_space(config.space, config.trial, signature_of_named)
        config = dataclasses.replace(config, trial=with_options(config.trial, space))
        base = with_values(config.trial, space.fixed)
        refuse_kinds_for_all(space, base, config.data)
        points = grid.points if grid else read_points(config.points, space, base)
        _check_sampler(config, space, base)
        refuse_repeats(config.warm_start)
        kind = grid.kind if grid else SEARCH
        folder = _new_folder(config, place)
        return Plan(config, folder, place, space, base, points, config.num_samples, None, kind, arrays=arrays)
    if not SAMPLERS[config.sampler].can_resume:
        raise UsageError(
            f"Optuna keeps the state of {config.sampler} as a pickle, which is not read.\nResume with --sampler tpe."
        )
    if (study := original_path(config.resume)) != config.resume:
        way = resume_command(read_metadata(config.resume)["kind"], study)
        raise UsageError(
            f"{config.resume} is a working copy of a study on object storage.\nTo resume the study itself: {way}"
        )
    folder = update_working_copy(config.resume)
    metadata = read_metadata(folder)
    try:
        refuse_without_locks(folder)
    except OSError as error:
        raise UsageError(f"The study {folder} cannot be written: {error.strerror or error}.") from error
    recorded = from_dict(SearchConfig, metadata["config"])
    for name in ("results_dir", "study_name"):
        if getattr(config, name) != getattr(recorded, name):
            raise UsageError(
                f"--resume {argument(config.resume)} names the study: leave out {message_hints.option(name)}."
            )
    space = read_space(metadata)
    config = _with_named_models(config, recorded, space, metadata)
    given = space if config.space is None else load_space(config.space, config.trial, read_signature)
    refuse_changes(metadata, config, given)
    storage = read_study(folder)
    own = [trial for trial in trials_in(storage) if WARM_START not in trial.user_attrs]
    started = sum(trial.state != TrialState.WAITING for trial in own)
    remaining = config.num_samples - sum(trial.state.is_finished() for trial in own)
    if config.num_samples < started:
        raise UsageError(f"num_samples must be >= {started}, the trials begun already, but got {config.num_samples}.")
    base = with_values(config.trial, space.fixed)
    _check_sampler(config, space, base)
    if arrays is None:
        _refuse_moved(config)
    return Plan(config, folder, place, space, base, [], remaining, metadata, storage=storage, arrays=arrays)


def _refuse_moved(config: SearchConfig) -> None:
    """Refuse to resume where the images are not in their place any more, or were given from Python."""
    dataset = config.data.dataset
    if dataset != ARRAYS and not is_named(dataset) and not named_path(dataset).exists():
        raise UsageError(
            f"The images of this study are no longer at {dataset}.\nName their place with --dataset to go on."
        )
    refuse_unknown(dataset)


def _with_named_models(
    config: SearchConfig, recorded: SearchConfig, space: Space, metadata: Mapping[str, Any]
) -> SearchConfig:
    """Return ``config`` with the study's model, whose class it may name by another path, and typed options."""
    models = models_of(recorded.trial, space)
    named = [config.trial.model, *(read_models(config.space) if config.space is not None else ())]
    digests = {model: code["sha256"] for model, code in metadata.get(CODE, {}).items()}
    admit_again(models, digests, named, address(config.resume or Path()))
    trial, classes = config.trial, {model.rpartition(":")[2] for model in filter(is_own, models)}
    if is_own(trial.model) and trial.model.rpartition(":")[2] in classes:  # it only says where the code is
        trial = dataclasses.replace(trial, model=recorded.trial.model)
    return dataclasses.replace(config, trial=with_options(trial, space))


def _check_sampler(config: SearchConfig, space: Space, base: TrialConfig) -> None:
    """Refuse samplers that cannot search models' own options, or learn from a reference outside of the space."""
    if space.conditions and SAMPLERS[config.sampler].of_models is None:
        able = " or ".join(f"--sampler {name}" for name, kind in SAMPLERS.items() if kind.of_models)
        raise UsageError(
            f"--sampler {config.sampler} cannot search options that only some models have: "
            f"{', '.join(space.conditions)}.\nTake {able}."
        )
    if SAMPLERS[config.sampler].learns_from_all and not space.contains(base):
        outside = space.outside(base)
        values = ", ".join(f"{name} {value}" for name, value in outside.items())
        raise UsageError(
            f"--sampler {config.sampler} needs a reference inside of the space, but outside lies its {values}.\n"
            f"Choose another one with {' '.join(map(message_hints.option, outside))}, or take --sampler tpe."
        )


def study_place(config: SearchConfig) -> Path:
    """Return the folder of the study, of a new one too, or its place on object storage."""
    return config.resume or config.results_dir / (
        config.study_name or f"{config.data.title}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    )


def _new_folder(config: SearchConfig, place: Path) -> Path:
    """Return the folder in which a new study at ``place`` is written; refuse it if it exists or cannot be made."""
    folder = working_copy(place)
    try:
        delete_outdated_copy(place)
        for there in (folder, place):
            if exists(there / STUDY_FILE):
                way = resume_command(read_metadata(there)["kind"], place)
                raise UsageError(f"The study {address(place)} exists already.\nTo go on with it: {way}")
        for taken in (folder, place):
            if (taken.exists() and not taken.is_dir()) or not is_unfinished_creation(taken):
                raise UsageError(f"{address(taken)} exists already and is no study.\nChoose another --study-name.")
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise UsageError(f"results_dir {config.results_dir} cannot be written: {parent} is no writable folder.")
        refuse_without_locks(parent)
    except OSError as error:  # of a folder that may not be looked into, or has no locks
        reason = error.strerror or error
        raise UsageError(f"results_dir {address(config.results_dir)} cannot be written: {reason}.") from error
    return folder


def open_record(plan: Plan, images: Images, slots: Slots, view: View) -> StudyRecord:
    """Create or reopen the study folder after the last checks; show which trials the sampler starts from."""
    config = to_dict(dataclasses.replace(plan.config, resume=None))
    if plan.metadata is not None:
        config["space"] = plan.metadata["config"]["space"]  # shows where the space is from; it is not read again
    start = {"started": now(), "num_samples": plan.config.num_samples, "slots": dataclasses.asdict(slots)}
    entry = {**start, **this_run()}
    if plan.metadata is not None:
        refuse_other_data(plan.metadata, plan.config, images)
        data = {**plan.metadata["data"], "dataset": plan.config.data.dataset}
        metadata = {**plan.metadata, "config": config, "data": data, "runs": [*plan.metadata["runs"], entry]}
        record = StudyRecord.resume(plan.folder, metadata, plan.place, plan.metadata, plan.storage)
        _warn_of_repeats(record, plan, view)
        return record
    refuse_kinds(plan.space, plan.base, images.shape[0], images.binarization)
    metadata = new_metadata(plan.folder.name, plan.config, plan.base, plan.space, images, plan.kind)
    metadata["runs"] = [entry]
    if codes := describe_codes(models_of(plan.base, plan.space)):
        metadata[CODE] = codes
    others = plan.config.warm_start
    warm_starts = [read_warm_start(folder, metadata, plan.space, plan.base) for folder in others]
    initial = InitialTrials(plan.points, [trial for other in warm_starts for trial in other.trials])
    try:
        if plan.folder != plan.place and original_path(plan.folder) != plan.place:
            plan.folder.mkdir(parents=True, exist_ok=True)
            mark_copy(plan.folder, plan.place)
        record = StudyRecord.create(
            plan.folder, metadata, lambda study: initial.enqueue(study, plan.space, plan.base), plan.place
        )
    except FileExistsError as error:
        raise UsageError(f"Another search has created the study {address(plan.place)} meanwhile.") from error
    except OSError as error:
        raise UsageError(f"The study {plan.folder} cannot be created: {error.strerror or error}.") from error
    for other in warm_starts:
        (view.say if other.trials else view.warn)(str(other))
    _warn_of_repeats(record, plan, view)
    return record


def with_likelihood(plan: Plan, channels: int) -> Plan:
    """Return ``plan`` with the reference's likelihood by name, as the space has it, where likelihoods are searched."""
    if LIKELIHOOD not in plan.space.distributions or plan.base.likelihood is not None:
        return plan
    name = likelihood_name(plan.base, channels)
    trial, base = (dataclasses.replace(config, likelihood=name) for config in (plan.config.trial, plan.base))
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, trial=trial), base=base)


def _warn_of_repeats(record: StudyRecord, plan: Plan, view: View) -> None:
    """Warn where the space has fewer configurations than there are trials to come."""
    searched = plan.space.distributions
    waiting = record.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    told = [
        *(trial.params for trial in record.warm_start_trials),
        *(row.values for row in record.rows),
        *(trial.system_attrs.get("fixed_params", {}) for trial in waiting),
    ]
    known = {configuration_key(searched, values) for values in told if plan.space.is_complete(values)}
    to_come = plan.config.num_samples - len(record.rows) - len(waiting)
    if (repeats := to_come - count_configurations(plan.space) + len(known)) > 0:
        view.warn(
            f"The space has {count_configurations(plan.space):.0f} configurations, {len(known)} of them known or "
            f"given already: {repeats:.0f} of the {to_come} trials to come will repeat others."
        )
