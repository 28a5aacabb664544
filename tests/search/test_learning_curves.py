"""The process over configurations and epochs, against scikit-learn's; its covariance, against its definition."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from vae_tune.search.learning_curves import (
    Hyperparameters,
    Points,
    Process,
    covariance,
    default_hyperparameters,
    fit,
    log_likelihood,
    togo,
    variances,
)

NUMBERS = np.array([False, False])
LENGTHS = np.array([0.3, 0.7])


def points(count, seed=0, last=10):
    random = np.random.default_rng(seed)
    epochs = random.integers(1, last + 1, count)
    return Points(random.random((count, 2)), togo(epochs, last), random.integers(0, max(2, count // 2), count))


def test_the_time_to_go_falls_from_1_to_0_by_the_logarithm_of_the_epoch():
    assert togo(np.array([1, 10, 100]), 100) == pytest.approx([1.0, 0.5, 0.0])
    assert togo(np.array([1]), 1) == pytest.approx([0.0])


def test_predictions_at_the_last_epoch_are_those_of_scikit_learn():
    of = Hyperparameters(LENGTHS, final=1.3, shared=0.5, shape=0.5, constant=1e-9, change=0.2, noise=0.2)
    random = np.random.default_rng(1)
    known = Points(random.random((12, 2)), np.zeros(12), np.arange(12))
    at = Points(random.random((5, 2)), np.zeros(5), np.arange(20, 25))
    targets = np.sin(3 * known.places).sum(axis=1)
    kernel = ConstantKernel(1.3**2) * Matern(LENGTHS, nu=2.5) + ConstantKernel(4.0)
    expected = GaussianProcessRegressor(kernel, alpha=0.2**2 + 1e-8, optimizer=None).fit(known.places, targets)
    mean, deviation = expected.predict(at.places, return_std=True)
    found, variance, _ = Process(known, targets, NUMBERS, of).predict(at)
    assert found == pytest.approx(mean, abs=1e-7)
    assert np.sqrt(variance) == pytest.approx(deviation, abs=1e-7)


def test_predictions_over_epochs_are_the_conditional_of_the_joint_normal_distribution():
    of = Hyperparameters(LENGTHS, constant=0.3, change=0.4, noise=0.1)
    known, at = points(9), points(4, seed=2)
    targets = np.random.default_rng(3).normal(size=9)
    noisy = covariance(known, known, NUMBERS, of) + (0.1**2 + 1e-8) * np.eye(9)
    across = covariance(known, at, NUMBERS, of)
    gain = np.linalg.solve(noisy, across).T
    process = Process(known, targets, NUMBERS, of)
    mean, joint = process.joint(at)
    assert mean == pytest.approx(gain @ targets)
    assert joint == pytest.approx(covariance(at, at, NUMBERS, of) - gain @ across)
    assert process.predict(at)[1] == pytest.approx(np.diag(joint))


def test_at_the_last_epoch_predictions_from_configurations_are_those_from_observations():
    of = Hyperparameters(LENGTHS, constant=0.3, change=0.4)
    known, at = points(30), points(6, seed=2)
    process = Process(known, np.sin(np.arange(30.0)), NUMBERS, of)
    finals = Points(np.concatenate([at.places, known.places]), np.zeros(36), np.concatenate([at.trials, known.trials]))
    mean, variance, _ = process.finals(finals.places, finals.trials)
    expected_mean, expected_variance, _ = process.predict(finals)
    assert mean == pytest.approx(expected_mean)
    assert variance == pytest.approx(expected_variance)


def test_what_an_epoch_tells_of_the_last_is_how_much_less_is_unknown_after_it():
    of = Hyperparameters(LENGTHS, constant=0.3, change=0.4)
    known, then = points(9), points(6, seed=2)
    finals = Points(then.places, np.zeros(6), then.trials)
    process = Process(known, np.ones(9), NUMBERS, of)
    learned = process.learned(process.finals(then.places, then.trials)[2], then, np.zeros(6))
    before = process.predict(finals)[1]
    after = [Process(known + then[[n]], np.ones(10), NUMBERS, of).predict(finals[[n]])[1][0] for n in range(6)]
    assert learned == pytest.approx(before - after, abs=1e-6)


def test_points_beyond_the_observations_count_as_observed_where_they_are_expected():
    of = default_hyperparameters(2)
    known, running, at = points(9), points(3, seed=4), points(5, seed=2)
    targets = np.sin(np.arange(9.0))
    expected = Process(known, targets, NUMBERS, of).predict(running)[0]
    observed = Process(known + running, np.concatenate([targets, expected]), NUMBERS, of).predict(at)
    for found, wanted in zip(Process(known + running, targets, NUMBERS, of).predict(at)[:2], observed, strict=False):
        assert found == pytest.approx(wanted)


def test_the_variances_are_the_diagonal_of_the_covariance():
    of = default_hyperparameters(2)
    assert variances(points(7), of) == pytest.approx(np.diag(covariance(points(7), points(7), NUMBERS, of)))


def test_a_covariance_is_positive_definite_with_choices_and_repeated_trials():
    known = points(60)
    mixed = Points(np.column_stack([known.places, np.arange(60) % 3]), known.togo, known.trials)
    matrix = covariance(mixed, mixed, np.array([False, False, True]), default_hyperparameters(3))
    assert np.linalg.eigvalsh(matrix).min() > -1e-9


def test_two_choices_are_as_far_apart_as_any_other_two():
    of, choices = default_hyperparameters(1), np.array([True])
    at = Points(np.array([[0.0], [1.0], [7.0]]), np.zeros(3), np.arange(3))
    matrix = covariance(at, at, choices, of)
    assert matrix[0, 1] == matrix[0, 2] == matrix[1, 2] < matrix[0, 0]


def test_the_likelihood_is_that_of_scipy():
    matrix = covariance(points(8), points(8), NUMBERS, default_hyperparameters(2)) + 0.1 * np.eye(8)
    targets = np.random.default_rng(0).normal(size=8)
    expected = multivariate_normal(np.zeros(8), matrix).logpdf(targets)
    assert log_likelihood(matrix, targets) == pytest.approx(expected)


def test_a_fit_finds_the_hyperparameter_that_does_not_matter():
    random = np.random.default_rng(0)
    known = Points(random.random((60, 2)), np.zeros(60), np.arange(60))
    of = fit(known, np.sin(6 * known.places[:, 0]), NUMBERS)
    assert of.lengths[1] > 2 * of.lengths[0]
    assert of.lengths[0] == pytest.approx(fit(known, np.sin(6 * known.places[:, 0]) + 1e-9, NUMBERS).lengths[0])
