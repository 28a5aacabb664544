"""Comparing studies: what each found, at what cost and how fast, as a table, text and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_tune.analysis.compute_cost import compute_cost, cost_unit
from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.analysis.progress import best_so_far
from vae_tune.analysis.study import Studies, Study, load_studies, trial_configs
from vae_tune.config import names
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, atomic
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import is_named
from vae_tune.vae.image_defaults import with_image_defaults
from vae_tune.views.formatting import format_duration, format_value
from vae_tune.views.report.summary import make_status

if TYPE_CHECKING:
    import pandas as pd

_NONE = "-"
_ROWS = {
    names.STATUS: "status",
    names.TRAIN_IMAGES: "training images",
    names.MAX_EPOCHS: "max_epochs",
    names.TRIALS: "trials",
    **{state: f"  {names.STATE_WORDS[state]}" for state in names.STATES},
    names.EPOCHS: "epochs trained",
    names.BEST_TRIAL: "winner: trial",
    names.BEST_EPOCHS: "  epochs",
    names.VAL_LOSS: "  validation loss",
    names.TEST_LOSS: "  test loss",
    names.REFERENCE_LOSS: "reference: validation loss",
    names.FOUND_HOURS: "winner found after",
    names.WALL_HOURS: "whole search",
    names.CPU_HOURS: "core-hours",
    names.GPU_HOURS: "GPU-hours",
}
"""Labels of the columns of :func:`side_by_side`, which are printed as rows."""
_UNEQUAL = {names.BEST_EPOCHS: "numbers of epochs", names.TRAIN_IMAGES: "training images"}
"""Settings that lower the losses of a study without any search."""


def comparable_studies(folders: Sequence[Path]) -> Studies:
    """Load studies whose losses can be compared.

    Raises:
        UsageError: a folder is no study, or the losses are of different kinds or on different images.
    """
    studies = load_studies(folders)
    found: dict[str, Path] = {}
    places: dict[str, str] = {}  # by checksum: the same images may lie in several places
    checksums: dict[tuple[Any, ...], set[str]] = {}
    for study in studies.studies:
        checksums.setdefault(_drawn_alike(study), set()).add(study.metadata["data"]["sha256"])
    shapes = {tuple(study.metadata["data"]["shape"]) for study in studies.studies}
    for study in studies.studies:
        data = study.metadata["data"]
        images = f"{data['validation']:,} of {data['dataset']}"
        if len(shapes) > 1:
            images += f", {' x '.join(map(str, study.image_shape))}"
        if len(checksums[_drawn_alike(study)]) > 1:
            images += f", checksum {data['sha256'][:8]}"
        if not is_named(data["dataset"]):
            images = places.setdefault(data["sha256"], images)
        found.setdefault(images, study.place)
    if len(found) > 1:
        images = "; ".join(f"{address(place)}: {images}" for images, place in found.items())
        raise UsageError(f"Losses on different validation images cannot be compared ({images}).")
    return studies


def _drawn_alike(study: Study) -> tuple[Any, ...]:
    """Return what studies have in common whose checksums are the same if their validation images are.

    The checksum covers the training images too, so it says nothing about studies with different ``train_size``.
    """
    data = study.metadata["data"]
    return data["dataset"], data["validation"], study.image_shape, study.config.data.train_size


def write_figure(studies: Studies, path: Path) -> None:
    """Draw the comparison and write it to ``path``, in the format of its suffix.

    Raises:
        UsageError: the file cannot be written.
    """
    from vae_tune.views.figures import comparison as comparison_figure

    figure = comparison_figure.draw(studies)
    try:
        with atomic(path) as file:
            figure.savefig(file, format=path.suffix[1:])
    except OSError as error:
        raise UsageError(f"The figure {path} cannot be written: {error.strerror or error}.") from error


def side_by_side(studies: Studies) -> pd.DataFrame:
    """Return the result and the cost of each study.

    Returns:
        One row per study, indexed by study: status; train_images; max_epochs; trials, and of them COMPLETE, PRUNED,
        FAIL and RUNNING; epochs trained by all of them; best_trial (missing if there is none); its best_epochs,
        val_loss and test_loss (nats per image; NaN if unknown; where a user's metric ranks trials, that metric and
        ``test_`` with its name); reference_loss (the same of a search's reference,
        trial 0, after as many epochs, or NaN); found_hours (until the best trial ended); wall_hours; cpu_hours and
        gpu_hours.
    """
    import pandas as pd

    table = pd.DataFrame(map(_row, studies.studies), index=pd.Index(studies.names, name=names.STUDY))
    return table.astype({names.BEST_TRIAL: "Int64", names.BEST_EPOCHS: "Int64"})


def _row(study: Study) -> dict[str, Any]:
    cost, best, trials, ranking = compute_cost(study), study.best, study.trials, study.ranking
    unknown = (ranking.name, ranking.test_name, names.REFERENCE_LOSS, names.FOUND_HOURS)
    row: dict[str, Any] = {
        names.STATUS: make_status(study)["label"],
        names.TRAIN_IMAGES: study.metadata["data"]["train"],
        names.MAX_EPOCHS: study.max_epochs,
        names.TRIALS: len(trials),
        **{state: int((trials[names.STATE] == state).sum()) for state in names.STATES},
        names.EPOCHS: len(study.epochs),
        names.BEST_TRIAL: study.best_trial,
        names.BEST_EPOCHS: None if best is None else best[names.EPOCHS],
        **dict.fromkeys(unknown, float("nan")),
        names.WALL_HOURS: cost.wall_seconds / 3600,
        **{hours: float(cost.entries[hours].sum()) for hours in (names.CPU_HOURS, names.GPU_HOURS)},
    }
    if best is not None:
        row[ranking.name] = best[ranking.name]
        found = best_so_far(study).set_index(names.TRIAL)[names.HOURS]
        row[names.FOUND_HOURS] = found.get(study.best_trial, float("nan"))
        reference = trials.loc[names.REFERENCE_TRIAL]
        is_equal = reference[names.EPOCHS] == best[names.EPOCHS] and reference[names.STATE] != names.FAIL
        if study.kind == names.SEARCH and is_equal:
            row[names.REFERENCE_LOSS] = reference[ranking.name]
        winner = (study.metrics or {}).get("winner", {})
        if winner.get("trial") == study.best_trial and "test" in winner:  # else these are numbers of an earlier winner
            row[ranking.test_name] = winner["test"].get(ranking.key, float("nan"))
    return row


def comparison(studies: Studies) -> list[str]:
    """Return the comparison as lines of text: kind and unit, one column per study, and which study is best."""
    table, unit = side_by_side(studies), studies.studies[0].loss_unit
    unused = [column for column in (names.GPU_HOURS, names.RUNNING) if not table[column].any()]
    if not any(study.kind == names.SEARCH for study in studies.studies):
        unused.append(names.REFERENCE_LOSS)
    table = table.drop(columns=unused)
    rows = dict(_numbers(str(column), table[column], unit) for column in table)
    rows |= _configurations(studies)
    seeds = [str(study.config.trial.seed) for study in studies.studies]
    if len(set(seeds)) > 1:
        rows = {"seed of the search": seeds} | rows
    metadata = studies.studies[0].metadata
    title = unit.title if unit.ranking.is_users else f"Losses: negative ELBO, {unit.title}"
    kind = f"{title} of {metadata['data']['dataset']}"
    return [kind, "", *_aligned({"": list(studies.names), **rows}), "", _verdict(table, unit)]


def _numbers(column: str, values: pd.Series[Any], unit: LossUnit) -> tuple[str, list[str]]:
    """Return a column as a row to print: its label and its cells."""
    ranking, label = unit.ranking, _ROWS.get(column, "")
    if ranking.is_users:
        own = {
            ranking.name: "  validation",
            ranking.test_name: "  test",
            names.REFERENCE_LOSS: "reference: validation",
        }
        label = f"{own[column]} {ranking.name}" if column in own else label
    if column in (names.CPU_HOURS, names.GPU_HOURS):
        units, label = cost_unit(values.max(), label)
        values = values * units
    return label, [_cell(column, value, unit) for value in values]


def _cell(column: str, value: Any, unit: LossUnit) -> str:
    import pandas as pd

    if pd.isna(value):
        return _NONE
    if column in (names.FOUND_HOURS, names.WALL_HOURS):
        return format_duration(value * 3600)
    if column in (names.CPU_HOURS, names.GPU_HOURS):
        return f"{value:.3g}"
    return unit.text(value) if isinstance(value, float) else str(value)


def _configurations(studies: Studies) -> dict[str, list[str]]:
    """Return the winners' values of every hyperparameter that any of the studies searched."""
    configs = [None if study.best_trial is None else _winners_config(study) for study in studies.studies]
    searched = dict.fromkeys(name for study in studies.studies for name in study.space.distributions)
    return {
        f"winner: {name}": [_NONE if config is None else format_value(getattr(config, name)) for config in configs]
        for name in searched
    }


def _winners_config(study: Study) -> TrialConfig:
    """Return the winner's configuration, with a value for what it left to the images."""
    config = trial_configs(study, [int(study.best_trial or 0)])[0]
    return with_image_defaults(config, study.image_shape[0])


def _aligned(rows: Mapping[str, list[str]]) -> Iterable[str]:
    first = max(map(len, rows))
    widths = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    for label, cells in rows.items():
        aligned = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        yield "  ".join([f"{label:{first}}", *aligned]).rstrip()


def _verdict(table: pd.DataFrame, unit: LossUnit) -> str:
    ranking = unit.ranking
    found = table[table[ranking.name].notna()].sort_values(ranking.name, ascending=not ranking.maximize)
    if found.empty:
        return "No trial has succeeded in any study."
    values, side = found[ranking.name], "above" if ranking.maximize else "below"
    text = f"{ranking.best.title()} validation {unit.noun}: {values.index[0]}, {unit.text(values.iloc[0])}"
    ahead = f", {unit.text(abs(values.iloc[1] - values.iloc[0]))} {side} {values.index[1]}" if len(found) > 1 else ""
    text += f"{ahead}."
    unequal = [name for column, name in _UNEQUAL.items() if found[column].nunique() > 1]
    return f"{text} Not on equal terms: trained with different {' and '.join(unequal)}." if unequal else text
