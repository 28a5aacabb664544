"""What changes from epoch to epoch."""

import math

import pytest

from vae_tune.config.settings import TrialConfig
from vae_tune.vae.schedule import kl_weight, learning_rate


def rates(schedule, epochs, max_epochs=10):
    config = TrialConfig(learning_rate=1e-3, lr_schedule=schedule, max_epochs=max_epochs)
    return [learning_rate(config, epoch) for epoch in epochs]


def test_a_constant_rate_is_constant():
    assert rates("constant", (1, 5, 10)) == [1e-3, 1e-3, 1e-3]


def test_a_cosine_goes_from_the_whole_rate_to_almost_none():
    found = rates("cosine", range(1, 11))
    assert found[0] == 1e-3
    assert found[5] == pytest.approx(5e-4)
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] == pytest.approx(0.5e-3 * (1 + math.cos(0.9 * math.pi)))


def test_the_stages_are_those_of_burda_et_al():
    """3^i epochs at 0.001 * 10^(-i/7), for i = 0..7."""
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(expected) == 3280
    assert rates("staged", range(1, 3281), 3280) == pytest.approx(expected)
    assert rates("staged", [4000], 5000) == pytest.approx([1e-4])


def test_the_kl_weight_grows_in_equal_steps_and_then_stays():
    config = TrialConfig(kl_weight=0.8, kl_warmup_epochs=3)
    assert [kl_weight(config, epoch) for epoch in range(1, 6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_without_a_warm_up_the_weight_is_whole_from_the_start():
    assert kl_weight(TrialConfig(), 1) == 1
