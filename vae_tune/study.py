"""A finished, interrupted or running study, read from its folder: tables and values, without Ray or torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_tune.config import SearchConfig, UsageError, from_dict
from vae_tune.files import read_json
from vae_tune.names import (
    BEST_FOLDER,
    EPOCHS_FILE,
    METRICS_FILE,
    REASON,
    STARTED,
    STUDY_FILE,
    TIME,
    TRIAL,
    TRIALS_FILE,
)
from vae_tune.record import read_manifest, winner

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
    started (UTC), seconds, node, device."""
    epochs: pd.DataFrame
    """A row a report: trial, epoch, losses in nats per image, active_units, seconds, images_per_second, time."""
    metrics: dict[str, Any] | None
    """``best/metrics.json``: the winner's and the reference's numbers, or None before the first."""

    @property
    def name(self) -> str:
        """Name of the study, which is its folder's."""
        return self.folder.name

    @cached_property
    def best(self) -> pd.Series[Any] | None:
        """The winner's row of ``trials`` (its name is the trial's number), or None where there is none."""
        best = winner(self.trials.reset_index().itertuples(), self.config.trial.max_epochs)  # type: ignore[type-var]
        return None if best is None else self.trials.loc[best.trial]


def load_study(folder: str | Path) -> Study:
    """Load the study in ``folder``; it may still be running.

    Raises:
        UsageError: the folder is no study.

    """
    import pandas as pd

    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
        config = from_dict(SearchConfig, manifest["config"])
        trials = pd.read_csv(folder / TRIALS_FILE, keep_default_na=True, dtype={REASON: "str"})
        epochs = pd.read_csv(folder / EPOCHS_FILE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{STUDY_FILE} is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise UsageError(f"{folder} is no study: {reason}.") from error
    trials[REASON] = trials[REASON].fillna("")
    trials[STARTED] = pd.to_datetime(trials[STARTED], utc=True)
    epochs[TIME] = pd.to_datetime(epochs[TIME], utc=True)
    metrics_file = folder / BEST_FOLDER / METRICS_FILE
    metrics = read_json(metrics_file) if metrics_file.exists() else None
    return Study(folder, manifest, config, trials.set_index(TRIAL), epochs, metrics)
