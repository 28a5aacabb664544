"""The preparation of images is shown: a bar in a terminal, a line every few seconds elsewhere."""

import io

from vae_tune.views import preparation
from vae_tune.views.console import make_console
from vae_tune.views.preparation import preparation_lines, shown_preparation
from vae_tune.views.terminal import PlainView, TerminalView


def terminal(file):
    return make_console(file=file, force_terminal=True, width=100, legacy_windows=False)


def test_a_terminal_gets_a_bar_and_a_pipe_gets_none():
    shown, piped = io.StringIO(), io.StringIO()
    for console in (terminal(shown), make_console(file=piped)):
        with shown_preparation(console) as progress:
            progress(500, 4000)
    assert "preparing" in shown.getvalue()
    assert "500/4000" in shown.getvalue()
    assert piped.getvalue() == ""


def test_nothing_is_shown_where_nothing_is_prepared():
    shown = io.StringIO()
    with shown_preparation(terminal(shown)):
        pass
    assert "preparing" not in shown.getvalue()


def test_lines_come_every_five_seconds(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(preparation.time, "monotonic", lambda: now[0])
    progress = preparation_lines(said.append)
    for done, now[0] in ((1, 100.1), (1000, 104.9), (1200, 105.1), (1300, 109), (3000, 110.2), (4000, 110.3)):
        progress(done, 4000)
    assert said == ["Prepared 1,200 of 4,000 pictures", "Prepared 3,000 of 4,000 pictures"]


def test_a_search_shows_a_bar_until_all_are_prepared():
    file = io.StringIO()
    view = TerminalView(terminal(file))

    def drawn():
        file.truncate(0)
        view._console.print(view._draw())
        return file.getvalue()

    assert "pictures" not in drawn()
    view.prepare(1500, 4000)
    assert "pictures" in drawn()
    assert "1,500/4,000" in drawn()
    view.prepare(4000, 4000)
    assert "4,000" not in drawn()
    view.prepare(1, 4000)
    view.begin(3, 1, [])
    assert "pictures" not in drawn()


def test_a_search_in_a_pipe_prints_lines(monkeypatch):
    now, file = [100.0], io.StringIO()
    monkeypatch.setattr(preparation.time, "monotonic", lambda: now[0])
    view = PlainView(make_console(file=file))
    view.prepare(1, 4000)
    now[0] += 6
    view.prepare(2500, 4000)
    assert file.getvalue() == "Prepared 2,500 of 4,000 pictures\n"
