"""The curve between recorded points: Gaussian processes over the space, one an epoch, and how far they are off."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc, spearmanr

from vae_tune.config import UsageError
from vae_tune.names import EPOCH, SPEARMAN, TRIALS
from vae_tune.replay.curves import Array, Curve, Curves, places

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.gaussian_process import GaussianProcessRegressor

FEWEST = 10
"""Curves to the end that a surrogate needs."""
LOWEST_CORRELATION = 0.7
"""Cross-validated rank correlation, at each epoch, below which a surrogate is called poor."""
ERROR, ERROR_OF_BEST = "error", "error_of_best"
_FOLDS = 5
_PROBES = 2**12
"""Points among which, beside the recorded, the lowest loss of the surrogate is sought."""


@dataclass(frozen=True)
class _Process:
    """A fitted Gaussian process, kept as what its mean needs."""

    fitted: GaussianProcessRegressor
    mean: float
    scale: float

    def predict(self, inputs: Array) -> Array:
        """Return the mean at ``inputs``: (n,)."""
        process = self.fitted
        covariance = process.kernel_(inputs, process.X_train_)  # predict() spends most of its time on checks
        return np.asarray(covariance @ process.alpha_, np.float64) * self.scale + self.mean


class Surrogate:
    """A Gaussian process an epoch for the logarithm of the loss, and one for the duration of an epoch.

    Where all curves are whole, an epoch's loss is a function of the configuration. Where some were stopped, late
    epochs have seen good configurations alone; there it is the change since the epoch before that is modelled, given
    the configuration and the loss before it. Diverged trials and what they reported are left out.
    """

    def __init__(self, curves: Curves):
        """Fit all of them.

        Raises:
            UsageError: there are fewer than :data:`FEWEST` whole curves.
        """
        if curves.whole.sum() < FEWEST:
            raise UsageError(
                f"{curves.name} has {curves.whole.sum()} curves to the end: a surrogate needs {FEWEST}.\n"
                "Record more with --scheduler none, or replay what there is with --curves tabular."
            )
        self.curves = curves
        known = ~np.isinf(curves.losses).any(axis=1)
        self._places = places(curves.space, curves.values)[known]
        self._logs = np.log(curves.losses[known])
        self._paces = np.log(np.nanmean(curves.seconds[known], axis=1))
        self._chained = bool(np.isnan(self._logs).any())
        self._losses = self._fit_losses(np.ones(len(self._places), bool), None)
        self._pace = _fit(self._places, self._paces, None)
        probes = qmc.Sobol(self._places.shape[1], seed=0).random(_PROBES)
        self.best = float(self._roll(np.concatenate([self._places, probes]), self._losses)[:, -1].min())

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve that is expected of a configuration."""
        point = places(self.curves.space, [values])
        losses = self._roll(point, self._losses)[0]
        return Curve(losses, np.full(len(losses), np.exp(self._pace.predict(point)[0])))

    def validate(self) -> pd.DataFrame:
        """Return how far it is off, by cross-validation over configurations in 5 folds.

        A configuration is predicted by processes that have not seen it; their kernels' few parameters are those of
        the whole fit.

        Returns:
            A row an epoch: epoch, trials with a loss there, spearman (rank correlation of predicted and recorded),
            error and error_of_best (median absolute error, of all and of the best quarter, nats per image).
        """
        import pandas as pd

        predicted = np.full_like(self._logs, np.nan)
        for fold in self._folds():
            predicted[fold] = self._roll(self._places[fold], self._fit_losses(~fold, self._losses))
        rows = []
        for index, (recorded, expected) in enumerate(zip(np.exp(self._logs).T, predicted.T, strict=True)):
            there = ~np.isnan(recorded)
            truth, errors = recorded[there], np.abs(expected - recorded)[there]
            rows.append(
                {
                    EPOCH: index + 1,
                    TRIALS: int(there.sum()),
                    SPEARMAN: float(spearmanr(truth, expected[there]).statistic),
                    ERROR: float(np.median(errors)),
                    ERROR_OF_BEST: float(np.median(errors[truth <= np.quantile(truth, 0.25)])),
                }
            )
        return pd.DataFrame(rows)

    def pace_error(self) -> float:
        """Return the median relative error of an epoch's predicted duration, cross-validated."""
        predicted = np.empty_like(self._paces)
        for fold in self._folds():
            predicted[fold] = _fit(self._places[~fold], self._paces[~fold], self._pace).predict(self._places[fold])
        return float(np.median(np.abs(np.expm1(predicted - self._paces))))

    def _folds(self) -> list[npt.NDArray[np.bool_]]:
        order = np.random.default_rng(0).permutation(len(self._places))
        return [order % _FOLDS == fold for fold in range(_FOLDS)]

    def _fit_losses(self, used: npt.NDArray[np.bool_], like: Sequence[_Process] | None) -> list[_Process]:
        """Fit each epoch on the configurations ``used``, with the kernels of ``like`` or with their own."""
        fitted: list[_Process] = []
        for epoch in range(self._logs.shape[1]):
            mask = used & ~np.isnan(self._logs[:, epoch])
            before = self._logs[mask, epoch - 1] if self._chained and epoch else None
            target = self._logs[mask, epoch] - (0 if before is None else before)
            fitted.append(_fit(_inputs(self._places[mask], before), target, like[epoch] if like else None))
        return fitted

    def _roll(self, points: Array, processes: Sequence[_Process]) -> Array:
        """Return the losses of ``points``, epoch after epoch: (n, max_epochs)."""
        logs: list[Array] = []
        for process in processes:
            before = logs[-1] if self._chained and logs else None
            logs.append(process.predict(_inputs(points, before)) + (0 if before is None else before))
        return np.exp(np.column_stack(logs))


def is_poor(table: pd.DataFrame) -> bool:
    """Whether a surrogate with this cross-validation cannot be trusted to order configurations."""
    return not (table[SPEARMAN] >= LOWEST_CORRELATION).all()


def _inputs(points: Array, before: Array | None) -> Array:
    return points if before is None else np.column_stack([points, before])


def _fit(inputs: Array, target: Array, like: _Process | None) -> _Process:
    """Fit a process with a Matern 5/2 kernel, a length for each input, and noise: or with the kernel of ``like``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from threadpoolctl import threadpool_limits

    mean, scale = float(target.mean()), float(target.std()) or 1.0
    if like is None:
        lengths = Matern(np.ones(inputs.shape[1]), (0.05, 50.0), nu=2.5)
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * lengths + WhiteKernel(1e-2, (1e-6, 1.0))
        process = GaussianProcessRegressor(kernel, random_state=0)
    else:
        process = GaussianProcessRegressor(like.fitted.kernel_, optimizer=None)
    with warnings.catch_warnings(), threadpool_limits(1):  # matrices this small are faster on one thread
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: that input does not matter
        process.fit(inputs, (target - mean) / scale)
    return _Process(process, mean, scale)
