"""A finished, interrupted or running study, read from its folder into tables, without Ray or torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.config import names
from vae_tune.config.csv_tables import read_csv
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.fields import from_dict
from vae_tune.config.files import address, named_path, read_json
from vae_tune.config.local_copies import local_copy, original_address, original_path
from vae_tune.config.metric import METRIC, Metric
from vae_tune.config.model_options import PREFIX
from vae_tune.config.names import AUDITED, COLLAPSED, DIVERGED, EPOCHS, STATE, STATES, STUDY, TRIAL, VAL_LOSS
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import MODEL, with_values
from vae_tune.record.lengths import earlier_end
from vae_tune.record.metadata import read_metadata, read_space
from vae_tune.record.trials import marks_of_schema_1, winner
from vae_tune.search.scheduler import Scheduler
from vae_tune.search.scheduler_factory import make_scheduler

if TYPE_CHECKING:
    from vae_tune.vae.model import VAE

_TRIAL_LOSSES = (VAL_LOSS, names.VAL_RECONSTRUCTION, names.VAL_KL)
_EPOCH_LOSSES = (names.TRAIN_LOSS, *_TRIAL_LOSSES)
_USUAL_PIXELS = 28 * 28


@dataclass(frozen=True)
class Study:
    """One study folder as it was when it was loaded."""

    folder: Path
    metadata: dict[str, Any]
    """``study.json``: command, versions, data set, space, rungs, status."""
    config: SearchConfig
    trials: pd.DataFrame
    """One row per trial, indexed by its number: the columns of ``trials.csv``."""
    epochs: pd.DataFrame
    """One row per report: the columns of ``epochs.csv``."""
    metrics: dict[str, Any] | None
    """``best/metrics.json``: losses of the winner and the reference, or None if there is no winner yet."""

    @property
    def name(self) -> str:
        """Name of the study, which is the name of its folder."""
        return self.folder.name

    @property
    def place(self) -> Path:
        """The folder, or the address on object storage that the folder is a copy of."""
        return original_path(self.folder)

    @property
    def manifest(self) -> dict[str, Any]:
        """``metadata``, by the name that version 0.1.0 gave it."""
        return self.metadata

    @cached_property
    def space(self) -> Space:
        """The search space."""
        return read_space(self.metadata)

    @cached_property
    def reference(self) -> TrialConfig:
        """The reference configuration, trial 0; the other trials differ from it in the hyperparameters only."""
        reference: TrialConfig = from_dict(TrialConfig, self.metadata["reference"])
        return reference

    @property
    def max_epochs(self) -> int:
        """Epochs of a trial that is not stopped."""
        return self.reference.max_epochs

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which early stopping compares the trials."""
        return tuple(self.metadata["rungs"])

    @cached_property
    def scheduler(self) -> Scheduler:
        """The scheduler of the search, before any report."""
        return make_scheduler(self.config.asha, self.max_epochs, self.reference.seed)

    @property
    def kind(self) -> str:
        """``search``, or ``exploration`` or ``confirmation``, whose configurations were given."""
        return str(self.metadata["kind"])

    @cached_property
    def loss_unit(self) -> LossUnit:
        """The unit in which people are shown what ranks the trials; the tables here are in nats per image."""
        return LossUnit.of(self.metadata["metric"])

    @cached_property
    def elbo_unit(self) -> LossUnit:
        """The unit in which people are shown ``val_loss`` and its parts, also where a user's metric ranks."""
        return LossUnit.of(self.metadata.get(names.LOSSES, self.metadata["metric"]))

    @cached_property
    def ranking(self) -> Metric:
        """The metric that ranks the trials: ``val_loss``, or a user's metric; its name is a column of the tables."""
        return Metric.of(self.metadata["metric"])

    def losses(self, table: pd.DataFrame) -> pd.Series[float]:
        """Return the numbers that rank the rows of a table, lower is better: a metric to maximize is negated."""
        losses: pd.Series[float] = self.ranking.loss(table[self.ranking.name])
        return losses

    @cached_property
    def shown(self) -> Study:
        """The study with the losses of its tables in the unit in which people are shown them, for figures."""
        nats = self.elbo_unit.nats
        if nats == 1:
            return self
        trials = self.trials.assign(**{name: self.trials[name] / nats for name in _TRIAL_LOSSES})
        epochs = self.epochs.assign(**{name: self.epochs[name] / nats for name in _EPOCH_LOSSES})
        shown = replace(self, trials=trials, epochs=epochs)
        vars(shown).update({"shown": shown, "_configs": self._configs})  # it is in that unit already
        return shown

    @cached_property
    def _configs(self) -> dict[int, TrialConfig]:
        """The configurations that :func:`trial_configs` has made; the checks of a thousand take most of a second."""
        return {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width; of gray images the record holds (height, width)."""
        return image_shape(self.metadata)

    def threshold(self, nats: float) -> float:
        """Return a difference of losses that matters, given for an image of 28 x 28 gray pixels, for an image here.

        Nothing is known of the scale of a user's metric: a nat is taken as a tenth of the distance between the best
        of the complete trials and their median, which it is about in searches on MNIST.
        """
        if self.ranking.is_users:
            losses = self.losses(complete_trials(self))
            return nats * float(losses.median() - losses.min()) / 10 if len(losses) else 0.0
        return nats * size_factor(self.image_shape)

    @cached_property
    def best(self) -> pd.Series[Any] | None:
        """The winner's row of ``trials`` (its name is the trial's number), or None if there is no winner."""
        rows = rows_to_rank(self)
        best: Any = winner(rows, self.max_epochs)
        return None if best is None else self.trials.loc[best.trial]

    @property
    def best_trial(self) -> int | None:
        """The winner's number, or None if there is no winner."""
        return None if self.best is None else int(str(self.best.name))

    def load_model(self, model: str | None = None) -> VAE:
        """Return the winner's model on the CPU, an ``nn.Module`` in eval mode; ``encode(images)`` gives latent means.

        ``model`` is FILE.py:CLASS where its network is a class of yours: code runs only from a file that you name.

        Raises:
            UsageError: there is no model yet, or it is damaged.
        """
        from vae_tune.vae.checkpoint import load_model

        return load_model(self.folder, model)

    def __repr__(self) -> str:
        """Describe the study in a few lines: kind, status, trials and winner."""
        unit, counts = self.loss_unit, self.trials[STATE].value_counts()
        states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        lines = [
            f"Study {self.name}: {self.kind}, {self.metadata['status']}, in {address(self.folder)}",
            f"  {len(self.trials)} of {self.config.num_samples} trials ({states}), {len(self.epochs)} epochs"
            if len(self.trials)
            else f"  0 of {self.config.num_samples} trials",
        ]
        if (best := self.best) is not None:
            name, value = self.ranking.name, best[self.ranking.name]
            loss = unit.text(value) + ("" if self.ranking.is_users else f" {unit.name} ({unit.kind.name})")
            lines.append(f"  best: trial {best.name}, {name} {loss} after epoch {best[EPOCHS]}")
            values = best[list(self.space.distributions)].dropna().items()
            words = [f"{name}={f'{value:.3g}' if isinstance(value, float) else value}" for name, value in values]
            lines += wrap(" ".join(words), 79, initial_indent="  ", subsequent_indent="  ")
        return "\n".join(lines)


def trial_configs(study: Study, trials: Iterable[int]) -> list[TrialConfig]:
    """Return the whole configuration of each of ``trials``, given by number."""
    wanted = list(trials)
    new = [trial for trial in dict.fromkeys(wanted) if trial not in study._configs]
    rows = study.trials.loc[new, list(study.space.distributions)].to_dict("records")
    for trial, row in zip(new, rows, strict=True):
        values = {str(name): value for name, value in row.items() if pd.notna(value)}
        study._configs[trial] = with_values(study.reference, values)
    return [study._configs[trial] for trial in wanted]


def rows_to_rank(study: Study) -> Any:
    """Return the trials with their losses as :func:`vae_tune.record.trials.ranked` takes them."""
    return as_rows(study.trials, study.losses(study.trials), study.metadata)


def as_rows(trials: pd.DataFrame, losses: pd.Series[float], metadata: Mapping[str, Any]) -> Any:
    """Return the rows of ``trials.csv`` as :func:`vae_tune.record.trials.ranked` takes them."""
    last = earlier_end(metadata)
    return trials.assign(loss=losses, complete_at=(trials[EPOCHS] >= last) * last).reset_index().itertuples()


def parts_by_model(study: Study) -> dict[str, Study]:
    """Return a study as parts in which all trials have the same hyperparameters.

    Returns:
        "" for what all trials have, then each model for its trials and for what is searched of them alone; of a study
        that does not search models with options of their own, "" for the study itself.
    """
    space = study.space
    if not space.conditions:
        return {"": study}
    parts = {"": _part(study, space.shared, study.trials.index)}
    searched: Any = space.distributions[MODEL]
    for model in searched.choices:
        own = {name: found for name, found in space.active(model).items() if name != MODEL}
        parts[model] = _part(study, own, study.trials.index[study.trials[MODEL] == model])
    return parts


def _part(study: Study, searched: Mapping[str, Any], trials: pd.Index[Any]) -> Study:
    epochs = study.epochs[study.epochs[TRIAL].isin(trials)]
    part = replace(study, trials=study.trials.loc[trials], epochs=epochs)
    part.__dict__["space"] = Space(searched)
    return part


def image_shape(metadata: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return channels, height and width of the images of a ``study.json``, which has (height, width) of gray ones."""
    channels, height, width = [1, *map(int, metadata["data"]["shape"])][-3:]
    return channels, height, width


def size_factor(shape: tuple[int, int, int]) -> float:
    """Return the values of an image of this shape, relative to those of 28 x 28 gray pixels."""
    return math.prod(shape) / _USUAL_PIXELS


def complete_trials(study: Study) -> pd.DataFrame:
    """Return the rows of the trials that were trained to ``max_epochs``."""
    return study.trials[(study.trials[STATE] == names.COMPLETE) & (study.trials[EPOCHS] == study.max_epochs)]


def audited_trials(study: Study) -> pd.Series[int]:
    """Return, by number of each audited trial, the epoch of the rung that would have stopped it."""
    return study.trials[AUDITED].dropna().astype(int)


def paused_trials(study: Study) -> pd.Series[bool]:
    """Tell of each trial whether it is paused, or was when the search ended: it holds no worker."""
    waits = study.trials[EPOCHS].isin(study.scheduler.pauses)
    paused: pd.Series[bool] = waits & study.trials[STATE].isin((names.RUNNING, names.PRUNED))
    return paused


def reports_before_audit(study: Study) -> pd.DataFrame:
    """Return the reports that early stopping used: those of an audited trial only up to the rung of its audit."""
    ends = study.epochs[TRIAL].map(audited_trials(study)).fillna(study.max_epochs)
    return study.epochs[study.epochs[names.EPOCH] <= ends]


def load_study(folder: str | Path) -> Study:
    """Load the study in ``folder``; it may still be running, or have been interrupted at any moment.

    A study on object storage (``s3://bucket/results/name``) is copied to this machine first, until this process ends.
    ``docs/tables.md`` gives the type and unit of each column.

    Raises:
        UsageError: the folder is not a study, or one of its files cannot be read.
    """
    folder = local_copy(named_path(folder))
    metadata = read_metadata(folder)
    path = folder / names.EPOCHS_FILE
    try:
        content = path.read_bytes()  # before trials.csv, which then has every trial that reported
        whole_lines = content[: content.rfind(b"\n") + 1]  # the search may be in the middle of writing the next
        ranking = Metric.of(metadata["metric"])
        epochs = _read_table(BytesIO(whole_lines), ranking.epoch_columns)
        path = folder / names.TRIALS_FILE
        trials = trials_table(path, read_space(metadata), metadata["reference"], ranking)
        path = folder / names.BEST_FOLDER / names.METRICS_FILE
        metrics = read_json(path) if path.exists() else None
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{original_address(path)} cannot be read: {telling_line(error)}.") from error
    return Study(folder, metadata, from_dict(SearchConfig, metadata["config"]), trials, epochs, metrics)


@dataclass(frozen=True)
class Studies:
    """Several studies side by side."""

    studies: tuple[Study, ...]
    names: tuple[str, ...]
    """Their names in the column ``study``."""
    trials: pd.DataFrame
    """All trials, with the columns study and trial in front; a hyperparameter is missing where a study did not search
    it."""
    epochs: pd.DataFrame
    """All reports, with the column study in front."""

    def __repr__(self) -> str:
        """Name the studies."""
        return f"Studies({', '.join(self.names)})"


def load_studies(folders: Iterable[str | Path]) -> Studies:
    """Load several studies and stack their tables.

    The column ``study`` holds the study's name, or its folder if two studies have the same name.

    Raises:
        UsageError: no folder is given, a study cannot be loaded, or their losses are of different kinds.
    """
    studies = tuple(load_study(folder) for folder in folders)
    if not studies:
        raise UsageError("No study to load: give at least one folder.")
    kinds = {str(study.metadata["metric"]["kind"]): study.place for study in studies}
    if len(kinds) > 1:
        found = ", ".join(f"{address(place)}: {kind}" for kind, place in kinds.items())
        raise UsageError(f"Losses of different kinds cannot be compared ({found}).")
    given = [study.name for study in studies]
    keys = [study.name if given.count(study.name) == 1 else address(study.place) for study in studies]
    return Studies(
        studies,
        tuple(keys),
        _stack([study.trials.reset_index() for study in studies], keys),
        _stack([study.epochs for study in studies], keys),
    )


def _stack(tables: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Stack tables with the column ``study`` in front; a categorical column has the choices of all tables."""
    stacked = pd.concat(tables, keys=keys, names=[STUDY]).reset_index(STUDY).reset_index(drop=True)
    for column in stacked.columns[1:]:
        types = [table[column].dtype for table in tables if column in table]
        choices = dict.fromkeys(x for kind in types if isinstance(kind, pd.CategoricalDtype) for x in kind.categories)
        if choices:
            stacked[column] = pd.Categorical(stacked[column], categories=list(choices))
    return stacked


def trials_table(
    source: Path | BytesIO, space: Space, reference: Mapping[str, Any], ranking: Metric = METRIC
) -> pd.DataFrame:
    """Read ``trials.csv``, indexed by trial. A trial without a report has no losses, node and device."""
    numbers = {IntDistribution: "Int64", FloatDistribution: "float64"}
    values = {name: numbers.get(type(searched), "category") for name, searched in space.distributions.items()}
    table = _read_table(source, ranking.trial_columns_before | values | names.TRIAL_COLUMNS_AFTER)
    if unknown := set(table[STATE].unique()) - {*STATES}:
        raise ValueError(f"{unknown.pop()!r} is no state of a trial")
    if AUDITED not in table:
        marks = [marks_of_schema_1(reason) for reason in table[names.REASON]]
        columns = [AUDITED, COLLAPSED, DIVERGED]
        table[columns] = pd.DataFrame(marks, columns=columns, index=table.index)
    table = table.astype({name: names.TRIAL_COLUMNS_AFTER[name] for name in (AUDITED, COLLAPSED, DIVERGED)})
    table[STATE] = pd.Categorical(table[STATE], categories=STATES)
    for name, distribution in space.distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            own = _of_reference(reference, name)  # it may lie outside
            choices = dict.fromkeys([*distribution.choices, *own])
            texts = {str(choice): choice for choice in choices}
            table[name] = pd.Categorical([texts.get(text) for text in table[name]], categories=list(choices))
    return table.set_index(TRIAL)


def _of_reference(reference: Mapping[str, Any], name: str) -> list[Any]:
    """Return the reference's value of a hyperparameter; none where the reference does not have it."""
    found = reference.get(name, reference.get("model_options", {}).get(name.removeprefix(PREFIX)))
    return [] if found is None else [found]


def _read_table(source: Path | BytesIO, types: Mapping[str, str]) -> pd.DataFrame:
    """Read a table with columns of these types; a category or a bool is left as it is written."""
    table = read_csv(
        source, {name: "str" if kind == "category" else kind for name, kind in types.items() if kind != "bool"}
    )
    return table.fillna({name: "" for name, kind in types.items() if kind == "str"})
