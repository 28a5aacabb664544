"""A surrogate of the recorded curves: a Gaussian process over the space per epoch, and its cross-validated errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vae_tune.analysis.early_stopping_audit import log_base, weighted_spearman
from vae_tune.config.errors import UsageError
from vae_tune.config.names import EPOCH, SPEARMAN, TRIALS
from vae_tune.replay.curves import Array, Curve, Curves, places

FEWEST = 6  # whole curves that a surrogate needs
LOWEST_CORRELATION = 0.7  # cross-validated rank correlation that a surrogate needs at each epoch; below it is poor
ERROR, ERROR_OF_BEST = "error", "error_of_best"
_FOLDS = 5
_BELOW = 0.05  # of the distance from the lowest loss to the median: the floor's distance below the lowest
_EQUAL = 1e-3  # nats: that distance where half of the losses are the lowest
_POOR = 0.9  # quantile of the losses that caps the losses above it
_PROBES = 2**12  # points, beside the recorded ones, among which the surrogate's lowest loss is sought


@dataclass(frozen=True)
class _Process:
    """A Gaussian process fitted to standardized targets, with a fast prediction of its mean."""

    fitted: Any  # GaussianProcessRegressor, which is slow to import
    mean: float
    scale: float

    def predict(self, inputs: Array) -> Array:
        """Return the mean at ``inputs``: (n,)."""
        process = self.fitted
        covariance = process.kernel_(inputs, process.X_train_)  # sklearn's predict() takes seven times as long
        return np.asarray(covariance @ process.alpha_, np.float64) * self.scale + self.mean


class Surrogate:
    """A Gaussian process per epoch for the logarithm of the loss, and one for the duration of an epoch.

    Losses may be negative: logarithms are those of the distance from a floor below all of them.

    If all curves are whole, the loss at an epoch is a function of the configuration. If some were stopped, late epochs
    hold good configurations only. Then the change since the epoch before is modeled first, given the configuration
    and the loss before it; the stopped curves are continued with it, and the surrogate is that of the continued
    curves. Diverged trials and their reports are left out.
    """

    def __init__(
        self, curves: Curves, epochs: Sequence[int] | None = None, between: Callable[[], None] = lambda: None
    ):
        """Fit a process to each of ``epochs``, which are in order, with the last one; by default to all.

        The losses of the other epochs are interpolated linearly. ``between`` is called before each fit; it may end the
        work by an exception.

        Raises:
            UsageError: there are fewer than :data:`FEWEST` whole curves.
        """
        if curves.whole.sum() < FEWEST:
            alone = ", or replay these with --curves tabular" if curves.can_be_replayed_alone else ""
            raise UsageError(
                f"{curves.name} has {curves.whole.sum()} whole curves, but a surrogate needs {FEWEST}.\n"
                f"Record a study with more, best with --scheduler none{alone}."
            )
        self.curves = curves
        self._epochs = np.array(epochs or range(1, curves.max_epochs + 1))
        self._between = between
        known = ~np.isinf(curves.losses).any(axis=1)
        self._places = places(curves.space, curves.values)[known]
        recorded = curves.losses[known][:, self._epochs - 1]
        self._chained = bool(np.isnan(recorded).any())
        self._base = log_base(recorded)
        self._floor = np.full(len(self._epochs), self._base) if self._chained else _floor(recorded)
        self._recorded = recorded if self._chained else _capped(recorded)
        self._logs = np.log(self._recorded - self._floor)
        self._paces = np.log(np.nanmean(curves.seconds[known], axis=1))
        self._losses = self._fit_losses(np.ones(len(self._places), bool), None)
        self._pace = _fit(self._places, self._paces, None)
        self._direct = Surrogate(self._completed(), epochs, between) if self._chained else self

    @cached_property
    def best(self) -> float:
        """The lowest expected final loss of the recorded configurations and many others; nats per image."""
        if self._direct is not self:
            return self._direct.best
        from scipy.stats import qmc  # slow to import, and a forecast does not need it

        probes = qmc.Sobol(self._places.shape[1], seed=0).random(_PROBES)
        return float(self._roll(np.concatenate([self._places, probes]), self._losses)[:, -1].min())

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the expected curve of a configuration."""
        return self._direct.continued(values, np.full(self.curves.max_epochs, np.nan))

    def continued(self, values: Mapping[str, Any], losses: Array) -> Curve:
        """Return the curve of a configuration that reported ``losses`` (max_epochs,), NaN after its end."""
        point, epochs = places(self.curves.space, [values]), np.arange(1, len(losses) + 1)
        known = losses[self._epochs - 1]
        logs = np.log(np.maximum(known - self._floor, _EQUAL))  # a curve that was not fitted may lie below the floor
        rolled = self._roll(point, self._losses, logs[None])[0]
        expected = np.interp(epochs, self._epochs, np.where(np.isnan(known), rolled, known))
        seconds = np.full(len(losses), np.exp(self._pace.predict(point)[0]))
        return Curve(np.where(np.isnan(losses), expected, losses), seconds)

    def residuals(self) -> Array:
        """Return the noise of the curves: the ratios of recorded to expected final losses above the base; (n,)."""
        expected = self._direct._roll(self._places, self._direct._losses)[:, -1]
        factors = (self._recorded[:, -1] - self._base) / (expected - self._base)
        return np.asarray(factors[~np.isnan(factors)])

    def with_noise(self, curve: Curve, factor: float) -> Curve:
        """Return an expected curve with its losses above the base multiplied by one of :meth:`residuals`."""
        return Curve((curve.losses - self._base) * factor + self._base, curve.seconds)

    def validate(self, *, ahead: bool = False) -> pd.DataFrame:
        """Return the errors of the surrogate, by cross-validation over configurations in 5 folds.

        A configuration is predicted by processes that were not fitted to it, except for the kernels' few parameters.
        ``ahead`` predicts each epoch from the recorded loss of the epoch before, as when a stopped curve is continued;
        the default predicts the curves, the continued ones included, from the configuration alone.

        Returns:
            One row per epoch: epoch, trials with a loss there, spearman (rank correlation of predicted and recorded),
            error and error_of_best (median absolute error, of all and of the best quarter, nats per image).
        """
        if self._direct is not self and not ahead:
            return self._direct.validate()
        predicted = np.full_like(self._logs, np.nan)
        for fold in self._folds():
            processes, known = self._fit_losses(~fold, self._losses), self._logs[fold] if ahead else None
            predicted[fold] = self._roll(self._places[fold], processes, known)
        rows = []
        for epoch, recorded, expected in zip(self._epochs, self._recorded.T, predicted.T, strict=True):
            there = ~np.isnan(recorded)
            truth, errors = recorded[there], np.abs(expected - recorded)[there]
            spearman = weighted_spearman(truth, expected[there], np.ones(len(truth)))
            of_best = errors[truth <= np.quantile(truth, 0.25)]
            rows.append((int(epoch), len(truth), spearman, float(np.median(errors)), float(np.median(of_best))))
        return pd.DataFrame(rows, columns=[EPOCH, TRIALS, SPEARMAN, ERROR, ERROR_OF_BEST])

    def pace_error(self) -> float:
        """Return the median relative error of an epoch's predicted duration, cross-validated."""
        predicted = np.empty_like(self._paces)
        for fold in self._folds():
            predicted[fold] = _fit(self._places[~fold], self._paces[~fold], self._pace).predict(self._places[fold])
        return float(np.median(np.abs(np.expm1(predicted - self._paces))))

    def _completed(self) -> Curves:
        """Return the curves, the stopped ones continued."""
        pairs = zip(self.curves.values, self.curves.losses, strict=True)
        losses = [curve if np.isinf(curve).any() else self.continued(values, curve).losses for values, curve in pairs]
        return replace(self.curves, losses=np.array(losses))

    def _folds(self) -> list[npt.NDArray[np.bool_]]:
        order = np.random.default_rng(0).permutation(len(self._places))
        return [order % _FOLDS == fold for fold in range(_FOLDS)]

    def _fit_losses(self, used: npt.NDArray[np.bool_], like: Sequence[_Process] | None) -> list[_Process]:
        """Fit a process per epoch to the configurations ``used``, with the kernels of ``like`` or new ones."""
        fitted: list[_Process] = []
        for epoch in range(self._logs.shape[1]):
            self._between()
            mask = used & ~np.isnan(self._logs[:, epoch])
            before = self._logs[mask, epoch - 1] if self._chained and epoch else None
            target = self._logs[mask, epoch] - (0 if before is None else before)
            fitted.append(_fit(_inputs(self._places[mask], before), target, like[epoch] if like else None))
        return fitted

    def _roll(self, points: Array, processes: Sequence[_Process], known: Array | None = None) -> Array:
        """Return the expected losses of ``points``: (n, epochs).

        Each follows from the one before: from its logarithm in ``known`` (n, epochs) where that is not NaN.
        """
        logs: list[Array] = []
        before: Array | None = None
        for index, process in enumerate(processes):
            logs.append(process.predict(_inputs(points, before)) + (0 if before is None else before))
            if self._chained:
                there = np.full(len(points), np.nan) if known is None else known[:, index]
                before = np.where(np.isnan(there), logs[-1], there)
        return np.asarray(np.exp(np.column_stack(logs)) + self._floor)


def is_poor(table: pd.DataFrame) -> bool:
    """Tell whether a surrogate with this cross-validation orders configurations too badly."""
    return not (table[SPEARMAN] >= LOWEST_CORRELATION).all()


def _floor(losses: Array) -> Array:
    """Return a loss a little below the lowest of each epoch: (epochs,) for (n, epochs).

    The logarithm of the excess over it is modeled. Poor losses lie many times further apart than good ones; modeled
    as they are, they would make the surrogate swing far below the best.
    """
    lowest = losses.min(axis=0)
    spread = np.maximum(np.median(losses, axis=0) - lowest, _EQUAL)
    return np.asarray(lowest - _BELOW * spread)


def _capped(losses: Array) -> Array:
    """Return losses with those of the poorest trials of each epoch made equal: (n, epochs).

    One trial that almost diverged would bend a smooth surface so much that it swings below every recorded loss.
    """
    return np.minimum(losses, np.quantile(losses, _POOR, axis=0))


def _inputs(points: Array, before: Array | None) -> Array:
    return points if before is None else np.column_stack([points, before])


def _fit(inputs: Array, target: Array, like: _Process | None) -> _Process:
    """Fit a process with a Matern 5/2 kernel, a length scale per input, and noise; or with the kernel of ``like``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    mean, scale = float(target.mean()), float(target.std()) or 1.0
    if like is None:
        lengths = Matern(np.ones(inputs.shape[1]), (0.05, 50.0), nu=2.5)
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * lengths + WhiteKernel(1e-2, (1e-6, 1.0))
        process = GaussianProcessRegressor(kernel, random_state=0)
    else:
        process = GaussianProcessRegressor(like.fitted.kernel_, optimizer=None)
    with warnings.catch_warnings(), _threads().limit(limits=1):  # small matrices are faster on one thread
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: that input does not matter
        process.fit(inputs, (target - mean) / scale)
    return _Process(process, mean, scale)


@cache
def _threads() -> Any:
    """Return the control of the BLAS threads; finding the libraries takes as long as a small fit."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
