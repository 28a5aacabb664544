import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from queue import SimpleQueue

import pytest

from tests.record.test_study_record import row
from vae_tune.cluster.pause_signal import hold_pause
from vae_tune.cluster.ray_runtime import RunningRay
from vae_tune.cluster.slots import Slots
from vae_tune.config.errors import PausedAtStart
from vae_tune.config.files import read_json
from vae_tune.config.names import EPOCH_BUDGET, INTERRUPTED, PAUSED, TARGET_LOSS, TIME_BUDGET
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.record.trials import TrialRow
from vae_tune.search.stopping import Stopping, Trainings, explain, interruptible
from vae_tune.tasks import search as tuning
from vae_tune.tasks import search_start


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, None), (signal.SIGTERM, 143)])
def test_a_signal_requests_an_end_at_once_and_a_second_one_ends_the_process(number, code):
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.default_int_handler if code is None else lambda *_: sys.exit(1))  # as Ray does
        stopping = Stopping()
        with interruptible(stopping):
            os.kill(os.getpid(), number)
            assert (stopping.reason, stopping.stop_all()) == (INTERRUPTED, True)
            with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
                os.kill(os.getpid(), number)
        with (
            interruptible(stopping),
            pytest.raises((KeyboardInterrupt, SystemExit)) as again,
        ):
            os.kill(os.getpid(), number)
        assert [getattr(error.value, "code", None) for error in (ended, again)] == [code, code]
    finally:
        signal.signal(number, before)


def test_a_block_within_another_leaves_a_second_signal_the_second():
    before = signal.getsignal(signal.SIGTERM)
    stopping = Stopping()
    with interruptible(stopping):
        with interruptible(stopping):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.reason == INTERRUPTED
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_between_two_blocks_within_another_a_signal_is_heeded():
    stopping = Stopping()
    with interruptible(stopping):
        with interruptible(stopping):
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.reason == INTERRUPTED


def test_the_first_signal_tells_at_once_what_a_second_one_does():
    told = SimpleQueue()
    stopping = Stopping()
    stopping.warn = told.put
    with interruptible(stopping):
        os.kill(os.getpid(), signal.SIGINT)
        assert "A second Ctrl-C ends it at once" in told.get()
    with interruptible(stopping.with_same_deadline()):
        os.kill(os.getpid(), signal.SIGTERM)
        assert "A second SIGTERM ends it at once" in told.get()


def test_a_pause_ends_the_search_soon_and_a_later_interruption_at_once(monkeypatch):
    before = signal.getsignal(signal.SIGUSR1)
    told, stopping, now = SimpleQueue(), Stopping(), time.monotonic()
    stopping.warn = told.put
    with interruptible(stopping):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert (stopping.reason, stopping.stop_all()) == (PAUSED, False)
        assert "the search is pausing" in told.get()
        assert stopping.was_asked
        assert stopping.refuses_new_trials()
        monkeypatch.setattr(time, "monotonic", lambda: now + 100)  # a trial does not save itself
        assert stopping.stop_all()
    assert signal.getsignal(signal.SIGUSR1) is before
    stopping.interrupt()
    assert stopping.reason == INTERRUPTED
    assert told.empty()


def test_a_pause_that_is_asked_for_before_the_search_can_pause_waits_for_it():
    before = signal.getsignal(signal.SIGUSR1)
    try:
        held = hold_pause()
        stopping = Stopping()
        with interruptible(stopping):
            assert not stopping.reason
        os.kill(os.getpid(), signal.SIGUSR1)
        with interruptible(stopping):
            assert stopping.reason == PAUSED
        assert signal.getsignal(signal.SIGUSR1) is held
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_nothing_ends_a_search_without_a_reason():
    stopping = Stopping()
    assert not stopping.after_report({"epoch": 1, "seconds": 1e9})
    assert not stopping.stop_all()
    assert not stopping.refuses_new_trials()


def test_a_target_ends_it_after_the_running_epochs_and_only_a_complete_trial_counts():
    stopping = Stopping(target_loss=100.0)
    stopping.listen(row(1, "PRUNED", 90.0))
    stopping.listen(row(2, "COMPLETE", 100.5))
    assert not stopping.reason
    stopping.listen(row(3, "COMPLETE", 99.0))
    assert stopping.reason == TARGET_LOSS
    assert not stopping.stop_all()
    assert stopping.refuses_new_trials()
    assert stopping.after_report({"epoch": 1, "seconds": 1.0})


def test_a_number_of_epochs_ends_it_after_the_running_ones_however_often_a_trial_is_heard_of():
    stopping, one = Stopping(max_total_epochs=5), TrialRow(1, {}, "")
    for epochs in (1, 1, 2, 3, 3):
        stopping.listen(replace(one, reports=tuple({"epoch": n, "seconds": 0.1} for n in range(1, epochs + 1))))
    stopping.listen(replace(one, trial=2, reports=({"epoch": 1, "seconds": 0.1},)))
    assert not stopping.refuses_new_trials()
    stopping.listen(replace(one, trial=2, reports=tuple({"epoch": n, "seconds": 0.1} for n in (1, 2))))
    assert (stopping.reason, stopping.stop_all()) == (EPOCH_BUDGET, False)
    assert stopping.refuses_new_trials()
    config = SearchConfig(max_total_epochs=10)
    assert explain(EPOCH_BUDGET, config, 3).startswith(
        "The trials have trained 10 epochs, with 3 trials to go; to go on"
    )
    assert explain(EPOCH_BUDGET, config, 0) == ""


def test_a_budget_begins_no_epoch_that_it_cannot_end(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stopping = Stopping(time_budget=100.0)
    now[0] += 60  # 40 left, 5 of them set aside
    assert not stopping.after_report({"seconds": 10.0})
    assert stopping.after_report({"seconds": 30.0})  # with a margin of a quarter 37.5 would be needed
    assert stopping.refuses_new_trials()  # its first epoch may be as long as the longest
    assert stopping.reason == TIME_BUDGET
    assert not stopping.stop_all()
    now[0] += 36
    assert stopping.stop_all()


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def confirming(trainings, slots, budget=4000.0, epochs=10):
    """The stopping of a search that trains something anew afterwards, and what it tells."""
    stopping, told = Stopping(time_budget=budget), []
    stopping.follow_up, stopping.slots, stopping.warn = Trainings(trainings, epochs), slots, told.append
    return stopping, told


@pytest.mark.parametrize(("trainings", "slots", "rounds"), [(2, 8, 1), (8, 8, 1), (9, 8, 2), (3, 1, 3)])
def test_a_budget_keeps_time_for_what_follows_in_whole_rounds(clock, trainings, slots, rounds):
    stopping, told = confirming(trainings, slots, budget=6000.0)
    evaluated = min(trainings, slots)
    needed = rounds * (10 * 60 + evaluated * 5) * 1.25 + 2 * 5 * 1.25 + 8  # a quarter more than measured
    clock[0] += 6000 - needed - 1.25 * 60 - 1
    assert not stopping.after_report({"seconds": 60.0, "evaluation_seconds": 5.0})
    clock[0] += 2
    assert stopping.after_report({"seconds": 60.0})
    assert not told
    renewed = stopping.with_same_deadline()
    renewed.follow_up = Trainings(trainings)  # their evaluations
    assert not renewed.after_report({"seconds": 60.0})  # what it was kept for
    assert renewed.closing_seconds < stopping.closing_seconds - rounds * 10 * 60


def test_no_more_than_half_of_the_budget_is_kept_and_what_does_not_fit_is_told_at_once(clock):
    stopping, told = confirming(trainings=6, slots=2)
    assert not stopping.after_report({"seconds": 60.0})
    assert stopping.closing_seconds == 8 + 2 * 750  # of 3 rounds of 10 epochs, a quarter longer than measured
    (line,) = told
    assert "a training may take 750 s, and the half of the budget that is kept for them has room for 4 of 6." in line
    assert "--time-budget 75m" in line
    stopping.after_report({"seconds": 61.0})
    assert len(told) == 1
    stopping.after_report({"seconds": 300.0})
    assert "has room for none.\n" in told[1]
    assert stopping.closing_seconds == 8  # a part of a training confirms nothing
    enough, silent = confirming(trainings=6, slots=2, budget=75 * 60.0)
    enough.after_report({"seconds": 60.0})
    assert not silent


def test_the_start_of_the_workers_is_kept_time_for_too_as_long_as_it_took_before(clock):
    stopping, told = confirming(trainings=2, slots=8)
    stopping.begin()
    clock[0] += 100
    stopping.after_report({"seconds": 60.0})
    stopping.after_report({"seconds": 50.0})
    assert stopping.closing_seconds == 8 + 1.25 * (10 * 60 + 40)
    assert not told
    renewed = stopping.with_same_deadline()
    renewed.begin()
    renewed.follow_up = Trainings(2)
    clock[0] += 100
    assert not renewed.after_report({"seconds": 60.0})
    assert renewed.closing_seconds == 8
    little, told = confirming(trainings=1, slots=1, budget=1550.0)
    little.begin()
    clock[0] += 100
    little.after_report({"seconds": 60.0})
    assert "has room for none" in told[0]


def test_a_resumed_search_knows_from_its_record_what_to_keep(clock):
    stopping, _ = confirming(trainings=1, slots=1)
    stopping.listen(row(0, "COMPLETE", 100.0))
    assert stopping.closing_seconds == 8 + 1.25 * 10 * row(0, "COMPLETE", 100.0).reports[0]["seconds"]


def test_the_first_reason_stays_but_for_an_interruption():
    stopping = Stopping()
    stopping.request(TARGET_LOSS)
    stopping.request(TIME_BUDGET)
    assert stopping.reason == TARGET_LOSS
    assert not stopping.stop_all()
    stopping.request(INTERRUPTED, at_once=True)
    stopping.request(TARGET_LOSS)
    assert stopping.reason == INTERRUPTED
    assert stopping.stop_all()


def test_a_record_that_cannot_be_written_ends_it_at_once_with_the_first_error():
    stopping = Stopping()
    stopping.fail("No space left on device")
    stopping.fail("later")
    assert stopping.stop_all()
    assert stopping.error == "No space left on device"


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGUSR1, PausedAtStart)], ids=["end", "pause"]
)
def test_a_signal_while_ray_starts_is_heeded_once_it_is_up(number, error, tmp_path, tiny, monkeypatch):
    happened = []

    @contextlib.contextmanager
    def ray(*_):
        os.kill(os.getpid(), number)
        happened.append("up")
        yield None
        happened.append("never used")

    monkeypatch.setattr(search_start, "running_ray", ray)
    monkeypatch.setattr(search_start, "load_images", lambda *_: tiny)
    before = signal.getsignal(number)
    with pytest.raises(error, match="nothing was started") as raised:
        tuning.run_search(SearchConfig(study_name="s", results_dir=tmp_path))
    assert raised.type is error
    assert happened == ["up"]
    assert signal.getsignal(number) is before
    assert not list(tmp_path.iterdir())


def test_a_pause_that_was_asked_for_before_the_start_starts_no_ray(tmp_path, tiny, monkeypatch):
    before = signal.getsignal(signal.SIGUSR1)
    try:
        hold_pause()
        os.kill(os.getpid(), signal.SIGUSR1)
        monkeypatch.setattr(search_start, "running_ray", lambda *_: pytest.fail("started"))
        monkeypatch.setattr(search_start, "load_images", lambda *_: tiny)
        with pytest.raises(PausedAtStart):
            tuning.run_search(SearchConfig(study_name="s", results_dir=tmp_path))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not list(tmp_path.iterdir())


def test_sigterm_that_ray_heeds_as_it_starts_is_an_interruption_too(tmp_path, tiny, monkeypatch):
    def ray(*_):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(search_start, "running_ray", ray)
    monkeypatch.setattr(search_start, "load_images", lambda *_: tiny)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt, match="nothing was started"):
            tuning.run_search(SearchConfig(study_name="s", results_dir=tmp_path))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


def test_a_handler_that_was_put_in_the_place_of_this_one_stays():
    others = signal.getsignal(signal.SIGTERM)
    try:
        with interruptible(Stopping()):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, others)


@pytest.fixture
def without_ray(tiny, monkeypatch):
    """Searches that neither start Ray nor read a data set; they have three slots."""
    monkeypatch.setattr(search_start, "running_ray", lambda *_: contextlib.nullcontext(RunningRay()))
    there = contextlib.nullcontext(Slots(count=3, cpus=1, gpus=0))
    monkeypatch.setattr(search_start, "requested_slots", lambda *_: there)
    monkeypatch.setattr(search_start, "load_images", lambda *_: tiny)


@pytest.mark.parametrize(("confirm", "kept"), [(2, Trainings(3 * 4, 7)), (0, Trainings())])
def test_a_search_keeps_time_for_all_the_trainings_that_confirm_it(without_ray, tmp_path, monkeypatch, confirm, kept):
    seen = []

    def train(search):
        seen.append((search.stopping.follow_up, search.stopping.slots))
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "train_trials", train)
    config = SearchConfig(
        study_name="s",
        results_dir=tmp_path,
        trial=TrialConfig(max_epochs=7),
        time_budget="1h",
        confirm=confirm,
        confirm_seeds=4,
    )
    with pytest.raises(KeyboardInterrupt):
        tuning.run_search(config)
    assert seen == [(kept, 3 if confirm else 1)]  # the reference is confirmed too


@pytest.mark.parametrize("way", [KeyboardInterrupt, SystemExit])  # of Ctrl-C; of SIGTERM, which Ray handles
def test_a_signal_while_no_trial_runs_is_noted_in_the_record(way, without_ray, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise way

    monkeypatch.setattr(tuning, "train_trials", interrupted)
    with pytest.raises(way):
        tuning.run_search(SearchConfig(study_name="s", results_dir=tmp_path))
    metadata = read_json(tmp_path / "s" / "study.json")
    assert metadata["status"] == INTERRUPTED
    assert metadata["runs"][0]["ended"]
    assert f"--resume {tmp_path / 's'}" in capsys.readouterr().out
