"""What a search says before its first trial."""

import pytest

from vae_tune.analysis.loss_unit import NATS, LossUnit
from vae_tune.tasks.search_run import target_in_bits_warning, target_line

LEVELS = LossUnit.of({"kind": "levels", "dimensions": 3072})
PSNR = LossUnit.of(
    {"kind": "my_metric.py:psnr", "name": "psnr", "unit": "", "direction": "maximize", "columns": ["psnr"]}
)


def test_a_target_is_said_in_its_unit_and_in_bits_where_these_are_shown():
    assert target_line(108.0, NATS) == "Target: validation loss <= 108 nats per image"
    assert target_line(8304.47, LEVELS) == "Target: validation loss <= 8304.47 nats per image (3.9 bits/dim)"
    assert target_line(30.0, PSNR) == "Target: psnr >= 30"


def test_a_target_of_levels_that_looks_like_bits_is_warned_of_with_the_value_in_nats():
    warning = target_in_bits_warning(3.9, LEVELS)
    assert warning.endswith("3.9 is out of reach. For 3.9 bits/dim: --target-loss 8304.5")


@pytest.mark.parametrize(("target", "unit"), [(3.9, NATS), (8304.5, LEVELS), (3.9, PSNR)])
def test_a_target_in_nats_is_not_warned_of(target, unit):
    assert target_in_bits_warning(target, unit) is None
