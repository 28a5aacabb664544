"""The chaos run in its short form; `make chaos` is the long one."""

import pytest

from tests.system.chaos import run_chaos

pytestmark = pytest.mark.system


def test_a_search_killed_again_and_again_loses_nothing(tmp_path):
    counts = run_chaos(tmp_path, kills=2, seed=137, num_samples=8)  # one at a start, one in an epoch
    assert counts["kills"] == 2
    assert counts["trials lost"] == 0
