"""Freeze-thaw search: driven as Ray Tune drives it, killed and resumed, audited, replayed."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ray.tune.search import Searcher

from tests.search.test_searcher import result
from vae_tune.analysis.audit import audit, check_record
from vae_tune.analysis.study import load_study, paused_trials
from vae_tune.cli.audit import AuditOptions, run
from vae_tune.config.errors import UsageError
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, RUNNING, TRIAL, VALUES
from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.basis import MODEL_VERSION
from vae_tune.record.metadata import as_reopened, new_metadata, refuse_changes
from vae_tune.record.reopening import plan_reopening
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import read_trials
from vae_tune.replay.curves import Tabular, load_curves
from vae_tune.replay.forecast import forecast
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import simulate
from vae_tune.search import expected_gain, freeze_thaw
from vae_tune.search.initial_trials import InitialTrials
from vae_tune.search.scheduler import CONTINUE, PAUSE, STOP
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.unit_cube import UnitCube

CUBE = UnitCube(DEFAULT_SPACE)
BASE = TrialConfig(max_epochs=4)
CONFIG = SearchConfig(num_samples=16, trial=BASE, asha=AshaConfig(scheduler="freeze-thaw"))


def loss(values, epoch):
    """A made-up loss that falls with the epochs to a minimum in the middle of the space."""
    return 100 + 40 * float(np.sum((CUBE.place(values) - 0.5) ** 2)) + 30 / epoch


class Workers:
    """So many workers that report in turn; each trains on until it is told to stop."""

    def __init__(self, record, count, config=CONFIG, diverging=()):
        base, count_of_trials = config.trial, config.num_samples
        scheduler = make_scheduler(config.asha, base.max_epochs, base.seed)
        self.searcher = StudySearcher(record, DEFAULT_SPACE, base, "tpe", Stopping(), scheduler, count_of_trials)
        self.record, self.diverging, self.ended = record, diverging, False
        self.names, self.busy, self.idle = iter(range(10_000)), [], count

    def run(self, epochs=10_000):
        """Train so many epochs, or until the search has ended; return trial and epoch of each."""
        trained = []
        while len(trained) < epochs:
            while self.idle:
                config = self.searcher.suggest(name := str(next(self.names)))
                if not isinstance(config, dict):
                    self.ended = self.ended or (config == Searcher.FINISHED and not self.busy)
                    break
                self.busy.append((name, config))
                self.idle -= 1
            if not self.busy:
                break
            name, config = self.busy.pop(0)
            number, epoch = config[TRIAL], self.record.row(config[TRIAL]).epochs + 1
            trained.append((number, epoch))
            value = float("nan") if number in self.diverging else loss(config[VALUES], epoch)
            if self.searcher.trials.report(name, result(epoch, value)):
                self.busy.append((name, config))
            else:
                self.idle += 1
        return trained


@pytest.fixture
def metadata(tiny):
    made = new_metadata("s", CONFIG, BASE, DEFAULT_SPACE, tiny)
    made["runs"] = [{"command": [], "started": "2026-01-01T00:00:00.000+00:00", "versions": {}}]
    return made


def close(record):
    record.set_status("interrupted")
    record.close()


def without_best(found):
    """Return the contradictions but that no winner was written, as nothing here was trained."""
    return [line for line in found if "metrics.json is missing" not in line]


@pytest.mark.parametrize("workers", [1, 3])
def test_it_searches_finds_the_best_and_can_be_audited(tmp_path, metadata, workers):
    record = StudyRecord.create(tmp_path / "s", metadata)
    search = Workers(record, workers)
    trained = search.run()
    close(record)
    assert search.ended
    assert [number for number, _ in trained if number == 0] == [0] * 4
    study = load_study(tmp_path / "s")
    assert len(study.trials) == 16
    assert set(study.trials["state"]) == {COMPLETE, PRUNED}
    assert len(trained) < 45
    assert paused_trials(study).sum() == (study.trials["state"] == PRUNED).sum()
    best = study.trials.loc[study.best_trial]
    assert loss({name: best[name] for name in DEFAULT_SPACE.distributions}, 4) < 112
    assert without_best(audit(tmp_path / "s")) == []


@pytest.mark.parametrize("killed", [3, 19])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, metadata, killed):
    record = StudyRecord.create(tmp_path / "whole", metadata)
    whole = Workers(record, 1).run()
    values = [row.values for row in record.rows]
    close(record)
    record = StudyRecord.create(tmp_path / "s", metadata)
    first = Workers(record, 1).run(killed)
    record.close()
    record = StudyRecord.resume(tmp_path / "s", metadata)
    assert first + Workers(record, 1).run() == whole
    assert [row.values for row in record.rows] == values
    close(record)
    assert without_best(audit(tmp_path / "s")) == []


def test_three_workers_killed_twice_leave_a_record_that_can_be_audited(tmp_path, metadata):
    record = StudyRecord.create(tmp_path / "s", metadata)
    trained = Workers(record, 3).run(9)
    for epochs in (8, 10_000):
        record.close()
        record = StudyRecord.resume(tmp_path / "s", metadata)
        trained += Workers(record, 3).run(epochs)
    close(record)
    assert max(Counter(trained).values()) == 1
    assert {number for number, _ in trained} == set(range(16))
    assert without_best(audit(tmp_path / "s")) == []


def test_a_diverged_trial_fails_and_the_decisions_after_it_can_be_derived(tmp_path, metadata):
    record = StudyRecord.create(tmp_path / "s", metadata)
    Workers(record, 2, diverging={3, 12}).run()
    close(record)
    assert {row.trial for row in record.rows if row.state == FAIL} == {3, 12}
    assert without_best(audit(tmp_path / "s")) == []


def test_an_audit_names_an_epoch_that_another_trial_should_have_had(tmp_path, metadata):
    record = StudyRecord.create(tmp_path / "s", metadata)
    Workers(record, 1).run()
    close(record)
    scheduler = make_scheduler(CONFIG.asha, BASE.max_epochs, BASE.seed)
    scheduler.open(DEFAULT_SPACE, 16)
    rows = list(record.rows)
    resumed = [(row, epoch, basis) for row in rows for epoch, basis in row.decisions.items() if epoch > 1]
    row, epoch, basis = next(one for one in resumed if not one[2].may_open or one[1] == 2)
    worst = max((r for r in rows if r.epochs == 1 and r.trial < basis.trials), key=lambda r: r.loss)
    rows[worst.trial] = replace(worst, decisions={**worst.decisions, 2: basis})
    rows[row.trial] = replace(row, decisions={k: v for k, v in row.decisions.items() if k != epoch})
    assert list(scheduler.verify(rows)) == [
        f"trial {worst.trial} was given epoch 2 after {basis.reports} reports, "
        "when another choice promised a higher gain per epoch"
    ]
    values = {**rows[14].values, "learning_rate": 9.9e-3}
    rows = [replace(one, values=values) if one.trial == 14 else one for one in record.rows]
    assert any("trial 14 was given epoch 1" in line for line in scheduler.verify(rows))


def test_decisions_of_an_older_model_are_named_and_not_derived_again(tmp_path, metadata, monkeypatch, capsys):
    record = StudyRecord.create(tmp_path / "s", metadata)
    with monkeypatch.context() as patched:
        patched.setattr(freeze_thaw, "MODEL_VERSION", 1)
        patched.setattr(expected_gain, "PRICE", 100.0)
        Workers(record, 1).run(30)
    record.close()
    record = StudyRecord.resume(tmp_path / "s", metadata)
    old = sum(len(row.decisions) for row in record.rows)
    Workers(record, 1).run()
    close(record)
    contradictions, notes = check_record(tmp_path / "s")
    assert without_best(contradictions) == []
    assert notes == [
        f"{old} decisions of freeze-thaw were not derived again: version 1 of its model made them, "
        f"this is version {MODEL_VERSION}"
    ]
    run(AuditOptions(folder=tmp_path / "s"))
    assert f"Not checked: {notes[0]}." in capsys.readouterr().out


def test_a_decision_on_record_without_a_version_is_of_the_first_model(tmp_path, metadata, monkeypatch):
    record, decided = StudyRecord.create(tmp_path / "s", metadata), StudyRecord.decided
    with monkeypatch.context() as patched:
        patched.setattr(StudyRecord, "decided", lambda *given: decided(*given[:3], given[3][:5]))
        Workers(record, 1).run(20)
    record.close()
    rows = StudyRecord.resume(tmp_path / "s", metadata).rows
    assert {basis.model for row in rows for basis in row.decisions.values()} == {1}


def test_the_reference_never_pauses_and_a_trial_ends_at_the_last_epoch_or_where_it_diverges():
    scheduler = make_scheduler(CONFIG.asha, BASE.max_epochs, 0)
    scheduler.open(DEFAULT_SPACE, 3)
    for number in (0, 1, 2):
        scheduler.begin(number, CUBE.values(CUBE.snap(np.full((1, 3), 0.2 + 0.1 * number))[0]))
    assert scheduler.decide(0, 1, 500.0) == CONTINUE
    assert scheduler.decide(1, 1, 100.0) == CONTINUE
    assert scheduler.decide(1, 2, 95.0) == CONTINUE
    assert scheduler.decide(0, 2, 480.0) == CONTINUE
    assert scheduler.decide(1, 4, 90.0) == STOP
    assert scheduler.decide(2, 1, 400.0) == PAUSE
    assert scheduler.decide(0, 4, 400.0) == STOP
    assert scheduler.decide(2, 2, float("inf")) == STOP


def test_points_to_try_first_come_before_the_schedulers_own(tmp_path, metadata):
    points = [{"latent_size": 10 + n, "hidden_width": 100, "learning_rate": 1e-3} for n in range(14)]
    enqueue = InitialTrials(points).enqueue
    record = StudyRecord.create(tmp_path / "s", metadata, lambda study: enqueue(study, DEFAULT_SPACE, BASE))
    Workers(record, 1).run()
    assert [row.values for row in record.rows][1:15] == points
    assert not [row for row in record.rows[:15] if 1 in row.decisions]
    assert 1 in record.rows[15].decisions
    close(record)
    assert without_best(audit(tmp_path / "s")) == []


def test_a_least_gain_ends_a_search_earlier_and_may_change_in_a_resume(tmp_path, metadata):
    config = replace(CONFIG, asha=AshaConfig(scheduler="freeze-thaw", min_gain=1000.0))
    refuse_changes(json.loads(json.dumps(metadata)), config, DEFAULT_SPACE)
    record = StudyRecord.create(tmp_path / "s", metadata)
    search = Workers(record, 1, config)
    trained = search.run()
    assert search.ended
    assert {row.state for row in record.rows} == {COMPLETE, PRUNED}
    assert {number for number, _ in trained} == set(range(16))
    later = StudyRecord.create(tmp_path / "later", metadata)
    assert len(trained) < len(Workers(later, 1).run())
    record.close()
    later.close()


def test_it_says_what_going_on_is_expected_to_bring(tmp_path, metadata):
    record = StudyRecord.create(tmp_path / "s", metadata)
    Workers(record, 1).run()
    record.set_status("complete")
    record.close()
    (finding,) = forecast(load_study(tmp_path / "s"))
    paused = [row for row in record.rows if row.state == PRUNED]
    epochs = sum(BASE.max_epochs - row.epochs for row in paused)
    assert re.fullmatch(
        r"The search ended: 16 configurations were tried, and no paused trial is expected to gain more than "
        r"0\.\d\d nats, the default of --min-gain\. "
        rf"Training the {len(paused)} paused trials to the end is expected to gain 0\.\d\d nats "
        rf"\(in nine of ten cases at most \d\.\d\d\) for {epochs} epochs\.",
        str(finding),
    )


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (
            "epoch budget used",
            r"The search ended after 21 epochs, by --max-total-epochs\. \d+ of the 16 configurations",
        ),
        ("time budget used", r"The search ended after 21 epochs, by --time-budget\. \d+ of the 16 configurations"),
        (
            "target loss reached",
            r"The search ended because the target loss was reached\. \d+ of the 16 configurations",
        ),
    ],
)
def test_it_says_why_it_ended_earlier(tmp_path, metadata, status, why):
    record = StudyRecord.create(tmp_path / "s", metadata)
    Workers(record, 1).run(21)
    record.set_status(status)
    record.close()
    (finding,) = forecast(load_study(tmp_path / "s"))
    assert re.match(rf"{why} were not tried\. Training the \d+ paused trials to the end is expected", str(finding))


def opened_again(folder, metadata, max_epochs, present):
    """Open a search again, up to ``max_epochs``, of whose trials some have checkpoints."""
    trials, reached = read_trials(folder), metadata["reference"]["max_epochs"]
    reopening = plan_reopening(trials, present, max_epochs, reached, paused=True)
    now = as_reopened(metadata, reopening.note(None))
    return StudyRecord.resume(folder, now, reopening=reopening)


def test_a_search_that_is_made_longer_goes_on_with_what_has_a_checkpoint(tmp_path, metadata):
    folder, present = tmp_path / "s", range(0, 16, 2)
    record = StudyRecord.create(folder, metadata)
    first = Workers(record, 2).run()
    close(record)
    record = opened_again(folder, metadata, 8, present)
    assert {row.trial for row in record.rows if row.state == PRUNED} == {*range(16)} - {*present}
    later = replace(CONFIG, trial=replace(BASE, max_epochs=8))
    trained = Workers(record, 2, later).run(20)
    record.close()
    record = StudyRecord.resume(folder, record.metadata)
    search = Workers(record, 2, later)
    trained += search.run()
    assert search.ended
    assert max(Counter(first + trained).values()) == 1
    assert {number for number, _ in trained} <= {*present}
    assert [epoch for number, epoch in trained if number == 0] == [5, 6, 7, 8]
    assert {row.state for row in record.rows} == {COMPLETE, PRUNED}
    close(record)
    assert without_best(audit(folder)) == []


def test_a_trial_that_has_ended_early_is_not_chosen_after_a_resume(tmp_path, metadata):
    record = StudyRecord.create(tmp_path / "s", metadata)
    Workers(record, 1).run(20)
    record.close()
    scheduler = make_scheduler(replace(CONFIG.asha, min_gain=0.0), BASE.max_epochs, 0)
    scheduler.open(DEFAULT_SPACE, 16)
    unfinished = [row for row in record.rows if row.state == RUNNING and row.epochs]
    ended = min(unfinished, key=lambda row: row.loss)
    decisions = scheduler.rebuild(
        [*record.rows[: ended.trial], replace(ended, state=PRUNED), *record.rows[ended.trial + 1 :]]
    )
    paused = {row.trial for row in unfinished if decisions[row.trial] == PAUSE and row is not ended}
    assert {scheduler.next_paused() for _ in unfinished} == {*paused, None}


def test_more_trials_open_the_paused_ones_again(tmp_path, metadata):
    folder = tmp_path / "s"
    record = StudyRecord.create(folder, metadata)
    first = Workers(record, 1).run()
    paused = {row.trial for row in record.rows if row.state == PRUNED}
    close(record)
    record = opened_again(folder, metadata, BASE.max_epochs, paused - {max(paused)})
    asha = replace(CONFIG.asha, min_gain=0.0)
    trained = Workers(record, 1, replace(CONFIG, num_samples=18, asha=asha)).run()
    assert max(Counter(first + trained).values()) == 1
    assert {number for number, _ in trained} == {16, 17, *paused} - {max(paused)}
    assert [row.trial for row in record.rows if row.state == PRUNED] == [max(paused)]
    record.metadata["config"]["num_samples"] = 18
    close(record)
    assert without_best(audit(folder)) == []


def test_a_replay_on_recorded_curves_repeats_itself_and_trains_the_reference_at_once():
    source = Tabular(load_curves(Path(__file__).parents[1] / "curves"))
    setting = Setting("tpe", AshaConfig(scheduler="freeze-thaw"), workers=2)
    first, again = (simulate(source, setting, num_samples=13, seed=1) for _ in range(2))
    assert [(t.values, t.epochs, t.ended) for t in first] == [(t.values, t.epochs, t.ended) for t in again]
    assert len(first) == 13
    assert (first[0].state, first[0].epochs) == (COMPLETE, 4)
    assert first[0].spent <= 8
    assert {trial.state for trial in first} == {COMPLETE, PRUNED}


def test_a_warm_start_is_refused():
    with pytest.raises(UsageError, match="warm_start cannot teach freeze-thaw"):
        SearchConfig(asha=AshaConfig(scheduler="freeze-thaw"), warm_start=(Path("a"),))


def test_only_freeze_thaw_has_a_least_gain():
    with pytest.raises(UsageError, match="min_gain must be left out where scheduler is not freeze-thaw"):
        AshaConfig(min_gain=0.1)
    with pytest.raises(UsageError, match="min_gain must be >= 0"):
        AshaConfig(scheduler="freeze-thaw", min_gain=-1.0)


def test_a_trial_that_a_decision_started_goes_on_after_a_kill_and_a_paused_one_waits(tmp_path, metadata):
    record = StudyRecord.create(tmp_path / "s", metadata)
    search = Workers(record, 1)
    search.run(20)
    number = search.busy[0][1][TRIAL] if search.busy else search.searcher.suggest("x")[TRIAL]
    record.close()
    scheduler = make_scheduler(CONFIG.asha, BASE.max_epochs, 0)
    scheduler.open(DEFAULT_SPACE, 16)
    unfinished = [row for row in record.rows if row.state == RUNNING and row.epochs]
    decisions = scheduler.rebuild(record.rows)
    expected = {row.trial: CONTINUE if row.trial == number else PAUSE for row in unfinished}
    assert {row.trial: decisions[row.trial] for row in unfinished} == expected
