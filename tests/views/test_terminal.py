import io
import queue
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import vae_tune
from tests.record.test_study_record import row
from tests.view_servers import SECONDS
from vae_tune.record.trials import TrialRow
from vae_tune.views.console import make_console
from vae_tune.views.end_summary import print_summary
from vae_tune.views.formatting import format_duration
from vae_tune.views.terminal import PlainView, TerminalView, make_view

VALUES = {"latent_size": 20, "hidden_width": 400, "learning_rate": 0.00123456}


def trial(number, state, *losses, reason=""):
    return replace(row(number, state, *losses), values=VALUES, reason=reason)


def console(*, terminal=False):
    return make_console(file=io.StringIO(), width=100, height=24, force_terminal=terminal, color_system=None)


def text_of(target):
    return target.file.getvalue()


def test_a_pipe_gets_one_line_per_finished_trial():
    target = console()
    with make_view(target) as view:
        assert isinstance(view, PlainView)
        view.begin(3, 2, [])
        for change in (
            trial(0, "RUNNING"),
            trial(0, "RUNNING", 120.0),
            trial(0, "COMPLETE", 120.0, 110.0),
            trial(1, "PRUNED", 150.0),
            trial(2, "FAIL", reason="diverged: [loss] nan"),
        ):
            view(change)
    lines = text_of(target).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("[1/3] trial 0 COMPLETE epoch  2   110.00 nats  latent_size=20 hidden_width=400")
    assert lines[0].endswith("best so far")
    assert "learning_rate=0.00123" in lines[0]
    assert "best so far" not in lines[1]
    assert lines[2].endswith("diverged: [loss] nan")


def test_a_terminal_shows_progress_counts_the_incumbent_and_what_runs():
    target = console(terminal=True)
    view = make_view(target)
    assert isinstance(view, TerminalView)
    view.begin(50, 10, [])
    view(trial(0, "COMPLETE", *([111.5] * 10)))
    view(trial(1, "PRUNED", 150.0))
    view(trial(2, "RUNNING", 130.0, 125.5))
    view(trial(3, "RUNNING"))
    target.print(view._draw())
    shown = text_of(target)
    for expected in (
        "2/50",
        "left",
        "complete 1",
        "pruned 1",
        "failed 0",
        "1,000 images/s",
        "best 111.50 nats at epoch 10",
        "trial 0: latent_size=20",
        "trial 2",
        "epoch 2/10",
        "125.50",
        "trial 3",
        "epoch 0/10",
    ):
        assert expected in shown


def test_a_change_of_one_trial_makes_a_view_read_no_other(monkeypatch):
    target = console()
    view = make_view(target)
    view.begin(101, 2, [trial(number, "COMPLETE", 130.0, 120.0) for number in range(100)])
    read = []
    epochs = TrialRow.epochs
    monkeypatch.setattr(TrialRow, "epochs", property(lambda self: read.append(self.trial) or epochs.fget(self)))
    view(trial(100, "RUNNING", 110.0))
    view(trial(100, "COMPLETE", 110.0, 100.0))
    assert text_of(target).splitlines()[-1].endswith("best so far")
    assert set(read) == {100}


class Output(io.StringIO):
    """A pipe whose lines a test can wait for."""

    def __init__(self):
        super().__init__()
        self.lines = queue.Queue()

    def write(self, text):
        self.lines.put(text)
        return super().write(text)

    def wait_for(self, text):
        while text not in (line := self.lines.get(timeout=SECONDS)):
            pass
        return line.strip()


def test_a_silence_in_a_pipe_ends_with_a_line_on_the_work_in_progress():
    output = Output()
    with PlainView(make_console(file=output, width=40), silence_seconds=0.01) as view:
        view.say("Reading mnist and starting Ray ...")
        assert output.wait_for("... 0s") == "Reading mnist and starting Ray ... 0s"
        view.begin(12, 10, [trial(0, "COMPLETE", *([111.5] * 10))])
        for number in range(1, 7):
            view(trial(number, "RUNNING", 130.0))
        view(trial(2, "RUNNING", 130.0, 120.0))
        assert output.wait_for("trial 2 at") == (
            "[1/12] training trial 4 at epoch 1/10, trial 5 at epoch 1/10, trial 6 at epoch 1/10, "
            "trial 2 at epoch 2/10, 2 more; best 111.50 nats (trial 0)"
        )
        view.say("Evaluating the winner on the test images ...")
        output.wait_for("images ... 0s")


def test_no_status_line_follows_the_summary(tmp_path):
    output = Output()
    with PlainView(make_console(file=output), silence_seconds=0.01) as view:
        view.begin(2, 1, [])
        view(trial(0, "RUNNING", 130.0))
        assert output.wait_for("training trial 0").endswith("at epoch 1/1")  # the best has a trial that finished
        view.end([trial(0, "RUNNING")], None, tmp_path)
        assert "status lines" not in {thread.name for thread in threading.enumerate()}
        assert output.getvalue().rstrip().endswith(str(tmp_path))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_warning_stays_whatever_is_said_afterwards(terminal):
    target = console(terminal=terminal)
    with make_view(target) as view:
        view.warn("visdom at [X]: Connection refused.")
        view.say("Evaluating the winner ...")
    assert text_of(target).count("visdom at [X]: Connection refused.") == 1


def test_more_running_trials_than_lines_are_counted():
    target = console(terminal=True)
    view = TerminalView(target)
    view.begin(200, 10, [])
    for number in range(100):
        view(trial(number, "RUNNING", 130.0))
    target.print(view._draw())
    assert "and 84 more" in text_of(target)
    assert len(text_of(target).splitlines()) <= 24


METRICS = {
    "kind": "grey",
    "unit": "nats per image",
    "rule": "lowest val_loss at max_epochs=2",
    "winner": {
        "trial": 1,
        "hyperparameters": VALUES,
        "validation": {"negative_elbo": 109.0},
        "test": {"negative_elbo": 108.0, "reconstruction": 83.0, "kl": 25.0},
    },
    "reference": {
        "validation": {"negative_elbo": 111.0},
        "test": {"negative_elbo": 110.5, "reconstruction": 84.5, "kl": 26.0},
    },
    "improvement": {"validation": 2.0, "test": 2.5},
}


def test_the_summary_ranks_ten_trials_and_compares_the_winner_with_the_reference(tmp_path):
    target = console()
    rows = [trial(number, "COMPLETE", 130.0, 120.0 - number) for number in range(12)]
    print_summary(target, rows, 12, 2, METRICS, tmp_path)
    shown = text_of(target)
    assert shown.count("COMPLETE") == 10
    assert "12 trained to epoch 2, 0 pruned, 0 failed; 24 epochs instead of 24." in shown
    assert "Winner: trial 1" in shown
    for number in ("110.50", "108.00", "2.50", "83.00", "nats per image"):
        assert number in shown
    assert str(tmp_path) in shown.replace("\n", "")
    assert "--resume" not in shown


def test_who_won_and_where_the_record_is_are_lines_to_search_for_however_narrow_the_terminal(tmp_path):
    target = make_console(file=io.StringIO(), width=40)
    print_summary(target, [trial(1, "COMPLETE", 109.0)], 1, 2, METRICS, tmp_path)
    lines = text_of(target).splitlines()
    assert [line for line in lines if line.startswith("Winner: trial 1") and line.endswith("max_epochs=2.")]
    assert f"Record: {tmp_path}   (best/, trials.csv, epochs.csv, optuna.journal, study.json)" in lines


def test_the_option_of_a_model_breaks_at_its_dot_in_the_table_of_the_best_trials(tmp_path):
    target = console()
    print_summary(target, [replace(trial(1, "COMPLETE", 109.0), values={"model.width": 8})], 1, 2, METRICS, tmp_path)
    assert re.search(r" model\. .*\n.* width ", text_of(target))


def test_an_unfinished_search_says_how_to_go_on(tmp_path):
    target = console()
    print_summary(target, [trial(0, "RUNNING", 130.0)], 12, 2, None, tmp_path, resume=f"search.py --resume {tmp_path}")
    assert f"--resume {tmp_path}" in text_of(target)


def test_names_of_users_are_shown_as_they_are(tmp_path):
    name = "[red]one :heart:"
    target = console()
    won = METRICS["winner"] | {"hyperparameters": {"encoder_activation": name}}
    rows = [replace(trial(1, "COMPLETE", 109.0), values={name: name})]
    print_summary(target, rows, 1, 1, METRICS | {"winner": won}, tmp_path / name)
    shown = text_of(target)
    assert shown.count(name) == 6  # of the table's head and cell, the winner, the record, two commands
    view = TerminalView(target)
    view.begin(2, 1, [])
    view(replace(trial(0, "RUNNING"), values={"encoder_activation": name}))
    target.print(view._draw())
    assert f"encoder_activation={name}" in text_of(target)


def test_every_console_of_the_package_shows_texts_as_they_are():
    package = Path(vae_tune.__file__).parent
    made = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"\b(Console\(|rich\.print|from_markup)", path.read_text())
    ]
    assert made == ["console.py"]


def test_advice_ends_the_summary(tmp_path):
    target = console()
    print_summary(target, [trial(0, "COMPLETE", 130.0)], 1, 1, None, tmp_path, ["No range is [too] narrow."])
    assert "No range is [too] narrow." in text_of(target).splitlines()


def test_a_search_without_any_report_says_that_there_is_no_winner(tmp_path):
    target = console()
    print_summary(target, [trial(0, "FAIL", reason="x")], 1, 2, None, tmp_path)
    assert "There is no winner" in text_of(target)
    assert "The best of" not in text_of(target)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (61, "1m01s"), (3725, "1h02m")])
def test_a_duration_reads_as_people_say_it(seconds, text):
    assert format_duration(seconds) == text
