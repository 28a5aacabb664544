"""Recorded learning curves: of a study, or of a table made from a study for publication.

A table is a folder with two files: ``study.json`` of its study, and ``curves.csv.gz`` with one row per epoch of a
trial: ``trial``, ``epoch``, the hyperparameters by name, ``val_loss``, ``val_reconstruction`` and ``val_kl`` in nats
per image, ``seconds``. See ``docs/curves.md``.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.analysis.hyperparameters import Axis
from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.analysis.study import Study, image_shape, load_study, size_factor
from vae_tune.config.csv_tables import read_csv, to_csv
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.fields import from_dict
from vae_tune.config.files import atomic, write_json
from vae_tune.config.local_copies import local_copy, original_address
from vae_tune.config.metric import Metric
from vae_tune.config.names import (
    CURVES_FILE,
    DIVERGED,
    EPOCH,
    FAIL,
    SECONDS,
    STATE,
    STUDY_FILE,
    TRIAL,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import MODEL
from vae_tune.record.metadata import read_metadata, read_space

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The reports of one configuration."""

    losses: Array  # (max_epochs,) validation negative ELBO, nats per image; infinite from the epoch where it diverged
    seconds: Array  # (max_epochs,) length of each epoch


class Source(Protocol):
    """The source of a replayed trial's reports: recorded curves, and the curve of any configuration."""

    curves: Curves

    def curve(self, values: Mapping[str, Any]) -> Curve: ...  # noqa: D102


@dataclass(frozen=True)
class Curves:
    """The curves of n recorded configurations."""

    name: str
    space: Space
    reference: TrialConfig
    unit: LossUnit  # kind of the losses, and the unit in which they are shown
    values: tuple[Mapping[str, Any], ...]  # (n,) hyperparameters of each configuration
    losses: Array
    """(n, max_epochs) nats per image, or a user's metric as a loss; NaN after the end, infinite where it diverged."""
    seconds: Array  # (n, max_epochs), NaN after the end of the training
    size_factor: float = 1.0
    """Values of an image, relative to 28 x 28 gray pixels: by this, a difference of losses that matters is larger."""

    @property
    def max_epochs(self) -> int:
        """Epochs of a whole curve."""
        return self.reference.max_epochs

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """(n,) Whether a curve goes to the end."""
        return np.asarray(np.isfinite(self.losses).all(axis=1))

    @property
    def can_be_replayed_alone(self) -> bool:
        """Whether a replay needs no surrogate: some curves are whole, and none was stopped early."""
        stopped = np.isnan(self.losses).any(axis=1) & ~np.isinf(self.losses).any(axis=1)
        return bool(self.whole.any() and not stopped.any())


def load_curves(folder: Path) -> Curves:
    """Return the curves of a study or of a table.

    Raises:
        UsageError: the folder is neither, is damaged, or has no curve.
    """
    folder = local_copy(folder)
    if not (folder / CURVES_FILE).exists():
        return study_curves(load_study(folder))
    metadata = read_metadata(folder)
    try:
        reference: TrialConfig = from_dict(TrialConfig, metadata["reference"])
        table, ranking = read_table(folder), Metric.of(metadata["metric"])
        table = table.assign(**{VAL_LOSS: ranking.loss(table[ranking.name])})
        size = size_factor(image_shape(metadata))
        return _curves(folder, LossUnit.of(metadata["metric"]), read_space(metadata), reference, table, size)
    except (OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        raise UsageError(f"{original_address(folder / CURVES_FILE)} cannot be read: {telling_line(error)}.") from error


def study_curves(study: Study) -> Curves:
    """Return the curves of a study without the trials that failed for another reason than divergence.

    Raises:
        UsageError: no trial has reported an epoch.
    """
    reports = recorded_reports(study)
    reports = reports.assign(**{VAL_LOSS: study.losses(reports)})[[TRIAL, EPOCH, VAL_LOSS, SECONDS]]
    table = reports.merge(study.trials[list(study.space.distributions)].reset_index(), on=TRIAL)
    size = size_factor(study.image_shape)
    return _curves(study.folder, study.loss_unit, study.space, study.reference, table, size)


def recorded_reports(study: Study) -> pd.DataFrame:
    """Return the rows of ``study.epochs`` without the trials that failed for another reason than divergence.

    A diverged trial has one more row, of the epoch in which it diverged, with an infinite loss.
    """
    failed = study.trials[study.trials[STATE] == FAIL]
    diverged = failed[failed[DIVERGED]]
    reports = study.epochs[~study.epochs[TRIAL].isin(failed.index.difference(diverged.index))]
    last = reports.groupby(TRIAL)[EPOCH].max().reindex(diverged.index, fill_value=0)
    pace = reports.groupby(TRIAL)[SECONDS].mean().reindex(diverged.index).fillna(reports[SECONDS].mean())
    loss = study.ranking.loss(np.inf)
    columns = {TRIAL: diverged.index, EPOCH: last.to_numpy() + 1, study.ranking.name: loss, SECONDS: pace.to_numpy()}
    return pd.concat([reports, pd.DataFrame(columns)]) if len(diverged) else reports


def _curves(
    folder: Path, unit: LossUnit, space: Space, reference: TrialConfig, table: pd.DataFrame, size: float
) -> Curves:
    """Return the curves in a table with one row per epoch of a trial."""
    if table.empty:
        raise UsageError(f"{original_address(folder)} has no learning curve: no trial has reported an epoch.")
    if not table[EPOCH].between(1, reference.max_epochs).all():
        raise ValueError(f"an epoch is not in 1..{reference.max_epochs}")
    first = table.drop_duplicates(TRIAL).sort_values(TRIAL)[list(space.distributions)].to_dict("records")
    values = tuple(
        {str(name): _value(cell, space, str(name)) for name, cell in row.items() if pd.notna(cell)} for row in first
    )
    epochs = range(1, reference.max_epochs + 1)
    losses, seconds = (
        table.pivot(index=TRIAL, columns=EPOCH, values=name).reindex(columns=epochs).to_numpy(np.float64)
        for name in (VAL_LOSS, SECONDS)
    )
    return Curves(folder.name, space, reference, unit, values, losses, seconds, size)


def _value(cell: Any, space: Space, name: str) -> Any:
    """Return a cell as the space holds it: a choice by its text, a whole number as one beside empty cells too."""
    searched = space.distributions[name]
    if isinstance(searched, IntDistribution):
        return int(cell)
    choices = getattr(searched, "choices", ())
    return next((choice for choice in choices if str(choice) == str(cell)), cell)


def read_table(folder: Path) -> pd.DataFrame:
    """Return ``curves.csv.gz``; its columns are described at the top of this module."""
    return read_csv(BytesIO(gzip.decompress((folder / CURVES_FILE).read_bytes())))


def write_table(table: pd.DataFrame, metadata: Mapping[str, Any], folder: Path) -> Path:
    """Write a table of curves and its ``study.json`` into ``folder``; return the file of the curves.

    Losses in nats and seconds are rounded to four decimals.
    """
    digits = dict.fromkeys((VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, SECONDS), 4)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / CURVES_FILE) as file:
        file.write(gzip.compress(to_csv(table.round(digits).sort_values([TRIAL, EPOCH])), mtime=0))
    write_json(folder / STUDY_FILE, metadata)
    return folder / CURVES_FILE


class Tabular:
    """The recorded curves alone: a recorded configuration gets its own curve, which may end early.

    Another configuration gets the nearest curve that was not stopped early, of the same model, by Euclidean distance
    in the unit cube of the space. It diverges where that curve does.
    """

    def __init__(self, curves: Curves):
        self.curves = curves
        self._places = places(curves.space, curves.values)
        self._diverged = np.asarray(np.isinf(curves.losses).any(axis=1))
        self._ended = np.flatnonzero(curves.whole | self._diverged)
        branches = np.array([_branch(curves.space, values) for values in curves.values])
        searched: Any = curves.space.distributions.get(MODEL)
        self._lent: dict[str, npt.NDArray[np.intp]] = {}
        for model in searched.choices if curves.space.conditions else ("",):
            if not (curves.whole & (branches == model)).any():
                raise UsageError(f"{curves.name} has no whole curve{model and f' of {model}'}, which a replay needs.")
            self._lent[model] = self._ended[branches[self._ended] == model]
        self.best = float(curves.losses[curves.whole, -1].min())
        """The lowest recorded loss at ``max_epochs``."""

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve of the nearest configuration."""
        distances = np.linalg.norm(self._places - places(self.curves.space, [values]), axis=1)
        nearest = int(distances.argmin())
        if distances[nearest] > 1e-9:
            lent = self._lent.get(_branch(self.curves.space, values), self._ended)
            nearest = int(lent[distances[lent].argmin()])
        losses, seconds = self.curves.losses[nearest], self.curves.seconds[nearest]
        if self._diverged[nearest]:
            losses = np.where(np.logical_or.accumulate(np.isinf(losses)), np.inf, losses)
        return Curve(losses, np.where(np.isnan(seconds), np.nanmean(seconds), seconds))


def _branch(space: Space, values: Mapping[str, Any]) -> str:
    """Return the model of a configuration where models have hyperparameters of their own, otherwise an empty text."""
    return str(values[MODEL]) if space.conditions else ""


def places(space: Space, values: Sequence[Mapping[str, Any]]) -> Array:
    """Return configurations as points: (n, d), a number in 0..1 on its own scale, each choice a column of 0 or 1.

    The reference may lie outside of the space, and so outside of 0..1. A value that a logarithmic scale cannot hold,
    such as a weight decay of 0, is placed at the low end. A number that the configuration's model does not have is
    placed in the middle, and is none of the choices.
    """
    columns: list[Any] = []
    for name, searched in space.distributions.items():
        cells: list[Any] = [one.get(name) for one in values]
        if isinstance(searched, CategoricalDistribution):
            columns += [[float(cell == choice) for cell in cells] for choice in searched.choices]
        elif isinstance(searched, IntDistribution | FloatDistribution):
            axis = Axis(name, "log" if searched.log else "linear", searched.low, searched.high)
            columns.append(np.nan_to_num(axis.place(cells), nan=0.5, neginf=0.0))
    return np.array(columns, np.float64).T
