"""The figures of the report: plotly takes them, and they show what the tables say."""

import json

import plotly.graph_objects as go
import pytest
from optuna.distributions import IntDistribution

from tests.analysis.test_plots_hyperparameters import SPACE, ZERO
from tests.studies import hand_made, make_study
from tests.views.test_plots import STUDIES
from vae_tune import TrialConfig, load_study, plots
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.config.names import STATE_WORDS
from vae_tune.config.space import Space
from vae_tune.views.figures import FIGURES

DRAWINGS = [(name, 0) for name in FIGURES] + [
    ("best_so_far", 2),
    ("learning_curves", 1),
    ("slices", 2),
    ("parallel", 1),
]


def panel(name, study, number=0):
    """A panel of a figure, by its number; None where there is none."""
    return dict(enumerate(FIGURES[name].panels(study).values())).get(number)


def drawn(name, study, number=0):
    """A panel as plotly's figure."""
    return panel(name, study, number).figure()


CONDITIONS = STUDIES | {
    "other space": {
        "space": SPACE,
        "reference": TrialConfig(max_epochs=9, learning_rate=0.01, encoder_activation="tanh"),
    },
    "zero on a log range": {"space": ZERO, "trials": 20},
    "no early stopping": {"scheduler": "none", "trials": 12},
}


@pytest.fixture(scope="module", params=CONDITIONS)
def study(request, tmp_path_factory):
    return load_study(make_study(tmp_path_factory.mktemp("results") / "s", **CONDITIONS[request.param]))


def in_color(value):
    """A figure with real colors in place of their names."""
    if isinstance(value, str) and value.startswith("@"):
        return "Blues" if value == "@scale" else "#123456"
    if isinstance(value, dict):
        return {key: in_color(inner) for key, inner in value.items()}
    return [in_color(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", FIGURES)
def test_plotly_takes_every_figure_of_every_study(name, study):
    for shown in FIGURES[name].panels(study).values():
        json.dumps(shown.figure(), allow_nan=False)
        go.Figure(in_color(shown.figure()))  # refuses what it does not know


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_drawn_before_the_first_report(name, tmp_path):
    assert FIGURES[name].panels(hand_made(tmp_path / "s")) == {}


@pytest.fixture
def three(tmp_path):
    """A reference that is complete, a better trial that is complete, and a pruned one."""
    return hand_made(
        tmp_path / "s",
        {"losses": (140, 130, 120)},
        {"losses": (135, 125, 110), "started": 0.5, "values": {"latent_size": 40, "learning_rate": 0.01}},
        {"losses": (200,), "started": 4, "state": "PRUNED", "values": {"latent_size": 2, "learning_rate": 0.0001}},
    )


def trace(figure, name):
    return next(trace for trace in figure["data"] if trace["name"] == name)


def test_the_step_is_the_best_so_far(three):
    figure = drawn("best_so_far", three)
    assert trace(figure, "best so far")["y"] == [120, 110, 110]
    assert (trace(figure, "winner")["customdata"], trace(figure, "winner")["y"]) == ([1], [110])
    assert trace(figure, "pruned")["customdata"] == [2]


def test_gaps_part_the_curves_of_a_state(tmp_path):
    complete = [{"losses": (140 - number, 130, 120 - number)} for number in range(4)]
    curve = trace(drawn("learning_curves", hand_made(tmp_path / "s", *complete)), "complete")
    assert curve["customdata"] == [1, 1, 1, None, 2, 2, 2]  # 0 is the reference, 3 the winner
    assert curve["x"] == [1, 2, 3, None, 1, 2, 3]
    assert curve["y"] == [139, 130, 119, None, 138, 130, 118]


def test_a_reference_that_wins_is_drawn_once(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": (140, 130, 100)}, {"losses": (140, 130, 120)})
    for name in ("learning_curves", "pareto", "loss_parts"):
        names = [trace["name"] for trace in drawn(name, study)["data"]]
        assert names.count("winner") == 1
        assert "reference" not in names


def test_axes_begin_with_the_trials_that_were_trained_in_full(tmp_path):
    losses = [(150, 120, 100 + number) for number in range(5)]
    pruned = [{"losses": (1000 + number,), "state": "PRUNED"} for number in range(20)]
    study = hand_made(tmp_path / "s", *({"losses": each} for each in losses), *pruned)
    low, high = drawn("pareto", study)["layout"]["yaxis"]["range"]
    assert low < 100
    assert 104 < high < 110


def test_one_poor_trial_among_few_does_not_squeeze_the_others(tmp_path):
    losses = [(150, 120, last) for last in (111, 153, 107, 108, 108.5, 109)]  # an early arrival passed every rung
    study = hand_made(tmp_path / "s", *({"losses": each} for each in losses))
    low, high = drawn("pareto", study)["layout"]["yaxis"]["range"]
    assert low < 107
    assert 111 < high < 125


@pytest.mark.parametrize(("name", "number"), DRAWINGS)
def test_an_axis_is_plain_or_says_what_it_is(name, number, three):
    shown = panel(name, three, number)
    layout = shown.figure()["layout"] if shown else {}
    for axis in (layout.get("xaxis", {}), layout.get("yaxis", {})):
        assert axis.get("type") != "log" or axis["title"]["text"].endswith("(log)")


def test_the_winners_whole_curve_is_in_the_first_view(tmp_path):
    study = hand_made(tmp_path / "s", *({"losses": (300, 200, 100 + number)} for number in range(9)))
    low, high = drawn("learning_curves", study)["layout"]["yaxis"]["range"]
    assert low < 100
    assert high > 300


def test_an_axis_whose_end_holds_what_is_beyond_says_so(tmp_path):
    losses = [*range(100, 108), 300]
    study = hand_made(tmp_path / "s", *({"losses": (400, 350, loss)} for loss in losses))
    figure = drawn("parallel", study)
    assert figure["layout"]["annotations"][-1]["text"].endswith(", more")
    assert max(place for trace in figure["data"] for place in trace["y"] if place is not None) == 1


def test_trials_out_of_view_are_counted(tmp_path):
    good = [{"losses": (130, 120, 100 + number)} for number in range(8)]
    poor = [{"losses": (loss,), "state": "PRUNED"} for loss in (300, 900)]
    study = hand_made(tmp_path / "s", *good, *poor)
    assert panel("best_so_far", study).hidden() == "2 trials lie outside this view."
    assert panel("learning_curves", study).hidden() == "2 trials lie outside this view."
    assert panel("slices", study).hidden() == ""  # ticks above
    assert panel("parallel", study, 1).hidden() == ""


@pytest.mark.parametrize("name", FIGURES)
def test_figures_and_report_have_one_word_and_one_color_for_one_thing(name, tmp_path):
    study = load_study(make_study(tmp_path / "s", trials=30))
    picture = getattr(plots, f"draw_{name}")(study)
    traces = [trace for shown in FIGURES[name].panels(study).values() for trace in shown.figure()["data"]]
    words = [text.get_text() for legend in picture.legends for text in legend.get_texts()]
    assert set(words) == {trace["name"] for trace in traces} - {""}
    for trace in traces:
        if trace["name"] in STATE_WORDS.values() and (name, trace["name"]) != ("pair_grid", "complete"):
            assert (trace.get("marker") or trace["line"])["color"] == f"@{trace['name']}"


def test_numbers_that_do_not_fit_into_their_bar_are_left_out(three):
    assert drawn("rung_survival", three)["layout"]["uniformtext"] == {"mode": "hide", "minsize": 9}


def test_models_of_nearly_one_size_have_ticks_too(tmp_path):
    wide, narrow = (
        hand_made(
            tmp_path / str(width), *({"losses": (9, 8, 7), "values": {"hidden_width": each}} for each in (64, width))
        )
        for width in (1024, 66)
    )
    ticks = [drawn("pareto", study)["layout"]["xaxis"]["ticktext"] for study in (wide, narrow)]
    assert ticks[0][:3] == ["100k", "200k", "500k"]
    assert len(ticks[1]) > 2


def test_pruned_trials_are_ticks_above_a_slice(three):
    figure = drawn("slices", three)
    rug = trace(figure, "pruned")
    assert (rug["yaxis"], rug["x"], rug["y"]) == ("y2", [2], [0])
    assert figure["layout"]["xaxis"]["type"] == "log"


def test_the_cells_of_a_pair_have_the_edges_of_the_space_and_the_losses_in_rows_of_y(three):
    heat = drawn("pair_grid", three)["data"][0]
    assert (heat["x"][0], heat["x"][-1], len(heat["x"])) == (2, 64, 11)
    assert (heat["y"][0], heat["y"][-1]) == (0.0001, 0.01)
    assert heat["z"][0][0] == 200
    assert heat["z"][9][8] == 110
    assert heat["customdata"][0][0] == [1, 1]  # after one epoch, of one trial


def test_parallel_lines_go_from_the_ends_of_the_ranges_to_the_loss(three):
    figure = drawn("parallel", three)
    names = ["latent_size (log)", "hidden_width (log)", "learning_rate (log)", "val_loss"]
    assert figure["layout"]["xaxis"]["ticktext"] == names
    best = figure["data"][-1]
    assert (best["customdata"], best["x"]) == ([1, 1, 1, 1], [0, 1, 2, 3])
    assert best["y"][2] == 1  # its learning rate is the highest
    trials = {shown: set() for shown in (True, False)}
    for trace in figure["data"]:
        trials[trace.get("visible", True)] |= {*trace["customdata"]}
    assert {shown: own - {None} for shown, own in trials.items()} == {
        True: {0, 1},
        False: {2},
    }  # the page shows the pruned one where it is chosen
    assert len(drawn("parallel", three, 1)["layout"]["xaxis"]["ticktext"]) == 5  # the epochs too


def test_whole_numbers_have_no_ticks_between_them(tmp_path):
    layers = Space({"hidden_layers": IntDistribution(1, 3)})
    study = hand_made(tmp_path / "s", {"losses": [3, 2, 1]}, space=layers)
    assert drawn("slices", study)["layout"]["xaxis"]["dtick"] == 1
    texts = [label["text"] for label in drawn("parallel", study, 1)["layout"]["annotations"]]
    assert texts[:7] == ["1", "2", "3", "0", "1", "2", "3"]  # layers, then epochs


def test_failed_trials_alone_are_no_progress(tmp_path):
    assert panel("best_so_far", hand_made(tmp_path / "s", {"state": "FAIL"})) is None


def test_what_no_log_axis_has_lies_at_its_low_end_in_parallel(tmp_path):
    figure = drawn("parallel", hand_made(tmp_path / "s", {"losses": [3, 2, 1]}, space=ZERO))
    assert figure["data"][-1]["y"][:2] == [0, 0]


def test_what_a_rung_stopped_is_stacked_on_what_went_on(three):
    figure = drawn("rung_survival", three)
    assert (trace(figure, "went on")["x"], trace(figure, "went on")["y"]) == ([0], [2])
    assert (trace(figure, "pruned")["base"], trace(figure, "pruned")["y"]) == ([2], [1])
    assert (trace(figure, "complete")["x"], trace(figure, "complete")["y"]) == ([1], [2])  # they went nowhere
    assert figure["layout"]["xaxis"]["ticktext"] == ["epoch 1", "epoch 3"]
    assert [words["text"] for words in figure["layout"]["annotations"]] == ["3, 67% passed", "2"]


def test_the_time_that_trials_filled_is_that_of_the_compute_cost(three):
    hours = compute_cost(three).hours
    assert panel("timeline", three).note == f"Workers trained for {1 - hours['idle'] / hours.sum():.0%} of the time."
