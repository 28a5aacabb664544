"""Freeze-thaw in a whole search that is killed, resumed, and audited."""

import pytest

from tests.system.conftest import is_whole, table, wait_for

pytestmark = pytest.mark.system

OPTIONS = ("--scheduler", "freeze-thaw", "--num-samples", 13, "--max-epochs", 3)
SMALL = ("--train-size", 1000, "--hidden-width", 100, "--results-dir", "out", "--max-concurrent", 2)


def test_a_kill_9_changes_no_decision_of_what_is_on_record(search, tmp_path):
    running = search("--study-name", "s", *OPTIONS, *SMALL)
    folder = tmp_path / "out" / "s"
    wait_for(lambda: (folder / "epochs.csv").exists() and len(table(folder / "epochs.csv")) > 14)
    running.kill()
    running.process.wait()
    before = table(folder / "epochs.csv")
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    assert "paused trials to the end is expected to gain" in output
    is_whole(folder, trials=13)  # every decision, derived again
    after = table(folder / "epochs.csv")
    assert after[: len(before)] == before
    seen = [(row["trial"], row["epoch"]) for row in after]
    assert len(seen) == len(set(seen)) < 30
