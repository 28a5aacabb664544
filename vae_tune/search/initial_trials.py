"""The first trials of a study: the reference configuration, points to try first, and other studies' trials.

Those of other studies are read by :mod:`vae_tune.search.warm_start`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from vae_tune.config.compat.optuna import contains
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import read_number
from vae_tune.config.message_hints import did_you_mean
from vae_tune.config.names import TRIAL
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space, construct, line_of, problem, repeated
from vae_tune.config.trial_values import MODEL, value_of, with_values
from vae_tune.record.sampler_view import store_warm_start_trials

_NOT_GIVEN = {"", "nan", "na", "<na>", "n/a", "null", "none"}
"""Texts that programs write into an empty cell, in lower case."""


@dataclass(frozen=True)
class InitialTrials:
    """The trials that a new study is given before its first proposal."""

    points: Sequence[Mapping[str, Any]] = ()
    """Configurations to try first, each with some or all hyperparameters."""
    warm_start: Sequence[FrozenTrial] = ()
    """Finished trials of other studies, marked with their origin; they are not among the study's own trials."""

    def enqueue(self, study: optuna.Study, space: Space, base: TrialConfig) -> None:
        """Enqueue the reference, as trial 0, and the points; store the trials of other studies for the sampler."""
        study.enqueue_trial(reference_values(space, base) if space.contains(base) else {})
        for point in self.points:
            study.enqueue_trial(dict(point))
        store_warm_start_trials(study, self.warm_start)


def reference_values(space: Space, base: TrialConfig) -> dict[str, Any]:
    """Return the reference configuration's hyperparameters."""
    return space.values(base)


def read_points(path: Path | None, space: Space, base: TrialConfig) -> list[dict[str, Any]]:
    """Read configurations to try first from a YAML list of mappings or a CSV table.

    Raises:
        UsageError: the file cannot be read, or the space does not allow a value; names file and entry.
    """
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin with a mark
        entries = _rows(text) if path.suffix.lower() == ".csv" else _entries(path, text)
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no UTF-8
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UsageError(f"The points file {path} cannot be read: {reason}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: points are a list of mappings, for instance\n  - {{latent_size: 32}}")
    if not entries:
        raise UsageError(f"{path} holds no points.")
    return [_point(f"{path}: point {number}", entry, space, base) for number, entry in enumerate(entries, start=1)]


def _rows(text: str) -> list[dict[str, Any]]:
    """Return the rows of a table without their empty cells: a point need not name all hyperparameters.

    A first column without a name, or with trials' numbers, is the index that pandas writes.

    Raises:
        ValueError: a column name repeats, or a row has more cells than there are columns.
    """
    table = csv.reader(text.splitlines())
    names = [name.strip() for name in next(table, [])]
    if twice := repeated([name for name in names if name]):
        raise ValueError(f"its column {twice[0]!r} is there twice")
    rows = []
    for cells in table:
        if any(cell.strip() for cell in cells[len(names) :]):
            raise ValueError(f"its line {table.line_num} has {len(cells)} cells, but its first {len(names)}")
        start = int(names[:1] in ([""], [TRIAL]))
        named = zip(names[start:], cells[start:], strict=False)
        rows.append({name: cell for name, cell in named if cell.strip().lower() not in _NOT_GIVEN})
    return [row for row in rows if row]


def _entries(path: Path, text: str) -> Any:
    """Return the content of a YAML file; a list is read entry by entry."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}:{line_of(error, text)}: not valid YAML: {problem(error)}.") from error
    entries = []
    for number, node in enumerate(root.value if isinstance(root, yaml.SequenceNode) else (), start=1):
        try:
            entries.append(construct(node))
        except Exception as error:  # PyYAML lets through what int(), date() and the like raise at a bad value
            raise UsageError(f"{path}: point {number} cannot be read: {problem(error)}.") from error
    return entries if isinstance(root, yaml.SequenceNode) else None


def _point(where: str, entry: Mapping[str, Any], space: Space, base: TrialConfig) -> dict[str, Any]:
    point = {}
    for name, text in entry.items():
        if text is None or str(text) == "nan":  # left blank in YAML, or .nan
            continue
        if name not in space.distributions:
            known = f"{where}: {name!r} is not searched; choose from {', '.join(space.distributions)}."
            raise UsageError(known + did_you_mean(name, space.distributions))
        point[name] = _read(where, name, text, base, space)
        if not contains(space.distributions[name], point[name]):
            raise UsageError(
                f"{where}: {name} {point[name]} lies outside of the search space ({_allowed(space, name)})."
            )
    model = point.get(MODEL)
    for name in point:
        if model is not None and not space.applies(name, model):
            raise UsageError(f"{where}: {name} is not of {model}: leave it out.")
    return point


def _allowed(space: Space, name: str) -> str:
    """Return the values of a hyperparameter that are searched, as a text."""
    searched: Any = space.distributions[name]
    if hasattr(searched, "choices"):
        return ", ".join(map(str, searched.choices))
    steps = f" in steps of {searched.step}" if searched.step not in (None, 1) else ""
    return f"{searched.low} to {searched.high}{steps}"


def _read(where: str, name: str, value: Any, base: TrialConfig, space: Space) -> Any:
    """Return a value with the field's type: CSV has only texts, and in YAML 1.1 1e-4 is a text."""
    searched = space.distributions[name]
    kind = {IntDistribution: int, FloatDistribution: float}.get(type(searched), type(value_of(base, name)))
    try:
        if kind in (int, float):
            value = read_number(str(value), kind)
        return value_of(with_values(base, {name: value}), name)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{where}: {name}: {str(error).removeprefix(f'{name} ')}") from error
