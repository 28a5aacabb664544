"""Recorded learning curves: of a study, or of a table that was made from one to be published.

A table is a folder with two files: ``study.json`` of the study that it was made from, and ``curves.csv.gz``, one row
per epoch of a trial: ``trial``, ``epoch``, the hyperparameters by their own names, ``val_loss``,
``val_reconstruction`` and ``val_kl`` in nats per image, ``seconds``. See ``docs/curves.md``.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution

from vae_tune.analysis.study import load_study
from vae_tune.config.csv_tables import read_csv, to_csv
from vae_tune.config.files import address, atomic, write_json
from vae_tune.config.names import (
    COMPLETE,
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
from vae_tune.config.settings import TrialConfig, UsageError, from_dict, telling_line
from vae_tune.config.space import Space
from vae_tune.record.copies import local, shown
from vae_tune.record.metadata import read_manifest, read_space

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """What one configuration would report."""

    losses: Array
    """(max_epochs,) validation negative ELBO, nats per image; infinite where it has diverged."""
    seconds: Array
    """(max_epochs,) length of each epoch."""


class Source(Protocol):
    """Where a replayed trial's reports come from."""

    @property
    def curves(self) -> Curves:
        """What was recorded."""

    @property
    def best(self) -> float:
        """The lowest loss at ``max_epochs`` that is known."""

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve of a configuration."""


@dataclass(frozen=True)
class Curves:
    """Recorded configurations with their curves."""

    name: str
    space: Space
    reference: TrialConfig
    kind: str
    """Of the numbers: grey, static or dynamic."""
    values: tuple[Mapping[str, Any], ...]
    """The n configurations' hyperparameters."""
    losses: Array
    """(n, max_epochs) nats per image; NaN where training had ended, infinite where it had diverged."""
    seconds: Array
    """(n, max_epochs), NaN where training had ended."""

    @property
    def max_epochs(self) -> int:
        """Epochs of a whole curve."""
        return self.reference.max_epochs

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """(n,) Which curves go to the end."""
        return np.asarray(np.isfinite(self.losses).all(axis=1))

    @property
    def stopped(self) -> npt.NDArray[np.bool_]:
        """(n,) Which curves end early, for another reason than that they diverged."""
        return np.asarray(np.isnan(self.losses).any(axis=1) & ~np.isinf(self.losses).any(axis=1))

    @property
    def can_be_replayed_alone(self) -> bool:
        """Whether no replay on the recorded curves alone can come to the end of one that was stopped."""
        return bool(self.whole.any() and not self.stopped.any())


def load_curves(folder: Path) -> Curves:
    """Return the curves of a study or of a table; a trial that broke without diverging is left out.

    Raises:
        UsageError: the folder is neither, is damaged, or has no curve.
    """
    folder = local(folder)
    manifest = read_manifest(folder)
    space = read_space(manifest)
    try:
        table = read_table(folder) if (folder / CURVES_FILE).exists() else _of_study(folder)
        reference: TrialConfig = from_dict(TrialConfig, manifest["reference"])
        values, losses, seconds = [], [], []
        for _, rows in table.groupby(TRIAL, sort=True):
            values.append({name: _plain(rows[name].iloc[0], space, name) for name in space.distributions})
            curve = np.full((2, reference.max_epochs), np.nan)
            curve[:, rows[EPOCH].to_numpy() - 1] = rows[[VAL_LOSS, SECONDS]].to_numpy(np.float64).T
            losses.append(curve[0])
            seconds.append(curve[1])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, IndexError) as error:
        raise UsageError(f"{shown(folder / CURVES_FILE)} cannot be read: {telling_line(error)}.") from error
    if not values:
        raise UsageError(f"{shown(folder)} has no learning curve: no trial has reported an epoch.")
    kind = str(manifest["metric"]["kind"])
    return Curves(folder.name, space, reference, kind, tuple(values), np.array(losses), np.array(seconds))


def read_table(folder: Path) -> pd.DataFrame:
    """Return ``curves.csv.gz``; its columns are described at the top of this module."""
    return read_csv(BytesIO(gzip.decompress((folder / CURVES_FILE).read_bytes())))


def write_curves(study: Path, output: Path) -> Path:
    """Write the curves of the COMPLETE trials of a study as a table into the folder ``output``; return its file.

    Raises:
        UsageError: the folder is no study, or has no complete trial.
    """
    loaded = load_study(study)
    complete = loaded.trials[loaded.trials[STATE] == COMPLETE]
    if complete.empty:
        raise UsageError(f"{address(study)} has no complete trial, and so no curve to publish.")
    names = list(loaded.space.distributions)
    reports = loaded.epochs[[TRIAL, EPOCH, VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, SECONDS]].round(4)
    table = complete[names].merge(reports, left_index=True, right_on=TRIAL).sort_values([TRIAL, EPOCH])
    columns = [TRIAL, EPOCH, *names, VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, SECONDS]
    output.mkdir(parents=True, exist_ok=True)
    with atomic(output / CURVES_FILE) as file:
        file.write(gzip.compress(to_csv(table[columns]), mtime=0))
    write_json(output / STUDY_FILE, loaded.manifest)
    return output / CURVES_FILE


class Tabular:
    """The recorded configurations alone: a proposal gets the curve of the nearest one.

    A configuration that was recorded gets its own curve, as far as it goes; another the nearest whole one, by
    Euclidean distance in the unit cube of the space.
    """

    def __init__(self, curves: Curves):
        self.curves = curves
        self._places = places(curves.space, curves.values)
        self._whole = np.flatnonzero(~np.isnan(curves.losses).any(axis=1))
        if not len(self._whole):
            raise UsageError(f"{curves.name} has no curve to the end: nothing can be replayed on it.")
        self.best = float(curves.losses[self._whole, -1].min())

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve of the nearest recorded configuration."""
        distances = np.linalg.norm(self._places - places(self.curves.space, [values]), axis=1)
        nearest = int(distances.argmin())
        if distances[nearest] > 1e-9:
            nearest = int(self._whole[distances[self._whole].argmin()])
        return Curve(self.curves.losses[nearest], _filled(self.curves.seconds[nearest]))


def places(space: Space, values: Any) -> Array:
    """Return configurations as points: (n, d), a number in 0..1 on its own scale, each choice a column of 0 or 1.

    A reference may lie outside of the space, and so outside of 0..1; where its value has no place on a logarithmic
    scale, such as a weight decay of 0, it has that of the lowest.
    """
    return np.array([list(_coordinates(space, one)) for one in values], np.float64)


def _coordinates(space: Space, values: Mapping[str, Any]) -> Iterator[float]:
    for name, distribution in space.distributions.items():
        value: Any = values[name]
        if isinstance(distribution, CategoricalDistribution):
            yield from (float(value == choice) for choice in distribution.choices)
            continue
        low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
        if distribution.log:  # type: ignore[attr-defined]
            low, high, value = np.log(low), np.log(high), np.log(value if value > 0 else low)
        yield float((value - low) / (high - low)) if high > low else 0.0


def _filled(seconds: Array) -> Array:
    """Return durations where a curve that ended early has its mean for the epochs it lacks."""
    return np.where(np.isnan(seconds), np.nanmean(seconds), seconds)


def _plain(value: Any, space: Space, name: str) -> Any:
    """Return a cell as the space holds it: a choice by its text, a number as Python's."""
    distribution = space.distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if str(choice) == str(value)), value)
    return value.item() if hasattr(value, "item") else value


def _of_study(folder: Path) -> pd.DataFrame:
    """Return a study's reports as in a table; one of infinite loss is added where a trial diverged."""
    import pandas as pd

    study = load_study(folder)
    failed = study.trials[study.trials[STATE] == FAIL]
    diverged = failed[failed[DIVERGED]]
    kept = study.trials.drop(index=failed.index.difference(diverged.index))
    reports = study.epochs[study.epochs[TRIAL].isin(kept.index)][[TRIAL, EPOCH, VAL_LOSS, SECONDS]]
    last = reports.groupby(TRIAL)[EPOCH].max().reindex(diverged.index, fill_value=0)
    pace = reports.groupby(TRIAL)[SECONDS].mean().reindex(diverged.index).fillna(reports[SECONDS].mean())
    ends = pd.DataFrame(
        {TRIAL: diverged.index, EPOCH: last.to_numpy() + 1, VAL_LOSS: np.inf, SECONDS: pace.to_numpy()}
    )
    reports = pd.concat([reports, ends]) if len(ends) else reports
    values = kept[list(study.space.distributions)].reset_index()
    return reports.merge(values, on=TRIAL)
