"""The plan of a search, checked before anything is created."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.names import SEARCH
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import Grid, Space, load_space
from vae_tune.config.trial_values import with_values
from vae_tune.images.arrays import Arrays
from vae_tune.images.datasets import refuse_at_once
from vae_tune.record.journal import UtcStorage
from vae_tune.record.metadata import refuse_other_metric
from vae_tune.record.reopening import Reopening
from vae_tune.search.initial_trials import read_points
from vae_tune.search.sampler import SAMPLERS, refuse_conditions
from vae_tune.search.warm_start import refuse_repeats
from vae_tune.tasks.kinds import refuse_kinds_for_all
from vae_tune.tasks.model_code import signature_of_named, with_options
from vae_tune.tasks.resumed_study import read_resumed
from vae_tune.tasks.study_folder import new_folder
from vae_tune.vae.user_metric import UserMetric, read_metric
from vae_tune.views.live import require_packages


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
    metric: UserMetric | None = None
    """The user's, which ranks trials in place of the validation loss; of a new study, not called yet."""
    reopening: Reopening | None = None
    """The trials of the study to resume that are opened again."""


def make_plan(config: SearchConfig, grid: Grid | None, place: Path, arrays: Arrays | None = None) -> Plan:
    """Check everything about a search that needs no Ray and no images.

    ``place`` is what :func:`vae_tune.tasks.study_folder.study_place` returns. ``arrays`` are its
    images, where they are given from Python.

    Raises:
        UsageError: it cannot run as configured; nothing was created or changed.
    """
    require_packages(config.views)
    if config.resume is None:
        return _new_plan(config, grid, place, arrays)
    study = read_resumed(config, config.resume, arrays)
    base = with_values(study.config.trial, study.space.fixed)
    check_sampler(study.config, study.space, base)
    metric = read_metric(study.config.metric, maximize=study.config.maximize)
    return Plan(
        study.config,
        study.folder,
        place,
        study.space,
        base,
        points=[],
        remaining=study.remaining,
        metadata=study.metadata,
        storage=study.storage,
        arrays=arrays,
        metric=refuse_other_metric(study.metadata, metric),
        reopening=study.reopening,
    )


def _new_plan(config: SearchConfig, grid: Grid | None, place: Path, arrays: Arrays | None) -> Plan:
    """Return the plan of a new search."""
    refuse_at_once(config.data, arrays)
    signature_of_named(config.trial.model)
    space = grid.space if grid else load_space(config.space, config.trial, signature_of_named)
    config = dataclasses.replace(config, trial=with_options(config.trial, space))
    base = with_values(config.trial, space.fixed)
    refuse_kinds_for_all(space, base, config.data)
    points = grid.points if grid else read_points(config.points, space, base)
    check_sampler(config, space, base)
    refuse_repeats(config.warm_start)
    metric = read_metric(config.metric, maximize=config.maximize)
    kind, count, folder = grid.kind if grid else SEARCH, config.num_samples, new_folder(config, place)
    return Plan(config, folder, place, space, base, points, count, None, kind, arrays=arrays, metric=metric)


def check_sampler(config: SearchConfig, space: Space, base: TrialConfig) -> None:
    """Refuse samplers that cannot search models' own options, or learn from a reference outside of the space."""
    refuse_conditions(config.sampler, space)
    if SAMPLERS[config.sampler].learns_from_all and not space.contains(base):
        outside = space.outside(base)
        values = ", ".join(f"{name} {value}" for name, value in outside.items())
        raise UsageError(
            f"--sampler {config.sampler} needs a reference inside of the space, but outside lies its {values}.\n"
            f"Choose another one with {' '.join(map(message_hints.option, outside))}, or take --sampler tpe."
        )
