"""A Gaussian process over configurations and epochs, which predicts the final loss of started and of new trials.

A loss is modeled by the logarithm of its excess over a floor below all losses seen. With the time u to go on a
logarithmic scale, 1 at the first epoch and 0 at the last, the model of configuration x is

    z(x, u) = F(x) + S(u) + G(x, u) + R(u) + noise

F is smooth over the space; S is the shape that all curves share; G is how the shape depends on the configuration; R is
what is particular to a trial. S, G and the changing part of R are random walks with a random slope, which are 0 at the
last epoch: there, z is F plus the constant part of R.

Sources: Swersky et al. 2014, "Freeze-Thaw Bayesian Optimization" (arXiv:1406.3896), for one process over curves;
Lin et al. 2024 (arXiv:2410.09239), for the product of a kernel over configurations and one over epochs. The random
walks toward the last epoch are our own choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_JITTER = 1e-8
_WALK = 0.3
"""Variance of a random walk, relative to that of its slope."""
_MEAN = 4.0
"""Variance of the mean of all losses, standardized."""


@dataclass(frozen=True)
class Points:
    """Rows at which the process is known or asked: n configurations at an epoch each."""

    places: Array  # (n, d) in 0..1; of a choice its index
    togo: Array  # (n,) time to go on the logarithmic scale, 0 at the last epoch
    trials: npt.NDArray[np.int64]  # (n,) number of the trial, by which rows share what is particular to it

    def __len__(self) -> int:
        return len(self.togo)

    def __add__(self, other: Points) -> Points:
        return Points(
            np.concatenate([self.places, other.places]),
            np.concatenate([self.togo, other.togo]),
            np.concatenate([self.trials, other.trials]),
        )

    def __getitem__(self, rows: Any) -> Points:
        return Points(self.places[rows], self.togo[rows], self.trials[rows])


def togo(epochs: npt.NDArray[np.int64], last: int) -> Array:
    """Return the time to go from epochs in 1..last, on a logarithmic scale from 1 to 0."""
    return np.log(last / np.asarray(epochs, np.float64)) / math.log(last) if last > 1 else np.zeros(np.shape(epochs))


@dataclass(frozen=True)
class Hyperparameters:
    """Of the kernel; the standard deviations are of standardized losses."""

    lengths: Array  # (d,)
    final: float = 1.0  # of F
    shared: float = 1.0  # of S
    shape: float = 0.5  # of G
    constant: float = 0.1  # of R at the last epoch
    change: float = 0.2  # of R
    noise: float = 0.03

    def to_array(self) -> Array:
        """Return the logarithms."""
        rest = [self.final, self.shared, self.shape, self.constant, self.change, self.noise]
        return np.log([*self.lengths, *rest])

    @staticmethod
    def from_array(logs: Array) -> Hyperparameters:
        """Return those with these logarithms."""
        values = np.exp(logs)
        return Hyperparameters(values[:-6], *map(float, values[-6:]))


_SPREADS = [0.7, 0.7, 0.7, 0.4, 0.4, 0.4]
"""Standard deviations of the prior of the logarithms, the lengths excepted."""
_SPREAD_OF_LENGTH = 0.8


def default_hyperparameters(dimensions: int) -> Hyperparameters:
    """Return the mode of the prior; lengths grow with the root of the dimensions (Hvarfner et al. 2024)."""
    return Hyperparameters(np.full(dimensions, 0.6 * math.sqrt(max(1, dimensions))))


def _squared_distances(a: Array, b: Array, choices: Bools) -> Array:
    """Return (d, n, m): squared differences by hyperparameter; 1 between two choices."""
    differences = a.T[:, :, None] - b.T[:, None, :]
    return np.where(choices[:, None, None], differences != 0, differences**2)


def _smooth(a: Array, b: Array, choices: Bools, of: Hyperparameters) -> Array:
    """Return the correlation over the space of places (n, d) and (m, d): (n, m)."""
    scaled_a, scaled_b = a[:, ~choices] / of.lengths[~choices], b[:, ~choices] / of.lengths[~choices]
    norms = np.add.outer((scaled_a**2).sum(axis=1), (scaled_b**2).sum(axis=1))
    squared = np.maximum(norms - 2 * scaled_a @ scaled_b.T, 0.0)
    for column in np.flatnonzero(choices):
        squared += np.not_equal.outer(a[:, column], b[:, column]) / of.lengths[column] ** 2
    return _matern(squared)


def _matern(squared: Array) -> Array:
    """Return the Matern 5/2 correlation at squared scaled distances."""
    root = np.sqrt(5 * squared)
    return (1 + root + root**2 / 3) * np.exp(-root)


def _walk(a: Array, b: Array) -> Array:
    """Return the covariance of a random walk with a random slope, 0 at the last epoch."""
    return np.multiply.outer(a, b) + _WALK * np.minimum.outer(a, b)


def _combine(smooth: Array, walk: Array, same: Array, of: Hyperparameters) -> Array:
    """Return the covariance without noise from correlations over the space, walks, and equality of trials."""
    return (
        _MEAN
        + of.shared**2 * walk
        + smooth * (of.final**2 + of.shape**2 * walk)
        + same * (of.constant**2 + of.change**2 * walk)
    )


def covariance(a: Points, b: Points, choices: Bools, of: Hyperparameters) -> Array:
    """Return the covariance of the process at two sets of points: (n, m), without noise."""
    same = np.equal.outer(a.trials, b.trials).astype(np.float64)
    return _combine(_smooth(a.places, b.places, choices, of), _walk(a.togo, b.togo), same, of)


def variances(a: Points, of: Hyperparameters) -> Array:
    """Return the diagonal of :func:`covariance`: (n,)."""
    walk = a.togo**2 + _WALK * a.togo
    return _MEAN + of.shared**2 * walk + of.final**2 + of.shape**2 * walk + of.constant**2 + of.change**2 * walk


def fit(points: Points, targets: Array, choices: Bools, sweeps: Sequence[float] = (1.0, 0.5)) -> Hyperparameters:
    """Return the kernel's hyperparameters with the highest posterior density on a grid.

    A coordinate search from the prior's mode: each sweep moves each logarithm up or down by a step while that is
    better. Unlike a search by gradients it ends at the same grid point however the last digits are rounded.
    """
    places, group = _distinct(points)
    squared = _squared_distances(points.places[places], points.places[places], choices)
    walk = _walk(points.togo, points.togo)
    same = np.equal.outer(points.trials, points.trials).astype(np.float64)
    start = default_hyperparameters(points.places.shape[1]).to_array()
    spreads = np.array([*[_SPREAD_OF_LENGTH] * points.places.shape[1], *_SPREADS])
    eye = np.eye(len(points))

    def density(logs: Array) -> float:
        of = Hyperparameters.from_array(logs)
        smooth = _matern(np.tensordot(of.lengths**-2, squared, axes=1))[np.ix_(group, group)]
        matrix = _combine(smooth, walk, same, of) + (of.noise**2 + _JITTER) * eye
        prior = float(np.sum(((logs - start) / spreads) ** 2)) / 2
        return log_likelihood(matrix, targets) - prior

    best, logs = density(start), start
    for step in sweeps:
        for index in range(len(logs)):
            for direction in (step, -step):
                moved = False
                for _ in range(3):
                    trial = logs.copy()
                    trial[index] += direction
                    if (value := density(trial)) <= best + 1e-6:
                        break
                    best, logs, moved = value, trial, True
                if moved:
                    break
    return Hyperparameters.from_array(logs)


def log_likelihood(matrix: Array, targets: Array) -> float:
    """Return the logarithm of the density of targets with mean 0 and covariance ``matrix``."""
    factor = np.linalg.cholesky(matrix)
    weights = _solve(factor, targets)
    return float(-weights @ weights / 2 - np.log(np.diag(factor)).sum() - len(targets) * math.log(2 * math.pi) / 2)


def _solve(factor: npt.NDArray[np.floating[Any]], right: Array) -> Array:
    """Return the solution of a lower triangular system."""
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(factor, right, lower=True, check_finite=False))


def _distinct(points: Points) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return a row of each of the g configurations in points, and (n,) the configuration of each point."""
    keys = np.column_stack([points.places, points.trials])
    _, rows, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return rows, group.ravel()


class Process:
    """The process given observations; predictions are standardized logarithms of excesses, as the targets are.

    At the last epoch, all observations of a configuration have the same covariance with a prediction. So predictions
    there are made from g configurations in place of n observations.
    """

    def __init__(self, points: Points, targets: Array, choices: Bools, of: Hyperparameters):
        """Condition on ``targets`` (n,) at the first n points; the others count as observed where they are expected.

        Those change no mean, but the variances.
        """
        rows, group = _distinct(points)
        self._points, self._choices, self.of = points, choices, of
        self._distinct = points[rows]
        smooth = _smooth(self._distinct.places, self._distinct.places, choices, of)[np.ix_(group, group)]
        same = np.equal.outer(points.trials, points.trials).astype(np.float64)
        matrix = _combine(smooth, _walk(points.togo, points.togo), same, of)
        matrix[np.diag_indices(len(points))] += of.noise**2 + _JITTER
        self._factor = np.linalg.cholesky(matrix)
        self._weights = np.zeros(len(points))
        self._weights[: len(targets)] = _solve(self._factor[: len(targets), : len(targets)], targets)
        self._white = _solve(self._factor, np.equal.outer(group, np.arange(len(rows))).astype(np.float64))
        self._of_distinct = self._white.T @ self._weights
        self._precision = self._white.T @ self._white

    def predict(self, at: Points) -> tuple[Array, Array, Array]:
        """Return mean (m,), variance (m,) and the part (n, m) by which predictions share what was observed."""
        part = _solve(self._factor, covariance(self._points, at, self._choices, self.of))
        variance = variances(at, self.of) - np.einsum("ij,ij->j", part, part)
        return part.T @ self._weights, np.maximum(variance, 1e-12), part

    def finals(self, places: Array, trials: npt.NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Return mean (m,) and variance (m,) at the last epoch, and the covariance with g configurations (g, m)."""
        known, of = self._distinct, self.of
        smooth = _smooth(known.places, places, self._choices, of)
        across = _MEAN + of.final**2 * smooth + of.constant**2 * np.equal.outer(known.trials, trials)
        variance = _MEAN + of.final**2 + of.constant**2 - np.einsum("ij,ij->j", across, self._precision @ across)
        return across.T @ self._of_distinct, np.maximum(variance, 1e-12), across

    def learned(self, across: Array, then: Points, unknowable: Array) -> Array:
        """Return by how much a loss observed at ``then`` lowers the variance at the last epoch of its trial: (m,).

        ``across`` (g, m) is from :meth:`finals`; ``unknowable`` (m,) is the variance there that counts for nothing.
        """
        _, variance, part = self.predict(then)
        prior = _MEAN + self.of.final**2 + self.of.constant**2 - unknowable
        shared = prior - np.einsum("ij,ij->j", across, self._white.T @ part)
        return np.asarray(shared**2 / (variance + self.of.noise**2))

    def joint(self, at: Points) -> tuple[Array, Array]:
        """Return mean (m,) and covariance (m, m) at ``at``."""
        mean, _, part = self.predict(at)
        return mean, covariance(at, at, self._choices, self.of) - part.T @ part
