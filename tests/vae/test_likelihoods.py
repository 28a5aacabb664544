"""Likelihoods against independent references: torch.distributions, scipy, float64, and sums over all levels."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from vae_tune.vae.likelihoods.categorical import Categorical
from vae_tune.vae.likelihoods.continuous_bernoulli import ContinuousBernoulli, expectation, log_normalizer
from vae_tune.vae.likelihoods.discretized_logistic import DiscretizedLogistic, LogisticMixture, log_probability
from vae_tune.vae.likelihoods.gaussian import Gaussian

LEVELS = torch.arange(256, dtype=torch.float64) / 255
DISCRETE = [DiscretizedLogistic(), LogisticMixture(5), Categorical()]
DENSITIES = [ContinuousBernoulli(), Gaussian(3).double()]
ALL = [*DISCRETE, *DENSITIES]


def name(likelihood):
    return type(likelihood).__name__


def parameters(likelihood, batch=4, channels=3, size=(2, 3), spread=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shape = batch, likelihood.outputs(channels), *size
    return spread * torch.randn(shape, generator=generator, dtype=dtype)


def images(batch=4, channels=3, size=(2, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, channels, *size), generator=generator).to(dtype) / 255


def by_level(likelihood, given):
    """-log p of each of the 256 levels under the parameters of one pixel of one channel: (256,)."""
    return likelihood.nats(given.expand(256, -1, -1, -1), LEVELS.view(256, 1, 1, 1))


@pytest.mark.parametrize("likelihood", DISCRETE, ids=name)
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 30.0])
def test_the_256_levels_have_probabilities_that_sum_to_1(likelihood, spread):
    for _ in range(5):
        given = parameters(likelihood, 1, 1, (1, 1), spread)
        assert float(torch.exp(-by_level(likelihood, given)).sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("likelihood", DISCRETE, ids=name)
def test_the_mean_is_that_of_the_levels(likelihood):
    given = parameters(likelihood, 1, 1, (1, 1), 2.0)
    expected = (torch.exp(-by_level(likelihood, given)) * LEVELS).sum()
    assert float(likelihood.mean(given)) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (0.3, -3.0), (-0.9, -5.0), (0.999, -7.0), (2.0, 1.0)])
def test_a_discretized_logistic_is_the_difference_of_two_distribution_functions(mean, log_scale):
    edges = (np.arange(257) - 0.5) / 255 * 2 - 1
    edges[0], edges[-1] = -np.inf, np.inf
    scale = math.exp(log_scale)
    distribution = scipy.stats.logistic(mean, scale)
    with np.errstate(divide="ignore"):  # the side that loses all digits gives -inf
        upper, lower = (
            near[begin] + np.log1p(-np.exp(near[end] - near[begin]))
            for near, begin, end in (
                (distribution.logsf(edges), slice(None, -1), slice(1, None)),
                (distribution.logcdf(edges), slice(1, None), slice(None, -1)),
            )
        )
    expected = np.where(edges[:-1] > mean, upper, lower)  # from the side on which no digits are lost
    given = torch.tensor([mean, log_scale], dtype=torch.float64).view(1, 2, 1, 1)
    assert by_level(DiscretizedLogistic(), given).numpy() == pytest.approx(-expected, rel=1e-6)


def test_the_scale_of_a_logistic_is_bounded_below():
    narrow, narrower = (torch.tensor([0.1, scale]).view(1, 2, 1, 1).double() for scale in (-7.0, -20.0))
    assert torch.equal(by_level(DiscretizedLogistic(), narrow), by_level(DiscretizedLogistic(), narrower))


@pytest.mark.parametrize("end_share", [0.0, 0.5])
def test_a_discretized_logistic_and_its_gradient_are_those_of_autograd(end_share):
    """In float64 against the difference of two sigmoids; in float32 against float64, cut into parts for the cache."""
    generator = torch.Generator().manual_seed(0)
    shape = 300, 1, 16, 16
    x = torch.randint(0, 256, shape, generator=generator).float() / 255
    ends = torch.rand(shape, generator=generator) < end_share
    x = torch.where(ends, x.round(), x)
    mean = torch.randn(shape, generator=generator)
    log_scale = 1.5 * torch.randn(shape, generator=generator) - 3
    log_scale[0] = -7.5  # below the bound

    def found(function, dtype):
        given = [part.to(dtype).requires_grad_() for part in (mean, log_scale)]
        log_p = function(*given, x.to(dtype))
        return log_p.detach().double(), *(part.double() for part in torch.autograd.grad(log_p.sum(), given))

    def by_definition(mean, log_scale, x):
        scale = log_scale.clamp(min=-7).exp()
        distance = (2 * x - 1 - mean).abs()  # from the side on which the difference loses no digits
        lower, upper = ((sign / 255 - distance) / scale for sign in (-1, 1))
        tail = torch.where(x < 0.5, -1, 1) * (2 * x - 1 - mean) - 1 / 255
        inside = torch.nn.functional.logsigmoid(upper) + torch.log1p(-(lower.sigmoid() / upper.sigmoid()))
        return torch.where((x == 0) | (x == 1), torch.nn.functional.logsigmoid(-tail / scale), inside)

    exact = found(log_probability, torch.float64)
    near = mean.sub(2 * x - 1).abs() / log_scale.exp() < 100  # beyond, sigmoids are 0 even in float64
    for ours, reference in zip(exact, found(by_definition, torch.float64), strict=True):
        assert torch.allclose(ours[near], reference[near], rtol=1e-6, atol=1e-8)
    single = found(log_probability, torch.float32)
    for rounded, double in zip(single, exact, strict=True):  # where scales are narrow, rounding the input changes more
        assert torch.allclose(*(part * log_scale.exp() for part in (rounded, double)), rtol=1e-4, atol=1e-4)
    nats = [-part.flatten(1).sum(1) for part in (single[0], exact[0])]
    assert torch.allclose(*nats, rtol=1e-6)


def test_a_mixture_of_one_component_is_a_discretized_logistic():
    given = parameters(LogisticMixture(1))
    parts = given.unflatten(1, (3, 3))[:, :, 1:].flatten(1, 2)  # the only weight does not matter, its mean starts at 0
    assert torch.allclose(LogisticMixture(1).nats(given, images()), DiscretizedLogistic().nats(parts, images()))


def test_a_categorical_is_that_of_torch():
    given, x = parameters(Categorical()), images()
    logits = given.unflatten(1, (3, 256)).movedim(2, -1)
    expected = -torch.distributions.Categorical(logits=logits).log_prob((x * 255).round())
    assert torch.allclose(Categorical().nats(given, x), expected.flatten(1).sum(1))


def test_a_gaussian_is_that_of_torch_with_a_scale_per_channel():
    gaussian = Gaussian(3).double()
    with torch.no_grad():
        gaussian.log_scale.copy_(torch.tensor([-1.0, 0.0, -2.0]))
    given, x = parameters(gaussian), images()
    normal = torch.distributions.Normal(given, gaussian.log_scale.exp().view(3, 1, 1))
    assert torch.allclose(gaussian.nats(given, x), -normal.log_prob(x).flatten(1).sum(1))
    with torch.no_grad():
        gaussian.log_scale.fill_(-50)
    narrowest = torch.distributions.Normal(given, 1 / 255)
    assert torch.allclose(gaussian.nats(given, x), -narrowest.log_prob(x).flatten(1).sum(1))


@pytest.mark.parametrize(("log_scale", "spread", "passes"), [(-5.0, 0.1, True), (-6.0, 0.1, True), (-6.0, 0.0, False)])
def test_a_scale_of_a_gaussian_returns_from_below_its_bound_and_falls_no_further(log_scale, spread, passes):
    gaussian, x = Gaussian(3).double(), images()
    torch.nn.init.constant_(gaussian.log_scale, log_scale)
    given = x + spread * parameters(gaussian)
    gaussian.nats(given, x).sum().backward()
    bound = max(log_scale, -math.log(255))
    expected = (1 - ((x - given) * math.exp(-bound)).square()).sum(dim=(0, 2, 3))  # d/ds of s + r^2 exp(-2 s) / 2
    assert (expected < 0).all() == passes
    assert torch.allclose(gaussian.log_scale.grad, expected * passes, rtol=1e-12, atol=0)


@pytest.mark.parametrize("logit", [-100.0, -3.0, -0.21, -0.19, -1e-3, 0.0, 1e-6, 0.1, 0.2, 2.0, 40.0])
def test_a_continuous_bernoulli_integrates_to_1_and_has_its_mean(logit):
    def density(x):
        given = torch.full((1, 1, 1, 1), logit, dtype=torch.float64)
        return math.exp(-float(ContinuousBernoulli().nats(given, torch.full_like(given, x))))

    near = [0.001, 0.01, 0.05] if logit < 0 else [0.95, 0.99, 0.999]
    assert scipy.integrate.quad(density, 0, 1, points=near)[0] == pytest.approx(1, abs=1e-8)
    mean = scipy.integrate.quad(lambda x: x * density(x), 0, 1, points=near)[0]
    assert float(expectation(torch.tensor(logit, dtype=torch.float64))) == pytest.approx(mean, abs=1e-8)


def test_a_continuous_bernoulli_in_float32_keeps_its_digits_beside_a_half_and_far_from_it():
    logits = torch.cat([torch.linspace(-0.5, 0.5, 2001), torch.linspace(-100, 100, 2001)])
    for function in (log_normalizer, expectation):
        assert (function(logits).double() - function(logits.double())).abs().max() < 1e-6
    single = logits.clone().requires_grad_()
    exact = logits.double().requires_grad_()
    (expectation(single).sum() + log_normalizer(single).sum()).backward()
    (expectation(exact).sum() + log_normalizer(exact).sum()).backward()
    assert (single.grad.double() - exact.grad).abs().max() < 1e-4


@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_gradients_are_those_of_finite_differences(likelihood):
    given = parameters(likelihood, 2, 3, (1, 2), 0.5)[:, :].requires_grad_()
    assert torch.autograd.gradcheck(lambda value: likelihood.nats(value, images(2, 3, (1, 2))), given)


@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_float32_is_near_float64(likelihood):
    given, x = parameters(likelihood, spread=3.0), images()
    single = type(likelihood)(3).float() if isinstance(likelihood, Gaussian) else likelihood
    assert torch.allclose(single.nats(given.float(), x.float()).double(), likelihood.nats(given, x), rtol=2e-5)


@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_one_image_may_be_scored_under_many_parameters(likelihood):
    given, x = parameters(likelihood), images(1)
    assert torch.allclose(likelihood.nats(given, x), likelihood.nats(given, x.expand(4, -1, -1, -1)))


@pytest.mark.parametrize("likelihood", ALL, ids=name)
def test_pictures_have_the_shape_of_images_and_lie_in_0_to_1(likelihood):
    pictures = likelihood.mean(parameters(likelihood, spread=5.0))
    assert pictures.shape == (4, 3, 2, 3)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1


def test_a_uniform_decoder_has_8_bits_per_dimension():
    x = images(8)
    nats = Categorical().nats(torch.zeros(8, 256 * 3, 2, 3, dtype=torch.float64), x)
    assert torch.allclose(nats / (3 * 2 * 3 * math.log(2)), torch.full((8,), 8.0, dtype=torch.float64))


def test_a_histogram_per_channel_has_the_entropy_that_numpy_finds():
    x = images(64)
    counts = np.stack([np.bincount((x[:, c] * 255).round().long().flatten(), minlength=256) for c in range(3)])
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(counts / counts.sum(1, keepdims=True))).clamp(min=-1e9)
    given = logits.reshape(1, -1, 1, 1).expand(64, -1, 2, 3)
    expected = np.mean([scipy.stats.entropy(row, base=2) for row in counts])
    bits = Categorical().nats(given, x).mean() / (3 * 2 * 3 * math.log(2))
    assert float(bits) == pytest.approx(expected)
