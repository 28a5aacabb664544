"""The report in a real Chromium, without a network."""

import json
from pathlib import Path

import pytest

from tests.browser import browser, find_chromium
from tests.studies import hand_made, make_study
from vae_tune import TrialConfig, load_study
from vae_tune.config.space import load_space
from vae_tune.views.report.page import write_report

TRIALS = 60
EVIL = "<script>document.title='evil'</script>"


class OpenReport:
    """A page in the browser, with its requests and its console messages."""

    def __init__(self, chromium, uri, **options):
        self.page = chromium.new_page(**options)
        self.requests, self.problems = [], []
        self.page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.route("**/*", self._request)
        self.page.goto(uri)
        self.page.locator("#count:not(:empty)").wait_for()  # the table is filled last

    def _request(self, route):
        self.requests.append(route.request.url)
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    def draw_all(self):
        """Bring every plot into view, and return how many are drawn."""
        for card in self.page.locator("[data-card]").all():
            card.scroll_into_view_if_needed()
            card.locator(".main-svg").first.wait_for()
        return self.page.locator("[data-card] .plotly").count()

    def color(self, selector, attribute):
        return self.page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{attribute}")

    def column(self, name):
        """The cells of a column of the table, as they are shown."""
        heads = self.page.locator("#table thead button").all_inner_texts()
        return self.page.locator(f"#table tbody td:nth-child({heads.index(name) + 1})").all_inner_texts()


@pytest.fixture(scope="module")
def chromium():
    path, problem = find_chromium()
    if path is None:
        pytest.skip(problem)
    with browser(path) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_report(make_study(tmp_path_factory.mktemp("results") / "study", trials=TRIALS, failed=0.2)).as_uri()


@pytest.fixture(scope="module")
def report(chromium, uri):
    """The report on a desk, in light colors, with all of its plots drawn."""
    report = OpenReport(chromium, uri, viewport={"width": 1280, "height": 900}, color_scheme="light")
    report.plots = report.draw_all()
    yield report
    report.page.close()


def test_every_plot_is_drawn_without_a_complaint_or_a_request(report, uri):
    assert report.plots == report.page.locator("[data-card]").count() >= 13
    assert report.requests == [uri]
    assert report.problems == []


def test_a_figure_that_fails_stops_neither_the_others_nor_the_table(chromium, uri, tmp_path):
    page = Path(uri.removeprefix("file://")).read_text()
    opening = '<script type="application/json" id="data">'
    begin = page.index(opening) + len(opening)
    end = page.index("</script>", begin)
    data = json.loads(page[begin:end])
    next(iter(data["cards"].values()))[0]["figure"]["data"] = None
    (tmp_path / "broken.html").write_text(page[:begin] + json.dumps(data).replace("<", "\\u003c") + page[end:])
    window = {"width": 1280, "height": 6000}  # all figures are in the first view
    broken = OpenReport(chromium, (tmp_path / "broken.html").as_uri(), viewport=window)
    for key, views in list(data["cards"].items())[1:]:
        if views:
            broken.page.locator(f"[data-card={key}] .main-svg").first.wait_for()
    assert len(broken.problems) == 1
    assert broken.page.locator("#table tbody tr").count() == TRIALS
    broken.page.close()


def test_the_table_sorts_by_any_column_and_back(report):
    assert report.column("trial") == [str(number) for number in range(TRIALS)]
    assert report.page.locator("th[aria-sort=ascending]").inner_text().strip() == "trial"
    head = report.page.locator("#table thead button", has_text="val_loss").first
    head.click()
    losses = [float(loss) for loss in report.column("val_loss") if loss]
    assert losses == sorted(losses)
    head.click()
    assert [float(loss) for loss in report.column("val_loss") if loss] == losses[::-1]
    assert report.page.locator("th[aria-sort=descending]").inner_text().strip() == "val_loss"


def test_the_table_shows_what_the_filter_lets_pass(report):
    report.page.fill("#filter", "pruned latent_size>=20 latent_size<40")
    assert set(report.column("state")) == {"PRUNED"}
    sizes = [int(size) for size in report.column("latent_size")]
    assert 20 <= min(sizes) <= max(sizes) < 40
    shown = len(report.column("trial"))
    assert report.page.inner_text("#count") == f"{shown} of {TRIALS} trials"
    report.page.locator("#states label", has_text="PRUNED").locator("input").uncheck()
    assert report.column("trial") == []
    report.page.locator("#states label", has_text="PRUNED").locator("input").check()
    report.page.fill("#filter", "")
    assert len(report.column("trial")) == TRIALS


def test_a_trial_that_is_chosen_in_the_table_shows_in_the_plots(report):
    curves = "document.querySelector('[data-card=learning_curves] .plot').data.filter(t => t.name === 'chosen')"
    row = report.page.locator("#table tbody tr", has_text="COMPLETE").first
    row.click()
    assert report.page.evaluate(f"{curves}.map(t => t.x.length)") == [9]
    assert "COMPLETE" in report.page.inner_text("#chosen")
    report.page.click("#chosen button")
    assert report.page.evaluate(f"{curves}.length") == 0


CHOSEN = """() => [...document.querySelectorAll('[data-card]')].map((node) => {
    const place = node.querySelector('.plot');
    const trace = place?.data?.find((trace) => trace.name === 'chosen');
    const { xaxis, yaxis } = place?._fullLayout ?? {};
    const inside = (axis, value) => {
        const at = axis.d2p(value);
        return at >= -0.5 && at <= axis._length + 0.5;
    };
    const inView = trace && (trace.type === 'bar' || (inside(xaxis, trace.x.at(-1)) && inside(yaxis, trace.y.at(-1))));
    const view = [xaxis, yaxis].map((axis) => axis && !axis.autorange && axis.range);
    return [node.dataset.card, Boolean(trace), inView, JSON.stringify(view)];
})"""
"""Of each plot: its card, whether the chosen trial is in it and in view, and the view where it is not plotly's own."""
NOT_OF_TRIALS = {"rung_survival", "rung_correlation", "importance"}


@pytest.mark.parametrize("who", ["winner", "reference", "worst", "failed"])
def test_a_trial_that_is_chosen_is_seen_in_every_plot_and_the_views_come_back(report, uri, who):
    trials = load_study(Path(uri.removeprefix("file://")).parent).trials
    pruned, failed = trials[trials.state == "PRUNED"], trials[(trials.state == "FAIL") & trials.val_loss.notna()]
    best = trials[trials.state == "COMPLETE"].val_loss.idxmin()
    number = {"winner": best, "reference": 0, "worst": pruned.val_loss.idxmax(), "failed": failed.index[0]}[who]
    before = {card: view for card, _, _, view in report.page.evaluate(CHOSEN)}
    report.page.locator("#table tbody tr", has=report.page.locator(f"td:first-child:text-is('{number}')")).click()
    found = report.page.evaluate(CHOSEN)
    assert {card for card, there, _, _ in found if not there} == NOT_OF_TRIALS
    assert [card for card, there, inside, _ in found if there and not inside] == []
    grown = {card for card, _, _, view in found if view != before[card]}
    assert bool(grown) == (who in ("worst", "failed"))
    report.page.click("#chosen button")
    assert {card: view for card, _, _, view in report.page.evaluate(CHOSEN)} == before


def test_a_click_on_a_point_chooses_its_trial(report):
    place = report.page.locator("[data-card=pareto] .plot")
    place.scroll_into_view_if_needed()
    x, y, trial = place.evaluate(
        """(place) => {
            const trace = place.data.find((trace) => trace.name === 'winner');
            const { xaxis, yaxis } = place._fullLayout;
            const { left, top } = place.getBoundingClientRect();
            const at = (axis, value) => axis._offset + axis.l2p(axis.d2l(value));
            return [left + at(xaxis, trace.x[0]), top + at(yaxis, trace.y[0]), trace.customdata[0]];
        }"""
    )
    report.page.mouse.move(x, y)
    report.page.mouse.click(x, y)
    assert report.page.inner_text("#chosen").startswith(f"trial {trial} ")
    report.page.click("#chosen button")


def test_a_workers_name_is_shown_as_it_is(chromium, tmp_path):
    name = "<b>host</b> &lt; @best"
    study = hand_made(tmp_path / "s", {"losses": (110, 100), "node": name}, {"losses": (110, 90), "node": "@best"})
    report = OpenReport(chromium, write_report(study.folder).as_uri())
    card = report.page.locator("[data-card=timeline]")
    card.scroll_into_view_if_needed()
    card.locator(".ytick text").first.wait_for()
    assert sorted(card.locator(".ytick text").all_text_contents()) == sorted([f"{name} 1", "@best 1"])
    report.page.close()


def test_another_view_of_a_plot_is_drawn_on_demand(report):
    card = report.page.locator("[data-card=best_so_far]")
    card.locator("button", has_text="time").click()
    assert "seconds of searching" in card.locator(".plot").inner_text()


def test_the_plots_follow_the_theme(report):
    light = report.color("body", "backgroundColor"), report.color("[data-card] .xtick text", "fill")
    report.page.emulate_media(color_scheme="dark")
    report.page.wait_for_function(
        "before => getComputedStyle(document.querySelector('[data-card] .xtick text')).fill !== before", arg=light[1]
    )
    assert report.color("body", "backgroundColor") != light[0]


def test_a_phone_shows_it_without_scrolling_sideways_whatever_was_searched(chromium, tmp_path):
    wide = load_space(Path(__file__).parents[2] / "spaces" / "wide.yaml", TrialConfig())
    uri = write_report(make_study(tmp_path / "wide", space=wide)).as_uri()
    report = OpenReport(chromium, uri, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    report.draw_all()
    assert report.page.evaluate("document.documentElement.scrollWidth") == 390
    assert report.page.locator(".modebar-btn").count() == 0  # it would cover the legends
    assert report.problems == []
    report.page.close()


def test_nothing_in_a_study_runs_as_a_script(chromium, tmp_path):
    folder = make_study(tmp_path / "<img src=x onerror=document.title='evil'>", trials=12, failed=0.4)
    table = folder / "trials.csv"
    table.write_text(table.read_text().replace("diverged:", EVIL).replace("RuntimeError:", EVIL))
    report = OpenReport(chromium, write_report(folder).as_uri())
    assert report.page.title() == f"{folder.name} · vae_tune"
    assert EVIL in report.page.inner_text("#table")
    assert report.problems == []
    report.page.close()
