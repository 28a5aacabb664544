"""A finished, interrupted or running study, read from its folder: tables and values, without Ray or torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_tune.config import SearchConfig, TrialConfig, UsageError, from_dict
from vae_tune.files import read_json
from vae_tune.manifest import read_manifest, read_space
from vae_tune.names import (
    BEST_FOLDER,
    ENDED,
    EPOCHS_FILE,
    METRICS_FILE,
    REASON,
    STARTED,
    TIME,
    TRIAL,
    TRIALS_FILE,
)
from vae_tune.space import Space
from vae_tune.trials import winner

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """One study folder as it was when it was loaded."""

    folder: Path
    manifest: dict[str, Any]
    """``study.json``: command, versions, data set, space, rungs, status."""
    config: SearchConfig
    trials: pd.DataFrame
    """A row a trial, indexed by its number: state, reason, epochs, losses in nats per image, the hyperparameters,
    started, ended (UTC), seconds (in epochs), node, device."""
    epochs: pd.DataFrame
    """A row a report: trial, epoch, losses in nats per image, active_units, seconds, images_per_second, time."""
    metrics: dict[str, Any] | None
    """``best/metrics.json``: the winner's and the reference's numbers, or None before the first."""

    @property
    def name(self) -> str:
        """Name of the study, which is its folder's."""
        return self.folder.name

    @property
    def space(self) -> Space:
        """What was searched."""
        return read_space(self.manifest)

    @property
    def reference(self) -> TrialConfig:
        """The reference configuration, trial 0; the other trials differ from it in the hyperparameters alone."""
        reference: TrialConfig = from_dict(TrialConfig, self.manifest["reference"])
        return reference

    @property
    def max_epochs(self) -> int:
        """Epochs of a trial that is not stopped."""
        return self.reference.max_epochs

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which ASHA may stop a trial."""
        return tuple(self.manifest["rungs"])

    @cached_property
    def best(self) -> pd.Series[Any] | None:
        """The winner's row of ``trials`` (its name is the trial's number), or None where there is none."""
        rows: Any = self.trials.reset_index().itertuples()
        best = winner(rows, self.max_epochs)
        return None if best is None else self.trials.loc[best.trial]


def trial_configs(study: Study, trials: Iterable[int]) -> list[TrialConfig]:
    """Return the whole configuration of each of ``trials``, given by number."""
    reference, names = study.reference, list(study.space.distributions)
    rows = study.trials.loc[list(trials), names].to_dict("records")
    return [replace(reference, **{name: row[name] for name in names}) for row in rows]


def load_study(folder: str | Path) -> Study:
    """Load the study in ``folder``; it may still be running.

    Raises:
        UsageError: the folder is no study.
    """
    import pandas as pd

    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        trials = pd.read_csv(folder / TRIALS_FILE, keep_default_na=False, na_values=[""], dtype={REASON: "str"})
        epochs = pd.read_csv(folder / EPOCHS_FILE)
    except (OSError, ValueError) as error:
        raise UsageError(f"The tables of the study {folder} cannot be read: {error}.") from error
    trials[REASON] = trials[REASON].fillna("")
    for column in (STARTED, ENDED):
        trials[column] = pd.to_datetime(trials[column], utc=True)
    epochs[TIME] = pd.to_datetime(epochs[TIME], utc=True)
    metrics_file = folder / BEST_FOLDER / METRICS_FILE
    metrics = read_json(metrics_file) if metrics_file.exists() else None
    return Study(
        folder, manifest, from_dict(SearchConfig, manifest["config"]), trials.set_index(TRIAL), epochs, metrics
    )
