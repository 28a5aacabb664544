"""Tables of the effect of the hyperparameters: alone, in pairs, as whole configurations, and their importance.

Each function takes a study in any condition (empty, running, interrupted, failed) and returns a tidy table, which is
empty if the study has no data for it. Losses are nats per image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.analysis.axis_ranges import log_ticks, round_ticks
from vae_tune.analysis.study import Study, parts_by_model, trial_configs
from vae_tune.config import names
from vae_tune.config.compat.optuna import vectorize_fanova
from vae_tune.config.errors import UsageError
from vae_tune.config.names import EPOCH, EPOCHS, FAIL, HYPERPARAMETER, IMPORTANCE, STATE, TRIAL, TRIALS
from vae_tune.config.optuna_logging import silence_optuna
from vae_tune.config.trial_values import MODEL

MIN_TRIALS = 10  # trials with a loss at the same epoch that a comparison of hyperparameters needs
PED_ANOVA, FANOVA = "ped-anova", "fanova"
_MAX_DEPTH = 8  # of fANOVA's trees; Optuna's 64 gives the same shares to within 0.01, for 1,000 trials in 25 s
_TOP = 5  # trials that PED-ANOVA should count among the best, by Optuna's documentation


@dataclass(frozen=True)
class Axis:
    """A hyperparameter as an axis of a figure."""

    name: str
    scale: Literal["log", "linear", "category"]
    low: float = 0.0
    high: float = 0.0  # ends of the searched range, for numbers
    choices: tuple[Any, ...] = ()  # for categories

    @property
    def title(self) -> str:
        """Its name, and its scale where that is not the usual one."""
        return f"{self.name} (log)" if self.scale == "log" else self.name

    @property
    def whole(self) -> bool:
        """Whether only whole numbers lie in the range."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ticks(self) -> dict[float, str]:
        """Labels by coordinate, see :meth:`coordinates`."""
        if self.scale == "category":
            return {float(number): str(choice) for number, choice in enumerate(self.choices)}
        return log_ticks(self.low, self.high) if self.scale == "log" else round_ticks(self.low, self.high, self.whole)

    def including(self, values: Iterable[Any]) -> Axis:
        """Return the axis with a range or choices that hold ``values`` too: a reference may lie outside the space.

        A log range cannot hold 0, such as a reference's weight decay.
        """
        known = [value for value in values if pd.notna(value)]
        if self.scale == "category":
            return replace(self, choices=tuple(dict.fromkeys([*self.choices, *known])))
        numbers = [value for value in known if value > 0 or self.scale == "linear"]
        return replace(self, low=min([self.low, *numbers]), high=max([self.high, *numbers]))

    def edges(self, cells: int) -> npt.NDArray[np.float64]:
        """Return the ends of ``cells`` equal parts of the range, of equal ratio on a log scale; of each choice."""
        if self.scale == "category":
            return np.arange(len(self.choices) + 1, dtype=np.float64) - 0.5
        space: Any = np.geomspace if self.scale == "log" else np.linspace
        return np.asarray(space(self.low, self.high, cells + 1), np.float64)

    def coordinates(self, values: pd.Series[Any], spread: float = 0.0) -> npt.NDArray[np.float64]:
        """Return values as numbers: of a choice its number, NaN for what lies on no log scale.

        With ``spread`` points of the same choice can be told apart.
        """
        if self.scale == "category":
            numbers = {choice: float(number) for number, choice in enumerate(self.choices)}
            shifts = np.random.default_rng(0).uniform(-spread, spread, len(values))
            return np.array([numbers.get(value, math.nan) for value in values]) + shifts
        coordinates = pd.to_numeric(values).to_numpy(np.float64, na_value=math.nan)
        return np.where(coordinates > 0, coordinates, math.nan) if self.scale == "log" else coordinates

    def place(self, coordinates: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return where coordinates lie in the range, on its own scale: 0 is its low end, 1 its high end.

        What lies on no log scale lies infinitely far below.
        """
        low, high, numbers = self.low, self.high, np.asarray(coordinates, dtype=np.float64)
        if self.scale == "category":
            low, high = 0, len(self.choices) - 1
        if self.scale == "log":
            with np.errstate(divide="ignore"):
                low, high, numbers = math.log(low), math.log(high), np.log(np.maximum(numbers, 0))
        return np.asarray((numbers - low) / (high - low or 1), np.float64)


def axes(study: Study) -> dict[str, Axis]:
    """Return the searched hyperparameters as axes, by name, in the space's order."""
    return {name: _axis(name, distribution) for name, distribution in study.space.distributions.items()}


def _axis(name: str, distribution: BaseDistribution) -> Axis:
    if isinstance(distribution, CategoricalDistribution):
        return Axis(name, "category", choices=tuple(distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.single():  # as the seed of an exploration without repeats
        return Axis(name, "category", choices=(distribution.low,))
    return Axis(name, "log" if distribution.log else "linear", distribution.low, distribution.high)


def slices(study: Study) -> pd.DataFrame:
    """Return the loss by each hyperparameter on its own.

    Returns:
        One row per trial and hyperparameter that it has: trial, state, epochs, hyperparameter, value (of the
        hyperparameter's own type), val_loss (the trial's last, at epoch ``epochs``; NaN where there was none), or the
        user's metric that ranks trials in its place.
    """
    ranked_by = study.ranking.name
    searched = dict.fromkeys(study.space.distributions, object)
    table = study.trials.astype(searched).reset_index()
    table = table.melt([TRIAL, STATE, EPOCHS, ranked_by], [*searched], HYPERPARAMETER, names.VALUE)
    absent = table[HYPERPARAMETER].isin(list(study.space.conditions)) & table[names.VALUE].isna()
    table = table[~absent].reset_index(drop=True)
    return table[[TRIAL, STATE, EPOCHS, HYPERPARAMETER, names.VALUE, ranked_by]]


def parallel(study: Study) -> pd.DataFrame:
    """Return whole configurations with their losses.

    Returns:
        One row per trial: trial, state, epochs, each hyperparameter by its own name, val_loss (its last), or
        the user's metric that ranks trials.
    """
    return study.trials.reset_index()[[TRIAL, STATE, EPOCHS, *study.space.distributions, study.ranking.name]]


def pair(study: Study) -> tuple[str, str] | None:
    """Return the two hyperparameters that :func:`pair_grid` shows by default, or None if fewer are searched.

    They are latent size and learning rate if both are searched, else the first two.
    """
    searched = list(study.space.distributions)
    usual = ("latent_size", "learning_rate")
    if set(usual) <= set(searched):
        return usual
    return (searched[0], searched[1]) if len(searched) > 1 else None


def pair_grid(study: Study, x: str | None = None, y: str | None = None, cells: int = 10) -> pd.DataFrame:
    """Return how good the trials were in each cell of a plane of two hyperparameters.

    Nothing is interpolated. Only the trials of a cell that trained longest count, since a loss after one epoch cannot
    be compared with one after ten. ``x`` and ``y`` are searched hyperparameters, by default those of :func:`pair`.
    Each range has ``cells`` parts, of equal ratio where the space is log; a categorical one has a part per choice.

    Returns:
        One row per cell, all ``cells`` x ``cells`` of them: the hyperparameters by name (the cell's middle, or
        choice), trials in it, epochs (the longest that one of them trained, 0 for none), val_loss (the lowest of the
        trials that trained so long, NaN for none), or the best value of the user's metric that ranks trials.

    Raises:
        UsageError: ``x`` or ``y`` is not searched.
    """
    chosen, ranked_by = (x, y) if x and y else pair(study), study.ranking.name
    table = study.trials.reset_index()
    if chosen is None or table.empty:
        empty = pd.DataFrame(columns=[*(chosen or ()), TRIALS, EPOCHS, ranked_by])
        return empty.astype({TRIALS: int, EPOCHS: int, ranked_by: float})
    known = axes(study)
    for name in chosen:
        if name not in known:
            raise UsageError(f"{name!r} is not searched in {study.name}; choose from {', '.join(known)}.")
    table = table[(table[STATE] != FAIL) & table[ranked_by].notna() & table[[*chosen]].notna().all(axis=1)]
    middles, places = zip(*(_cells(known[str(name)], table[name], cells) for name in chosen), strict=True)
    table = table.assign(x=places[0], y=places[1], **{names.RANKED_LOSS: study.losses(table)})
    deepest = table[table[EPOCHS] == table.groupby(["x", "y"])[EPOCHS].transform("max")]
    grid = pd.MultiIndex.from_product([range(len(middle)) for middle in middles], names=["x", "y"])
    result = pd.DataFrame(
        {
            TRIALS: table.groupby(["x", "y"]).size().reindex(grid, fill_value=0),
            EPOCHS: deepest.groupby(["x", "y"])[EPOCHS].max().reindex(grid, fill_value=0),
            ranked_by: study.ranking.loss(deepest.groupby(["x", "y"])[names.RANKED_LOSS].min().reindex(grid)),
        }
    ).reset_index()
    for column, name, middle in zip(("x", "y"), chosen, middles, strict=True):
        result.insert(0 if column == "x" else 1, name, [middle[place] for place in result.pop(column)])
    return result


def _cells(axis: Axis, values: pd.Series[Any], cells: int) -> tuple[list[Any], list[int]]:
    """Return the middles of an axis' cells, and each value's cell (-1 outside, as a reference may be)."""
    if axis.scale == "category":
        return list(axis.choices), [axis.choices.index(value) if value in axis.choices else -1 for value in values]
    edges = axis.edges(cells)
    middles = np.sqrt(edges[1:] * edges[:-1]) if axis.scale == "log" else (edges[1:] + edges[:-1]) / 2
    numbers = values.to_numpy(np.float64)
    places = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, cells - 1)
    return list(middles), list(np.where((numbers >= axis.low) & (numbers <= axis.high), places, -1))


def comparable(study: Study, epoch: int | None = None) -> pd.DataFrame:
    """Return the trials that can be compared: with a loss at the same epoch, FAIL trials left out.

    By default ``epoch`` is the deepest that at least ``MIN_TRIALS`` trials reported.

    Returns:
        One row per trial: trial, epoch, each hyperparameter by its own name, val_loss at that epoch, or the
        user's metric that ranks trials.
    """
    ranked_by = study.ranking.name
    searched = list(study.space.distributions)
    failed = study.trials.index[study.trials[STATE] == FAIL]
    reports = study.epochs.loc[~study.epochs[TRIAL].isin(failed), [TRIAL, EPOCH, ranked_by]]
    if epoch is None:
        counts = reports[EPOCH].value_counts()
        epoch = int(counts.index[counts >= MIN_TRIALS].max()) if (counts >= MIN_TRIALS).any() else 0
    reports = reports[reports[EPOCH] == epoch]
    return reports.merge(study.trials[searched], left_on=TRIAL, right_index=True)[[TRIAL, EPOCH, *searched, ranked_by]]


def importance(study: Study, epoch: int | None = None) -> pd.DataFrame:
    """Return how much each hyperparameter mattered, by two methods of Optuna.

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255) measures what sets the best trials apart: the best 10 %, or the
    best 5 trials where that is more, half of all at most. fANOVA (Hutter et al. 2014) measures how much of the
    variance of the loss over the space each explains; it gets the logarithms of log ranges, so that each decade counts
    alike, which Optuna's own transformation does not do. Both compare losses of one epoch: see :func:`comparable`.

    Returns:
        One row per hyperparameter and method: hyperparameter, method (ped-anova or fanova), importance (the shares of
        a method sum to 1), epoch at which the trials were compared, trials compared. No rows for fewer than
        ``MIN_TRIALS`` trials, or where they do not differ. Where models are searched that have hyperparameters of
        their own, also model: "" for a comparison of all trials by what all have, else that of the trials that are
        compared, whose shares sum to 1 too; the importance is NaN, unknown, where a model has too few trials, or they
        do not differ: epoch is then 0, and trials are those with a loss.
    """
    if study.space.conditions:
        return pd.concat([_of_model(part, model, epoch) for model, part in parts_by_model(study).items()])
    space = dict(study.space.distributions)
    trials = comparable(study, epoch).dropna()
    trials = trials.assign(**{names.RANKED_LOSS: study.losses(trials)})
    inside = [study.space.contains(config) for config in trial_configs(study, trials[TRIAL])]
    trials = trials[np.array(inside, dtype=bool)]
    rows = []
    differ = trials[names.RANKED_LOSS].nunique() > 1 and len(trials[[*space]].drop_duplicates()) > 1
    if len(trials) >= MIN_TRIALS and differ:
        from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

        vectorize_fanova()
        ped_anova = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, _TOP / len(trials))))
        shares = {
            PED_ANOVA: _evaluate(ped_anova, trials, space),
            FANOVA: _evaluate(FanovaImportanceEvaluator(seed=0, max_depth=_MAX_DEPTH), *_as_logarithms(trials, space)),
        }
        rows = [
            (name, method, share, trials[EPOCH].iloc[0], len(trials))
            for method, by_name in (shares.items() if all(shares.values()) else ())
            for name, share in by_name.items()
        ]
    table = pd.DataFrame(rows, columns=[HYPERPARAMETER, names.METHOD, IMPORTANCE, EPOCH, TRIALS])
    return table.astype({HYPERPARAMETER: "str", names.METHOD: "str", IMPORTANCE: float, EPOCH: int, TRIALS: int})


def _of_model(part: Study, model: str, epoch: int | None) -> pd.DataFrame:
    """Return the importance in one part of a study of several models; NaN where it is unknown."""
    found = importance(part, epoch)
    if found.empty:
        pairs = [(name, method) for method in (PED_ANOVA, FANOVA) for name in part.space.distributions]
        known = len(comparable(part, epoch or 1))
        found = pd.DataFrame([(*pair, math.nan, 0, known) for pair in pairs], columns=found.columns).astype(
            found.dtypes.to_dict()
        )
    return found.assign(**{MODEL: model})


def _as_logarithms(
    trials: pd.DataFrame, space: dict[str, BaseDistribution]
) -> tuple[pd.DataFrame, dict[str, BaseDistribution]]:
    """Return trials and space with logarithms in place of the values of log ranges."""
    trials, space = trials.copy(), dict(space)
    for name, distribution in space.items():
        if isinstance(distribution, IntDistribution | FloatDistribution) and distribution.log:
            low, high = math.log(distribution.low), math.log(distribution.high)
            trials[name] = np.log(trials[name].to_numpy(np.float64)).clip(low, high)
            space[name] = FloatDistribution(low, high)
    return trials, space


def _evaluate(evaluator: Any, trials: pd.DataFrame, space: dict[str, BaseDistribution]) -> dict[str, float]:
    """Return each hyperparameter's share, the greatest first; none if no share can be computed.

    Optuna would then give all equal shares.
    """
    with silence_optuna():
        study = optuna.create_study()
        study.add_trials(
            optuna.create_trial(value=loss, params={name: row[name] for name in space}, distributions=space)
            for loss, row in zip(trials[names.RANKED_LOSS].tolist(), trials.to_dict("records"), strict=True)
        )
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}
