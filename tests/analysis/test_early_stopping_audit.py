"""What audited trials show of early stopping, on tables with known answers."""

import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from tests.record.test_study_record import METADATA
from tests.search.test_searcher import result
from tests.studies import START, hand_made
from vae_tune.analysis.advice import stopping
from vae_tune.analysis.audit import audit
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.analysis.early_stopping_audit import (
    log_base,
    probability_that_best_was_stopped,
    proportion_interval,
    sentences,
    stopping_audit,
    weighted_spearman,
)
from vae_tune.analysis.study import audited_trials
from vae_tune.config.names import COMPLETE, PRUNED, REOPENED, TRIAL
from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.plots import rung_survival
from vae_tune.record.metadata import new_metadata
from vae_tune.record.sampler_view import as_set_aside
from vae_tune.record.study_record import StudyRecord
from vae_tune.search.asha import is_audited
from vae_tune.search.scheduler import STOP, Decision
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.views.report.page import render

ASHA = AshaConfig(reduction_factor=3, audit_fraction=0.3)


def audited(losses, epoch=1):
    return {"losses": losses, "audited": epoch}


def stopped(losses):
    return {"losses": losses, "state": PRUNED}


@pytest.fixture
def study(tmp_path):
    """Six trials stopped and three audited at the rung of epoch 1, one stopped at the rung of epoch 3."""
    return hand_made(
        tmp_path / "s",
        {"losses": [10.0, 9.0, 8.0, 7.0]},
        {"losses": [9.0, 8.0, 7.0, 6.0]},
        {"losses": [8.0, 7.0, 6.0, 5.0]},
        *(stopped([20.0 + index]) for index in range(6)),
        audited([11.0, 9.0, 8.0, 5.5]),
        audited([12.0, 11.0, 10.0, 9.0]),
        audited([13.0, 12.0, 11.0, 10.0]),
        stopped([8.5, 8.0, 7.5]),
        max_epochs=4,
        asha=ASHA,
    )


def test_each_rung_has_its_stopped_its_audited_and_those_that_ended_well(study):
    table = stopping_audit(study).set_index("epoch")
    assert table.loc[1, ["stopped", "audited", "false_stops"]].tolist() == [9, 3, 1]
    assert table.loc[3, ["stopped", "audited"]].tolist() == [1, 0]
    assert table["share"][1] == pytest.approx(1 / 3)
    assert (table["low"][1], table["high"][1]) == pytest.approx((0.0084, 0.9057), abs=1e-4)  # Clopper-Pearson, 1 of 3
    assert math.isnan(table["share"][3])


def test_a_trial_that_ended_before_the_search_was_made_longer_was_not_stopped(tmp_path):
    """Epoch 3 was the end at first: trials 5 and 7 were complete then and have no checkpoint; 6 was stopped later."""
    made = hand_made(
        tmp_path / "s",
        *({"losses": [10.0 - index, 9.0 - index, 8.0 - index, 7.0 - index]} for index in range(4)),
        audited([15.0, 13.0, 12.0, 11.0], epoch=3),
        stopped([9.5, 8.5, 7.5]) | {"ended": 50},
        stopped([16.0, 15.0, 14.0]) | {"ended": 150},
        stopped([17.0, 16.0, 15.0]) | {"ended": 50, "audited": 1},
        max_epochs=4,
        asha=ASHA,
    )
    end = (START + timedelta(seconds=100)).isoformat(timespec="milliseconds")
    note = {"max_epochs": 4, "before": [{"max_epochs": 3, "complete": 6, "ended": end}]}
    study = replace(made, metadata=made.metadata | {REOPENED: note})
    audits = stopping_audit(study).set_index("epoch")
    assert audits[["stopped", "audited"]].to_numpy().tolist() == [[1, 0], [2, 1]]
    survival = rung_survival(study).set_index("epoch")
    assert survival[["reached", "stopped"]].to_numpy().tolist() == [[8, 1], [7, 2], [4, 0]]
    assert compute_cost(study).saved_epochs == 1
    assert "pruned: the search trained 29 epochs instead of 30" in render(study)


def test_an_audited_trial_stands_for_the_others_that_its_rung_stopped(study):
    # losses at epoch 1 and at the end, each of the audited three times
    first = [10, 9, 8, *[11] * 3, *[12] * 3, *[13] * 3]
    final = [7, 6, 5, *[5.5] * 3, *[9] * 3, *[10] * 3]
    table = stopping_audit(study).set_index("epoch")
    assert table["spearman"][1] == pytest.approx(spearmanr(first, final).statistic)


def test_a_later_rung_does_not_count_what_an_earlier_one_stopped(study):
    assert stopping_audit(study).set_index("epoch")["spearman"][3] == pytest.approx(1.0)  # of 0, 1 and 2 alone


def test_a_false_stop_is_one_that_ended_in_the_better_half_of_those_let_through(tmp_path):
    passed = [{"losses": [10.0, 9.0, final]} for final in (7.0, 6.0, 5.0)]  # 6.2 is in the better half of all six
    ends = [audited([12.0, 11.0, final]) for final in (6.2, 9.0, 10.0)]
    study = hand_made(tmp_path / "s", *passed, *ends, asha=ASHA)
    assert stopping_audit(study)["false_stops"].tolist() == [0]


def test_an_audited_winner_was_certainly_stopped(tmp_path):
    trials = [{"losses": [5.0, 4.0, 3.0]}, {"losses": [4.0, 3.5, 2.0]}, audited([6.0, 2.0, 1.0])]
    study = hand_made(tmp_path / "s", *trials, asha=ASHA)
    assert stopping_audit(study)["winner_stopped"].tolist() == [1.0]
    assert study.best_trial == 2
    assert "better trial than any that it let through: 100%" in " ".join(sentences(study))


def test_the_chance_that_the_best_was_stopped_is_that_of_independent_normal_errors():
    known = np.exp([1.0, 2.0, 3.0, 4.0])
    final = known * np.exp([0.1, -0.1, -0.1, 0.1])
    deviation = 0.1 * math.sqrt(4 / 2)
    chance = probability_that_best_was_stopped(known, final, np.ones(4), final[3:], np.exp([1.2, 1.4]), math.exp(1.1))
    expected = 1 - (1 - norm.cdf(-0.1 / deviation)) * (1 - norm.cdf(-0.3 / deviation))
    assert chance == pytest.approx(expected, rel=1e-6)


def test_a_rung_that_predicts_all_stops_no_winner():
    known = np.exp([1.0, 2.0, 3.0])
    assert probability_that_best_was_stopped(
        known, known, np.ones(3), known[2:], np.exp([4.0, 5.0]), math.e
    ) == pytest.approx(0)


@pytest.mark.parametrize("shift", [-12.0, -1000.0])
def test_negative_losses_give_about_the_chance_that_positive_ones_give(shift):
    known = np.exp(np.linspace(1, 4, 9))
    final = known * np.exp(0.1 * np.cos(np.arange(9) * 3.0))
    losses = known, final, final[3:], np.exp([1.5, 1.7]), math.exp(1.1)
    plain, moved = (
        probability_that_best_was_stopped(known + by, final + by, np.ones(9), audited + by, stopped + by, best + by)
        for by in (0.0, shift)
        for known, final, audited, stopped, best in [losses]
    )
    assert 0 < moved < 1
    assert moved == pytest.approx(plain, abs=0.3)


@pytest.mark.parametrize(
    ("losses", "base"),
    [
        ([5.0, 9.0, 700.0], 0.0),
        ([-1.0, 1.0, 2.0, math.nan, math.inf], -3.0),
        ([-9.0, -5.0, -4.0], -13.0),
        ([0.1, 50.0, 60.0], 0.1 - 49.9),
        ([-7.0, -7.0], -7.001),
        ([], 0.0),
    ],
)
def test_the_base_of_logarithms_is_0_unless_losses_come_near_it(losses, base):
    assert log_base(np.array(losses)) == pytest.approx(base)


def test_weights_act_as_repetitions():
    random = np.random.default_rng(0)
    x, y, weights = random.integers(0, 9, 20), random.random(20), random.integers(1, 5, 20)
    expected = spearmanr(np.repeat(x, weights), np.repeat(y, weights)).statistic
    assert weighted_spearman(x, y, weights.astype(float)) == pytest.approx(expected)


@pytest.mark.parametrize(("hits", "count", "low", "high"), [(0, 10, 0, 0.3085), (10, 10, 0.6915, 1), (0, 0, 0, 1)])
def test_the_interval_of_a_proportion_is_exact(hits, count, low, high):
    assert proportion_interval(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_without_an_audit_nothing_is_told(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [5.0, 4.0, 3.0]}, stopped([6.0]))
    assert stopping_audit(study).empty
    assert "the audit" not in render(study)


def test_the_report_tells_the_audit_and_other_tables_take_audited_trials_for_stopped(study):
    assert "3 of the 9 trials that it stopped were audited" in render(study)
    assert audited_trials(study).to_dict() == {9: 1, 10: 1, 11: 1}
    survival = rung_survival(study).set_index("epoch")
    assert survival["reached"].tolist() == [13, 4, 3]
    assert survival["stopped"].tolist() == [9, 1, 0]
    assert stopping(study)[["quota", "lucky"]].to_numpy().tolist() == [[4, 0], [1, 1]]


def test_the_share_of_audited_trials_is_that_asked_for_and_depends_on_seed_and_number():
    chosen = [is_audited(0, number, 0.05) for number in range(4000)]
    assert 0.04 < np.mean(chosen) < 0.06
    assert chosen == [is_audited(0, number, 0.05) for number in range(4000)]
    assert chosen != [is_audited(1, number, 0.05) for number in range(4000)]
    assert not any(is_audited(0, number, 0.0) for number in range(100))
    assert all(is_audited(0, number, 1.0) for number in range(100))


def stream(count=60):
    random = np.random.default_rng(1)
    return [(number, epoch, 100 * random.random()) for number in range(count) for epoch in range(1, 10)]


def decisions(scheduler):
    """What becomes of trials that run one after another: the last epoch of each, and who was audited."""
    ends, audited = {}, {}
    for number, epoch, loss in stream():
        if number not in ends:
            decision = scheduler.decide(number, epoch, loss)
            if decision.action == "stop":
                ends[number] = epoch
            elif decision.stopped_at:
                audited[number] = decision.stopped_at
    return ends, audited


def test_an_audit_changes_no_other_decision():
    plain, audits = make_scheduler(AshaConfig(), 9, 0), make_scheduler(ASHA, 9, 0)
    (before, _), (after, audited) = decisions(plain), decisions(audits)
    assert 5 < len(audited) < 30
    for number, end in before.items():
        assert after[number] == (9 if number in audited else end)
        assert audited.get(number, end) == end


BASE = TrialConfig(max_epochs=9)


def drive(searcher, names):
    for name in names:
        number = searcher.suggest(name)[TRIAL]
        for epoch in range(1, BASE.max_epochs + 1):
            loss = stream()[9 * number + epoch - 1][2]
            if not searcher.trials.report(name, result(epoch, loss)):
                searcher.on_trial_complete(name, result(epoch, loss))
                break
            searcher.on_trial_result(name, result(epoch, loss))


def searched(folder, config, names):
    record = StudyRecord.create(folder, METADATA)
    drive(StudySearcher(record, DEFAULT_SPACE, BASE, "tpe", Stopping(), make_scheduler(config, 9, 0)), names)
    return record, {row.trial: row.audited for row in record.rows if row.audited}


def test_the_sampler_proposes_as_if_audited_trials_had_been_stopped(tmp_path):
    names = [str(number) for number in range(25)]
    plain, _ = searched(tmp_path / "plain", AshaConfig(), names)
    audits, audited = searched(tmp_path / "audits", ASHA, names)
    assert audited
    assert [trial.params for trial in plain.study.trials] == [trial.params for trial in audits.study.trials]
    for number, epoch in audited.items():
        assert audits.study.trials[number].state.name == COMPLETE
        assert audits.rows[number].audited == epoch
        seen = as_set_aside(audits.study.trials[number])
        assert (seen.state.name, seen.value) == (PRUNED, audits.rows[number].reports[epoch - 1]["val_loss"])
    shown = [[trial.value for trial in record.sampler_view.get_trials()] for record in (plain, audits)]
    assert shown[0] == shown[1]
    for record in (plain, audits):
        record.close()


def test_a_resume_takes_up_an_audit_where_it_was(tmp_path):
    names = [str(number) for number in range(25)]
    record, audited = searched(tmp_path / "s", ASHA, names)
    record.close()
    again = StudyRecord.resume(record.folder, METADATA)
    again.close()
    assert audited == {row.trial: row.audited for row in again.rows if row.audited}
    rebuilt = make_scheduler(ASHA, 9, 0)
    assert rebuilt.rebuild(again.rows) == {row.trial: STOP for row in again.rows}
    number, epoch = next(iter(audited.items()))
    assert rebuilt.decide(number, 8, 1e9) == Decision("continue", epoch)


def test_a_crash_before_the_mark_was_written_is_mended(tmp_path):
    number = next(number for number in range(1, 100) if is_audited(0, number, 0.3))
    record = StudyRecord.create(tmp_path / "s", METADATA)
    searcher = StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping())  # without the scheduler: no mark
    for index in range(number + 1):
        searcher.suggest(str(index))
        searcher.on_trial_result(str(index), result(1, 100.0 + index))
    record.close()
    again = StudyRecord.resume(record.folder, METADATA)
    StudySearcher(again, DEFAULT_SPACE, BASE, "random", Stopping(), make_scheduler(ASHA, 9, 0))
    assert again.rows[number].audited == 1
    assert again.rows[number].reason == "audited: the rung at epoch 1 would have stopped it"
    assert as_set_aside(again.study.trials[number]).state.name == PRUNED
    again.close()


def test_the_check_of_a_record_knows_who_was_audited(tmp_path, tiny):
    config = SearchConfig(num_samples=25, trial=BASE, asha=ASHA)
    record = StudyRecord.create(tmp_path / "s", new_metadata("s", config, BASE, DEFAULT_SPACE, tiny))
    searcher = StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping(), make_scheduler(ASHA, 9, 0))
    drive(searcher, [str(number) for number in range(25)])
    record.set_status("complete")
    record.close()
    assert not [line for line in audit(record.folder) if "rung" in line]
    journal = record.folder / "optuna.journal"
    marked = journal.read_text()
    journal.write_text(marked.replace('"user_attr":{"audited":1}', '"user_attr":{"audited":3}'))
    assert [line for line in audit(record.folder) if "was audited at epoch 3, which the rungs put at 1" in line]
    journal.write_text(marked)
    path = record.folder / "study.json"
    path.write_text(path.read_text().replace('"audit_fraction": 0.3', '"audit_fraction": 0.0'))
    number, epoch = next((row.trial, row.audited) for row in record.rows if row.audited)
    assert f"trial {number} went on past epoch {epoch}, where the rung stops it" in audit(record.folder)


def test_a_reason_that_reads_like_an_audit_is_none(tmp_path):
    note = "audited: the rung at epoch 1 would have stopped it"
    trials = [{"losses": [5.0, 4.0, 3.0], "reason": text} for text in ("", note, f"a; {note}")]
    study = hand_made(tmp_path / "s", *trials, audited([5.0, 4.0, 3.0]), asha=ASHA)
    assert dict(audited_trials(study)) == {3: 1}
