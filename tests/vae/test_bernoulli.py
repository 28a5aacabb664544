"""The Bernoulli likelihood against independent references, in nats per image."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.likelihoods.bernoulli import Bernoulli, _in_few_kernels, cross_entropy
from vae_tune.vae.likelihoods.registry import kind_of

BERNOULLI = Bernoulli()


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _grey(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("binary", [False, True], ids=["grey", "binary"])
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 2)])
def test_the_nats_are_the_cross_entropy_summed_over_pixels_and_channels(binary, shape):
    logits, x = _draw(20, *shape) * 4, _grey(20, *shape)
    x = x.round() if binary else x
    p = torch.sigmoid(logits)
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).sum(dim=(1, 2, 3))
    torch.testing.assert_close(BERNOULLI.nats(logits, x), expected)


@pytest.mark.parametrize("pixels", [1, 35, 67, 784])
@pytest.mark.parametrize("scale", [1.0, 20.0, 2000.0])
def test_one_image_is_scored_under_many_logits_in_float32_too(pixels, scale):
    logits = (scale * _draw(900, 1, 1, pixels)).float()  # as many as are decoded at once, or nearly
    x = torch.rand(1, 1, 1, pixels, generator=torch.Generator().manual_seed(1))
    expected = BERNOULLI.nats(logits.double(), x.double().expand_as(logits))
    torch.testing.assert_close(BERNOULLI.nats(logits, x).double(), expected, rtol=3e-6, atol=2e-4)


@pytest.mark.parametrize(
    ("logit", "x", "nats"),
    [(1000.0, 0.0, 1000.0), (-1000.0, 1.0, 1000.0), (1000.0, 1.0, 0.0), (-1000.0, 0.0, 0.0), (1000.0, 0.25, 750.0)],
)
def test_the_nats_are_right_where_a_sigmoid_would_round(logit, x, nats):
    assert BERNOULLI.nats(torch.tensor([[logit]]), torch.tensor([[x]])).item() == nats


def test_the_nats_have_finite_gradients_at_extreme_logits():
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    BERNOULLI.nats(logits, torch.tensor([[0.0, 1.0]])).sum().backward()
    assert logits.grad.tolist() == [[1.0, -1.0]]


def test_an_image_does_not_change_the_nats_of_another():
    logits, x = _draw(6, 1, 5, 7), _grey(6, 1, 5, 7)
    torch.testing.assert_close(BERNOULLI.nats(logits, x)[2:3], BERNOULLI.nats(logits[2:3], x[2:3]))


def test_the_mean_is_the_sigmoid_of_the_logits():
    logits = _draw(4, 3, 5, 7)
    torch.testing.assert_close(BERNOULLI.mean(logits), 1 / (1 + (-logits).exp()))


@pytest.mark.parametrize("channels", [1, 3])
def test_there_is_one_logit_per_channel(channels):
    assert BERNOULLI.outputs(channels) == channels


def test_only_of_grey_values_it_is_no_likelihood():
    kinds = [kind_of(TrialConfig(), 1, pixels) for pixels in ("grey", "static", "dynamic")]
    assert [(kind.words, kind.in_bits, kind.is_likelihood) for kind in kinds] == [
        ("grey values", False, False),
        ("static values", False, True),
        ("dynamic values", False, True),
    ]


@pytest.mark.parametrize("given", [False, True])
def test_a_batch_too_large_for_the_cache_is_worked_through_in_parts_without_a_change(given):
    logits, x = torch.randn(600, 784, dtype=torch.float64), torch.rand(600, 784, dtype=torch.float64)
    buffers = torch.full((2, 600, 784), torch.nan, dtype=torch.float64) if given else ()
    nats, gradient = cross_entropy(logits, x, *buffers)
    assert not given or gradient.data_ptr() == buffers[0].data_ptr()
    expected = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=-1)
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(gradient, torch.sigmoid(logits) - x)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_gpu_gets_the_same_by_fewer_kernels(in_place):
    logits = torch.cat([_draw(20, 35) * 4, torch.tensor([[1000.0, -1000.0, 50.0, -50.0, 0.0]]).repeat(1, 7)])
    x = torch.cat([_grey(20, 35), torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.5]]).repeat(1, 7)])
    nats, gradient = cross_entropy(logits, x)
    written = logits if in_place else torch.full_like(logits, torch.nan)
    torch.testing.assert_close(_in_few_kernels(logits, x, written, torch.full_like(logits, torch.nan)), nats)
    torch.testing.assert_close(written, gradient)
