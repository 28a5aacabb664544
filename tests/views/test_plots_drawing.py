"""Every figure is drawn for every study: what there is, or in words why there is nothing."""

import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_hex
from optuna.distributions import IntDistribution

from tests.analysis.test_plots_hyperparameters import SPACE, ZERO
from tests.studies import hand_made, make_study
from tests.views.test_plots import STUDIES, TABLES
from vae_tune import TrialConfig, load_study, plots
from vae_tune.config.errors import UsageError
from vae_tune.config.space import DEFAULT_SPACE, Space
from vae_tune.views.figures import FIGURES
from vae_tune.views.figures.conventions import COLORS


def drawn(name, study):
    """Draw a figure to the last glyph and return it."""
    figure = getattr(plots, f"draw_{name}")(study)
    figure.draw_without_rendering()
    return figure


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return load_study(make_study(tmp_path_factory.mktemp("results") / "s", trials=60))


def test_every_figure_has_a_table_and_a_drawing():
    assert sorted(FIGURES) == sorted(TABLES)
    assert {f"draw_{name}" for name in TABLES} <= set(plots.__all__)
    assert plots.draw_pareto.__name__ == "draw_pareto"


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_is_drawn(name, study):
    figure = drawn(name, study)
    assert figure.get_suptitle() == FIGURES[name].title
    assert FIGURES[name].missing not in texts(figure)


@pytest.mark.parametrize("condition", sorted(set(STUDIES) - {"whole"}))
@pytest.mark.parametrize("name", TABLES)
def test_no_study_is_too_poor_to_be_drawn(name, condition, tmp_path):
    study = load_study(make_study(tmp_path / "s", **STUDIES[condition]))
    figure = getattr(plots, f"draw_{name}")(study)
    if getattr(plots, name)(study).empty:
        assert texts(figure) == [FIGURES[name].missing]


def test_a_workers_name_is_no_formula(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": (110, 100), "node": "$node$"})
    labels = drawn("timeline", study).axes[0].get_yticklabels()
    assert [label.get_text().replace(r"\$", "$") for label in labels] == ["$node$ 1"]
    assert not is_math_text(labels[0].get_text())


@pytest.mark.parametrize("name", ["slices", "pair_grid", "parallel", "importance"])
def test_categories_steps_and_a_reference_outside_of_the_space_are_drawn(name, tmp_path):
    reference = TrialConfig(batch_size=512, encoder_activation="tanh", max_epochs=3)
    drawn(name, load_study(make_study(tmp_path / "s", space=SPACE, reference=reference, trials=25)))


@pytest.mark.parametrize("name", TABLES)
def test_a_reference_that_no_log_axis_has_is_drawn(name, tmp_path):
    drawn(name, load_study(make_study(tmp_path / "s", space=ZERO, trials=25)))


def test_a_reference_that_no_log_axis_has_is_named_beside_its_slice_and_low_in_parallel(tmp_path):
    study = hand_made(tmp_path / "s", *[{"losses": [3, 2, 1], "values": {"weight_decay": 0}}] * 2, space=ZERO)
    titles = [ax.get_title(loc="right") for ax in drawn("slices", study).axes]
    assert titles == ["The reference, 0.0, is not on this axis.", "The reference, 0, is not on this axis.", ""]
    reference = next(line for line in drawn("parallel", study).axes[0].lines if line.get_label() == "winner")
    assert list(reference.get_ydata())[:2] == [0] * 2


@pytest.mark.parametrize("name", ["best_so_far", "pair_grid", "parallel", "importance", "loss_parts", "pareto"])
def test_equal_losses_are_drawn(name, tmp_path):
    drawn(name, hand_made(tmp_path / "s", *[{"losses": [100, 100, 100]}] * 12))


def test_the_figures_show_the_tables(study):
    survival = plots.rung_survival(study)
    (ax,) = drawn("rung_survival", study).axes
    bars = {
        color: [bar.get_height() for bar in ax.patches if to_hex(bar.get_facecolor()) == COLORS[color].lower()]
        for color in ("scale-2", "complete", "pruned")
    }
    assert bars["scale-2"] + bars["complete"] == list(survival.reached - survival.stopped)
    assert bars["pruned"] == list(survival.stopped[:-1])
    front = plots.pareto(study)
    line = drawn("pareto", study).axes[0].lines[0]
    assert list(line.get_xdata()) == list(front.parameters[front.on_front])


def test_axes_are_logarithmic_where_the_space_is(study):
    assert [ax.get_xscale() for ax in drawn("slices", study).axes] == ["log"] * 3


@pytest.mark.parametrize(
    "space", [DEFAULT_SPACE, Space({"latent_size": IntDistribution(2, 64)})], ids=["log", "linear"]
)
@pytest.mark.parametrize("counts", [(0, 7, 12), (0, 0, 0), (1, 2, 3)])
def test_models_without_an_active_unit_are_in_view(tmp_path, counts, space):
    trials = [{"losses": [9, 8, 7 + number], "active_units": count} for number, count in enumerate(counts)]
    (ax,) = drawn("active_units", hand_made(tmp_path / "s", *trials, space=space)).axes
    dots = [tuple(point) for collection in ax.collections for point in collection.get_offsets()]
    assert {active for _, active in dots} == set(counts)
    for dot in dots:
        assert ax.get_window_extent().contains(*ax.transData.transform(dot))


def test_losses_have_their_unit(study):
    for name in ("best_so_far", "learning_curves", "slices"):
        assert drawn(name, study).axes[0].get_ylabel() == "validation loss (nats per image)"


@pytest.mark.parametrize("name", TABLES)
def test_both_drawings_have_the_same_axes(name, study):
    panels = list(FIGURES[name].panels(study).values())
    axes = [ax for ax in drawn(name, study).axes if ax.get_label() != "<colorbar>"][: len(panels)]
    for ax, panel in zip(axes, panels, strict=True):
        layout = panel.figure()["layout"]
        assert ax.get_xlabel() == layout["xaxis"]["title"]["text"]
        assert ax.get_ylabel() in ("", layout["yaxis"]["title"]["text"])
        for part, (low, high), scale in (
            (layout["xaxis"], ax.get_xlim(), ax.get_xscale()),
            (layout["yaxis"], ax.get_ylim(), ax.get_yscale()),
        ):
            assert scale == part.get("type", "linear")
            view = np.power(10.0, part["range"]) if scale == "log" else part["range"]
            assert view == pytest.approx([low, high])


def test_models_of_nearly_one_size_have_an_axis_that_can_be_read(tmp_path):
    sizes = range(560, 960, 50)
    trials = [{"losses": [3, 2, 1 + size], "values": {"hidden_width": size}} for size in sizes]
    (ax,) = drawn("pareto", hand_made(tmp_path / "s", *trials)).axes
    low, high = ax.get_xlim()
    assert sum(low <= tick <= high for tick in ax.get_xticks()) >= 3


def test_a_pair_that_is_not_searched_is_refused(study):
    with pytest.raises(UsageError, match="'batch_size' is not searched"):
        plots.draw_pair_grid(study, "batch_size", "latent_size")


@pytest.mark.parametrize("name", TABLES)
def test_an_axis_is_plain_or_says_what_it_is(name, study):
    for ax in drawn(name, study).axes:
        for axis in (ax.xaxis, ax.yaxis):
            shown = ax.get_visible() and any(tick.label1.get_visible() for tick in axis.get_major_ticks())
            assert axis.get_scale() == "linear" or not shown or "(log" in axis.get_label_text()


def test_a_winner_whose_loss_falls_in_a_straight_line_is_drawn_as_one_and_wholly_in_view(tmp_path):
    straight = {"losses": [200, 180, 160, 140, 120, 100]}
    others = [{"losses": [210, 180, 150, 130, 120 + number, 101 + number]} for number in range(8)]
    study = hand_made(tmp_path / "s", *others, straight, max_epochs=6)
    whole = drawn("learning_curves", study).axes[0]
    line = next(line for line in whole.lines if line.get_label() == "winner")
    steps = np.diff(whole.transData.transform(line.get_xydata()), axis=0)
    assert steps == pytest.approx(np.tile(steps[0], (5, 1)))
    low, high = whole.get_ylim()
    assert low < 100
    assert high > 200


def test_trials_beyond_a_loss_axis_are_ticks_at_its_edge_and_are_counted(tmp_path):
    good = [{"losses": [130, 120, 100 + number], "values": {"latent_size": 20 + number}} for number in range(8)]
    poor = [{"losses": [loss], "state": "PRUNED", "values": {"latent_size": 2}} for loss in (300, 900)]
    study = hand_made(tmp_path / "s", *good, *poor)
    for name, said in (
        ("best_so_far", "2 trials lie outside this view."),
        ("slices", ""),
    ):  # named in the legend there
        ax = drawn(name, study).axes[0]
        assert ax.get_title(loc="right") == said
        assert ax.get_ylim()[1] < 115
        places = [place for marks in ax.collections if not marks.get_clip_on() for place in marks.get_offsets()]
        assert sum(height == pytest.approx(ax.get_ylim()[1]) for _, height in places) == 2


def test_a_figure_that_does_not_exist_is_no_attribute():
    with pytest.raises(AttributeError, match="draw_nonsense"):
        plots.draw_nonsense  # noqa: B018
