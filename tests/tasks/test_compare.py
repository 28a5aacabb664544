"""Studies side by side: numbers, words, curves, and what is refused."""

import re

import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.lines import Line2D
from PIL import Image

from tests.analysis.test_plots_hyperparameters import SPACE
from tests.cli.test_main import run
from tests.studies import hand_made, make_study
from tests.views.test_plots import STUDIES
from vae_tune import load_studies
from vae_tune.analysis.progress import best_so_far_by_study
from vae_tune.config.errors import UsageError
from vae_tune.config.files import read_json, write_json
from vae_tune.config.names import EXPLORATION
from vae_tune.config.settings import DataConfig
from vae_tune.tasks.compare import comparable_studies, comparison, side_by_side
from vae_tune.views.figures.comparison import draw

RATE = {"learning_rate": 0.002}


@pytest.fixture
def two(tmp_path):
    """A study whose trial 1 wins, and one that is shorter and searched something else."""
    hand_made(
        tmp_path / "long",
        {"losses": (140, 130, 120)},
        {"losses": (135, 125, 110), "started": 10, "values": RATE},
        {"losses": (200,), "started": 20, "state": "PRUNED"},
        {"started": 30, "state": "FAIL"},
    )
    hand_made(tmp_path / "short", {"losses": (140, 115.5)}, max_epochs=2, space=SPACE)
    return load_studies([tmp_path / "long", tmp_path / "short"])


def test_a_study_has_its_winner_its_reference_and_its_cost(two):
    row = side_by_side(two).loc["long"]
    assert list(row[["status", "max_epochs", "trials", "epochs"]]) == ["complete", 3, 4, 7]
    assert list(row[["COMPLETE", "PRUNED", "FAIL", "RUNNING"]]) == [2, 1, 1, 0]
    assert list(row[["best_trial", "best_epochs", "val_loss", "reference_loss"]]) == [1, 3, 110, 120]
    assert row.test_loss == pytest.approx(109.1)
    assert row.found_hours == pytest.approx(13 / 3600)  # seconds, from the start to its last epoch
    assert row.cpu_hours == pytest.approx(2 * row.wall_hours)  # two slots


def test_searches_that_differ_in_their_seed_show_it(tmp_path, two):
    for name, seed in (("one", 0), ("other", 7)):
        hand_made(tmp_path / name, {"losses": (140, 130, 120)})
        metadata = read_json(tmp_path / name / "study.json")
        metadata["config"]["trial"]["seed"] = seed
        write_json(tmp_path / name / "study.json", metadata)
    lines = comparison(load_studies([tmp_path / "one", tmp_path / "other"]))
    assert lines[3].split() == ["seed", "of", "the", "search", "0", "7"]
    assert not any("seed" in line for line in comparison(two))


def test_the_words_stand_in_columns_and_tell_which_is_best_and_why(two):
    text = "\n".join(comparison(two))
    assert "nats per image, grey values of mnist" in text
    lines = {line[:30].strip(): line[30:].split() for line in text.splitlines()}
    assert lines["validation loss"] == ["110.00", "115.50"]
    assert lines["winner: learning_rate"] == ["0.002", "0.001"]
    assert lines["winner: encoder_activation"] == ["linear", "linear"]  # searched in one of them
    assert "core-minutes" in lines  # it took less than an hour
    assert not any(line.startswith("GPU") for line in lines)  # there was none
    assert text.endswith(
        "Lowest validation loss: long, 110.00, 5.50 below short. "
        "Not on equal terms: trained with different numbers of epochs."
    )


def test_the_legend_names_each_study_whatever_its_name(tmp_path):
    names = ["_baseline", "$x$ and $y$", "__", r"5\$ or $6"]
    studies = load_studies([hand_made(tmp_path / name, {"losses": (140, 130)}).folder for name in names])
    figure = draw(studies)
    figure.draw_without_rendering()
    drawn = [text.get_text() for text in figure.legends[0].get_texts()]
    assert all(isinstance(handle, Line2D) for handle in figure.legends[0].legend_handles)  # with its dashes
    assert [text.strip().replace(r"\$", "$") for text in drawn] == names
    assert not any(map(is_math_text, drawn))


def test_a_test_loss_of_an_earlier_winner_is_not_the_winners(tmp_path):
    folders = [make_study(tmp_path / name, trials=2, max_epochs=1) for name in "ab"]
    path = folders[0] / "best" / "metrics.json"
    path.write_text(path.read_text().replace('"trial": ', '"trial": 9'))
    assert list(side_by_side(load_studies(folders)).test_loss.isna()) == [True, False]


def test_curves_have_the_incumbents_of_all(two):
    table = best_so_far_by_study(two)
    assert list(table.study.unique()) == ["long", "short"]
    np.testing.assert_equal(table[table.study == "long"].best.to_numpy(), [120, 110, 110, 110])


def test_the_drawing_shows_each_incumbent_and_the_winners_best_so_far_by_study(two):
    figure = draw(two)
    figure.draw_without_rendering()
    marks = {
        dots.get_label(): len(dots.get_offsets()) for dots in figure.axes[0].collections if len(dots.get_offsets())
    }
    gains = best_so_far_by_study(two).groupby("study", sort=False)["best"].apply(lambda best: best.dropna().nunique())
    assert marks == gains.to_dict()  # a mark at each gain, not at each trial
    time, epochs, winners = figure.axes
    assert [line.get_label() for line in time.lines] == ["long", "short"]
    assert list(epochs.lines[0].get_ydata()) == [120, 110, 110, 110]
    assert list(winners.lines[1].get_ydata()) == [140, 115.5]
    assert winners.get_xlabel() == "epoch of the winner"


@pytest.mark.parametrize("condition", STUDIES)
def test_no_study_is_too_poor_to_be_compared(condition, tmp_path):
    poor = make_study(tmp_path / "poor", **STUDIES[condition])
    both = load_studies([poor, make_study(tmp_path / "other", trials=0)])
    draw(both).draw_without_rendering()
    assert comparison(both)[-1].startswith(("Lowest validation loss: poor,", "No trial has succeeded in any study."))


def test_the_command_prints_and_draws(tmp_path, monkeypatch, capsys):
    folders = [make_study(tmp_path / name, trials=5) for name in "ab"]
    code, out, _ = run(monkeypatch, capsys, *folders, "--output", tmp_path / "both.png", command="compare")
    assert code == 0
    assert "Lowest validation loss: " in out
    with Image.open(tmp_path / "both.png") as image:
        assert image.format == "PNG"


def test_trial_0_of_an_exploration_is_no_reference(tmp_path):
    folders = [make_study(tmp_path / name, trials=3, kind=EXPLORATION, scheduler="none", failed=0.0) for name in "ab"]
    studies = load_studies(folders)
    assert side_by_side(studies)["reference_loss"].isna().all()
    assert "reference" not in "\n".join(comparison(studies))


def own(folder, train_size=None, **changes):
    """Write a study of a user's pictures, with other counts, shape or checksum in its record."""
    hand_made(folder, {"losses": (3, 2, 1)}, data=DataConfig(dataset="photos", train_size=train_size))
    metadata = read_json(folder / "study.json")
    write_json(folder / "study.json", metadata | {"data": metadata["data"] | changes})
    return folder


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"sha256": "c" * 64, "shape": [14, 14]},
            "(DIR/a: 10,000 of photos, 1 x 28 x 28; DIR/b: 10,000 of photos, 1 x 14 x 14)",
        ),
        (
            {"sha256": "c" * 64, "shape": [3, 28, 28]},
            "(DIR/a: 10,000 of photos, 1 x 28 x 28; DIR/b: 10,000 of photos, 3 x 28 x 28)",
        ),
        ({"sha256": "c" * 64, "train": 5004}, "; DIR/b: 10,000 of photos, checksum cccccccc)"),  # pictures were added
        ({"sha256": "c" * 64, "test": 5000}, "; DIR/b: 10,000 of photos, checksum cccccccc)"),  # and so a larger share
        ({"sha256": "c" * 64, "train": 300, "train_size": 300}, None),
    ],
)
def test_size_channels_and_checksum_decide_whether_images_are_the_same(other, words, tmp_path):
    folders = [own(tmp_path / "a"), own(tmp_path / "b", **other)]
    if words is None:
        assert len(comparable_studies(folders).studies) == 2
        return
    with pytest.raises(UsageError) as caught:
        comparable_studies(folders)
    assert words in str(caught.value).replace(str(tmp_path), "DIR")


CHANGES = {
    "grey": ('"kind": "grey"', '"kind": "static"'),
    "kmnist": ('"mnist"', '"kmnist"'),
    "other": (r'"sha256": "\w{8}', '"sha256": "deadbeef'),
}
BAD = [
    ("a", "Give two or more different studies"),
    ("", "Give two or more different studies"),
    ("a a", "Give two or more different studies"),
    ("a nowhere", "nowhere is no study"),
    ("a grey", r"of different kinds cannot be compared (a: grey, grey: static)"),
    ("a kmnist", "(a: 10,000 of mnist; kmnist: 10,000 of kmnist)"),
    ("a other", "; other: 10,000 of mnist, checksum deadbeef)"),
    ("a b --output both.bmp", "--output must be a .png, .svg or .pdf file, but got 'both.bmp'"),
    ("a b --output nowhere/both.png", "The figure nowhere/both.png cannot be written: No such file or directory"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_refused_in_one_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", *CHANGES):
        path = make_study(tmp_path / name, trials=1) / "study.json"
        path.write_text(re.sub(*CHANGES.get(name, ("", "")), path.read_text()))
    code, _, errors = run(monkeypatch, capsys, *line.split(), command="compare")
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.png"))
