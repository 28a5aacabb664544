"""A view in the background: whatever it does, the search goes on."""

import threading

import pytest

from tests.view_servers import SECONDS, Warnings, trial
from vae_tune.views.live import close_views
from vae_tune.views.live.background_thread import BackgroundView


class Recorder:
    """A view that notes what it is shown; ``hook`` may raise or wait."""

    def __init__(self, hook=lambda row: None):
        self.hook = hook
        self.shown = []
        self.pictures = {}
        self.status = None

    def show(self, row, draw):
        self.hook(row)
        self.shown.append(row)
        self.pictures[row.trial] = draw

    def flush(self):
        pass

    def close(self, status):
        self.status = status

    @property
    def numbers(self):
        return [row.trial for row in self.shown]


@pytest.fixture
def warnings():
    return Warnings()


class Gate:
    """Lets a view's thread wait in the middle of what it does, until the test says go on."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, row=None):
        self.reached.set()
        assert self.opened.wait(SECONDS)


def test_every_trial_is_shown_and_the_view_is_closed_with_the_searchs_status(warnings):
    view = Recorder()
    background = BackgroundView("view", lambda: view, warnings)
    rows = [trial(0), trial(0, 3.0), trial(1, 2.0), trial(0, 3.0, 1.0)]
    for row in rows:
        background.put(row)
    close_views([background], "complete")
    assert {row.trial: row for row in view.shown} == {0: rows[3], 1: rows[2]}
    assert view.status == "complete"
    assert not warnings.lines


def test_a_view_that_hangs_keeps_nobody_waiting_and_then_gets_the_newest_of_each_trial(warnings):
    gate = Gate()
    view = Recorder(gate)
    background = BackgroundView("view", lambda: view, warnings)
    background.put(trial(0))
    assert gate.reached.wait(SECONDS)
    for epoch in range(1, 101):
        background.put(trial(0, *[9.0] * epoch, max_epochs=200))
        background.put(trial(1, *[9.0] * epoch, max_epochs=200))
    gate.opened.set()
    close_views([background], "complete")
    assert [(row.trial, row.epochs) for row in view.shown] == [(0, 0), (0, 100), (1, 100)]


def test_a_view_that_never_comes_back_is_left_behind_with_one_warning(warnings):
    gate = Gate()
    background = BackgroundView("visdom at X", lambda: Recorder(gate), warnings)
    background.put(trial(0))
    assert gate.reached.wait(SECONDS)
    close_views([background], "complete", patience_seconds=0)
    assert len(warnings.lines) == 1
    assert warnings.lines[0].startswith("visdom at X: no answer. Training continues")
    gate.opened.set()


def test_a_view_that_hangs_is_told_of_while_the_search_runs(warnings):
    gate = Gate()
    background = BackgroundView("view", lambda: Recorder(gate), warnings, stuck_seconds=0)
    background.put(trial(0))
    assert gate.reached.wait(SECONDS)
    background.put(trial(1))
    background.put(trial(2))
    gate.opened.set()
    close_views([background], "complete")
    assert warnings.lines == [warnings.first()]
    assert "no answer for 0 s" in warnings.first()


def test_a_view_that_is_slow_but_moves_gets_all_its_trials_at_the_end(warnings):
    turns = threading.Semaphore(0)
    view = Recorder(lambda row: turns.acquire(timeout=SECONDS))
    background = BackgroundView("view", lambda: view, warnings)
    for number in range(5):
        background.put(trial(number))
    ending = threading.Thread(target=close_views, args=([background], "complete"))
    ending.start()
    for _ in range(5):
        turns.release()
    ending.join(SECONDS)
    assert view.numbers == [0, 1, 2, 3, 4]
    assert view.status == "complete"


def test_a_view_that_is_down_at_the_start_gets_everything_once_it_is_up(warnings):
    view, up = Recorder(), threading.Event()

    def connect():
        if not up.is_set():
            raise ConnectionRefusedError(111, "Connection refused")
        return view

    background = BackgroundView("MLflow at X", connect, warnings, retry_seconds=0)
    background.put(trial(0, 2.0, 1.0))
    assert warnings.first().startswith("MLflow at X: Connection refused. Training continues")
    background.put(trial(1, 2.0))
    up.set()
    close_views([background], "complete")
    assert sorted(view.numbers) == [0, 1]
    assert len(warnings.lines) == 1


def test_a_view_that_was_away_is_shown_every_trial_again_by_a_new_connection(warnings):
    views = []

    def connect():
        broken = not views
        views.append(Recorder(lambda row: 1 / 0 if broken and row.trial == 2 else None))
        return views[-1]

    background = BackgroundView("view", connect, warnings, retry_seconds=0)
    for number in range(4):
        background.put(trial(number))
    warnings.first()
    close_views([background], "complete")
    assert views[-1].numbers == [0, 1, 3, 2]
    assert views[-1].status == "complete"
    assert "division by zero" in warnings.first()
    assert len(warnings.lines) == 1


def test_a_trial_that_a_view_cannot_take_keeps_no_other_from_being_shown(warnings):
    views = []

    def refuse(row):
        if row.trial == 0:
            raise ValueError("too long")

    def connect():
        views.append(Recorder(refuse))
        return views[-1]

    background = BackgroundView("view", connect, warnings, retry_seconds=0)
    for number in range(3):
        background.put(trial(number))
    warnings.first()
    close_views([background], "complete")
    assert sorted(views[-1].numbers) == [1, 2]
    assert views[-1].status == "complete"
    assert len(warnings.lines) == 1


def test_what_breaks_at_the_end_is_told_too(warnings):
    class Breaking(Recorder):
        def close(self, status):
            raise RuntimeError("disk full")

    background = BackgroundView("view", Breaking, warnings)
    background.put(trial(0))
    close_views([background], "complete")
    assert "disk full" in warnings.lines[0]


def test_a_view_that_is_far_behind_gets_no_more_pictures(warnings):
    gate = Gate()
    view = Recorder(gate)
    background = BackgroundView("view", lambda: view, warnings)
    background.put(trial(0))
    assert gate.reached.wait(SECONDS)
    for number in range(1, 100):
        background.put(trial(number), lambda: None)
    gate.opened.set()
    close_views([background], "complete")
    assert len(view.shown) == 100
    assert sum(draw is not None for draw in view.pictures.values()) == 16


def test_the_warning_names_what_lies_at_the_bottom_of_wrapped_errors(warnings):
    def connect():
        try:
            try:
                raise ConnectionRefusedError(111, "Connection refused")
            except OSError:
                raise RuntimeError("Max retries exceeded") from ValueError("as urllib3 does it")
        except RuntimeError as error:
            raise ValueError("API request failed") from error

    background = BackgroundView("view", connect, warnings)
    background.put(trial(0))
    assert "view: Connection refused." in warnings.first()
    close_views([background], "complete")
