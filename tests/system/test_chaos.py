"""The chaos run in its short form; `make chaos` is the long one."""

import pytest

from tests.system.chaos import run_chaos

pytestmark = pytest.mark.system


def test_a_search_killed_again_and_again_loses_nothing(tmp_path):
    counts = run_chaos(tmp_path, kills=3, seed=1, num_samples=10)
    assert counts["kills"] == 3
    assert counts["trials lost"] == 0
