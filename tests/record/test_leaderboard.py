"""The best trials by one rule, without a look at the others when one changes."""

import random
from dataclasses import replace

import pytest

from tests.record.test_study_record import row
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, RUNNING
from vae_tune.record.leaderboard import Leaderboard
from vae_tune.record.trials import TrialRow, ranked

LAST = 4


def changes(seed):
    """Trials that report, end in each way, and tie; with an odd seed some were complete before, at epoch 2."""
    random_ = random.Random(seed)
    rows = {}
    for _ in range(400):
        number = random_.randrange(60)
        known = rows.get(number, row(number, RUNNING))
        if known.state != RUNNING:
            continue
        losses = [report["val_loss"] for report in known.reports]
        state = random_.choice([RUNNING] * 8 + [PRUNED, FAIL])
        if len(losses) < LAST and random_.random() < 0.8:
            losses.append(random_.randrange(5) / 2)
        state = COMPLETE if len(losses) == random_.choice([LAST, LAST, 3]) else state
        rows[number] = replace(row(number, state, *losses), complete_at=2 * (seed % 2) * (number % 7 == 0))
        yield rows[number], list(rows.values())


@pytest.mark.parametrize("seed", range(5))
def test_after_each_change_the_best_are_those_of_the_one_rule(seed):
    board = Leaderboard(LAST)
    for changed, rows in changes(seed):
        board.update(changed)
        expected = ranked(rows, LAST)
        assert board.winner == (expected[0] if expected else None)
        assert board.best(3) == expected[:3]
    assert len(expected) > 3
    assert Leaderboard(LAST, reversed(rows)).best(100) == expected


def test_a_change_of_one_trial_reads_no_other(monkeypatch):
    rows = [row(number, COMPLETE, 1.0, 1.0, 1.0, number / 2) for number in range(1000)]
    board = Leaderboard(LAST, rows)
    read = []
    epochs = TrialRow.epochs
    monkeypatch.setattr(TrialRow, "epochs", property(lambda self: read.append(self.trial) or epochs.fget(self)))
    board.update(replace(rows[7], state=FAIL))
    board.update(row(1000, COMPLETE, 1.0, 1.0, 1.0, 0.25))
    assert [best.trial for best in board.best(3)] == [0, 1000, 1]
    assert set(read) == {7, 1000}
