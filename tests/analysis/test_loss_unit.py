"""Losses of pixel levels are shown in bits per dimension, all others in nats per image; records hold nats."""

import io
import json
import math
import re

import pandas as pd
import pytest

from tests.studies import make_study
from vae_tune import load_study, plots
from vae_tune.analysis.advice import conclusions
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.analysis.hyperparameters import importance
from vae_tune.analysis.loss_unit import NATS, LossUnit
from vae_tune.cli.list import studies_in
from vae_tune.config.errors import UsageError
from vae_tune.config.names import VAL_LOSS
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import load_space
from vae_tune.tasks.compare import comparable_studies, comparison
from vae_tune.vae.likelihoods.likelihood import metric_of
from vae_tune.vae.likelihoods.registry import kind_of
from vae_tune.views.console import make_console
from vae_tune.views.end_summary import print_summary
from vae_tune.views.figures import FIGURES
from vae_tune.views.figures.comparison import draw
from vae_tune.views.formatting import code_length_table
from vae_tune.views.report import summary
from vae_tune.views.report.page import render
from vae_tune.views.report.provenance import make_record
from vae_tune.views.terminal import make_view

SHAPE = (3, 32, 32)
BIT = 3072 * math.log(2)  # nats per image


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """A study of pixel levels with losses about 9,000 nats per image, 4.2 bits/dim."""
    folder = make_study(
        tmp_path_factory.mktemp("levels") / "s", trials=30, shift=9000.0, likelihood="logistic", shape=SHAPE
    )
    return load_study(folder)


@pytest.mark.parametrize(
    ("likelihood", "channels", "binarization", "name", "likely"),
    [
        (None, 1, "grey", "grey", False),
        (None, 1, "dynamic", "dynamic", True),
        (None, 3, "grey", "levels", True),
        ("bernoulli", 3, "grey", "grey", False),
        ("logistic-mixture", 1, "grey", "levels", True),
        ("categorical", 3, "grey", "levels", True),
        ("gaussian", 1, "grey", "density", True),
        ("continuous-bernoulli", 3, "grey", "density", True),
    ],
)
def test_every_likelihood_has_a_kind_whose_record_is_in_nats_per_image(
    likelihood, channels, binarization, name, likely
):
    kind = kind_of(TrialConfig(likelihood=likelihood), channels, binarization)
    assert (kind.name, kind.is_likelihood) == (name, likely)
    metric = metric_of(kind, 784)
    assert metric == {"unit": "nats per image", "kind": name} | ({"dimensions": 784} if name == "levels" else {})
    assert LossUnit.of(metric).name == ("bits/dim" if name == "levels" else "nats per image")


def test_a_uniform_decoder_has_8_bits_per_dimension():
    unit = LossUnit.of({"kind": "levels", "dimensions": 3072})
    assert unit.text(3072 * math.log(256)) == "8.000"
    assert unit.with_name(-BIT / 2) == "-0.500 bits/dim"
    assert unit.text(BIT, "+") == "+1.000"
    assert (NATS.with_name(109.514), NATS.text(-2, "+")) == ("109.51 nats", "-2.00")


def test_tables_are_in_nats_and_what_is_shown_first_in_bits(levels):
    best = levels.best[VAL_LOSS]
    assert best > 9000
    assert levels.shown.best[VAL_LOSS] == pytest.approx(best / BIT)
    assert levels.shown.shown is levels.shown
    assert levels.metadata["metric"]["dimensions"] == levels.metrics["dimensions"] == 3072
    bits = f"{best / BIT:.3f}"
    assert f"val_loss {bits} bits/dim (levels)" in repr(levels)
    assert f": {bits} bits/dim on validation" in str(conclusions(levels)[0])
    (listed,) = studies_in(levels.folder.parent)
    assert f"{bits} bits/dim, levels" in listed
    tiles = {label: (value, detail) for label, value, detail in summary.make_tiles(levels, compute_cost(levels))}
    value, detail = tiles["Validation loss"]
    assert value == bits
    assert "bits/dim, pixel levels" in detail
    table = summary.make_comparison(levels)
    assert table["title"].startswith("bits/dim; pixel levels")
    assert bits in {row["label"]: row["cells"][1] for row in table["rows"]}["validation negative ELBO"]
    assert dict(make_record(levels))["Metric"].endswith(
        "nats per image, pixel levels; one bits/dim is 2,129.35 nats per image"
    )


def test_a_report_names_no_nats_outside_of_its_tables(levels):
    page = render(levels)
    start = page.index("<body>")
    words = page[start : page.index('id="trials"')]
    assert "bits/dim" in words
    assert " nats" not in words


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_levels_are_in_bits(levels, name):
    for panel in FIGURES[name].panels(levels).values():
        figure = str(panel.figure())
        assert "nats" not in figure
        titles = panel.x["title"]["text"] + panel.y["title"]["text"]
        if "loss (" in titles:
            assert "(bits/dim)" in titles
            axis = panel.y if "loss (" in panel.y["title"]["text"] else panel.x
            assert max(axis.get("range", [0])) < 10
    getattr(plots, f"draw_{name}")(levels)


def test_the_terminal_shows_bits(levels):
    console = make_console(file=io.StringIO(), width=100)
    with make_view(console) as view:
        rows = [row for row in levels.trials.reset_index().itertuples() if row.state == "COMPLETE"]
        assert rows
        view.begin(30, 9, [], levels.loss_unit)
        from vae_tune.record.trials import read_trials, row_from_trial

        known = [row_from_trial(trial) for trial in read_trials(levels.folder)]
        for row in known:
            view(row)
        fresh = {f"{name}_{part}": 9000.0 for name in ("val_loss", "test_loss") for part in ("mean", "high")}
        confirmation = [{"trial": 1, "searched_val_loss": 9000.0, "optimism": BIT / 100, "trials": 3, **fresh}]
        view.end(known, levels.metrics | {"confirmation": confirmation}, levels.folder)
    text = console.file.getvalue()
    assert f" {levels.best[VAL_LOSS] / BIT:.3f} bits/dim  latent_size" in text
    assert "Negative ELBO, bits/dim, pixel levels" in text
    assert "One bits/dim is 2,129.35 nats per image" in text
    assert "was 0.010 bits/dim better than the mean of its fresh seeds" in text
    assert "interval, bits/dim" in text


def test_models_are_shown_beside_codes_that_need_none(levels):
    lengths = summary.make_code_length(levels)
    cells = {row["label"]: float(row["cells"][0]) for row in lengths["rows"]}
    for who in ("winner", "reference"):
        assert cells[who] == pytest.approx(levels.metrics[who]["test"]["negative_elbo"] / BIT, abs=5e-4)
    assert {**cells, "winner": 0, "reference": 0} == {
        "PNG or WebP": 2.6,
        "WebP": 2.7,
        "PNG": 3.7,
        "winner": 0,
        "reference": 0,
        "histogram": 5.4,
        "uniform": 8.0,
    }
    assert list(cells.values()) == sorted(cells.values())
    page = render(levels)
    console = make_console(file=io.StringIO(), width=100)
    print_summary(console, [], 30, 9, levels.metrics, levels.folder, (), levels.loss_unit)
    text = console.file.getvalue()
    note = "mean of 1,000 of the 10,000 test images. PNG or WebP: the smaller file of each; 0.149 of it is container."
    for shown in (page, text):
        assert "Code length of the test images" in shown
        assert note in shown
    assert re.search(r"PNG or WebP +2\.600 *\n +WebP +2\.700 *\n +PNG +3\.700 *\n +winner", text)


def test_images_too_long_for_webp_have_no_code_length_there(levels):
    known = levels.metrics | {"code_length": levels.metrics["code_length"] | {"webp": None}}
    rows = code_length_table(known, levels.loss_unit)["rows"]
    assert rows[-1] == {"label": "WebP", "cells": ["-"]}


def test_only_levels_have_a_code_length(levels, tmp_path):
    unfinished = {name: value for name, value in levels.metrics.items() if name != "code_length"}
    assert code_length_table(unfinished, levels.loss_unit) is None
    grey = load_study(make_study(tmp_path / "s", trials=3))
    assert summary.make_code_length(grey) is None
    assert "Code length" not in render(grey)


def test_a_comparison_of_levels_is_in_bits(levels):
    studies = comparable_studies([levels.folder])
    lines = "\n".join(comparison(studies))
    assert lines.startswith("Losses: negative ELBO, bits/dim, pixel levels of mnist")
    assert f"Lowest validation loss: s, {levels.best[VAL_LOSS] / BIT:.3f}" in lines
    axes = draw(studies).axes
    assert axes[0].get_ylabel() == "validation loss (bits/dim)"
    assert max(axes[2].lines[0].get_ydata()) < 10


def test_the_same_images_in_another_place_are_compared(tmp_path):
    folders = [make_study(tmp_path / name, trials=3, likelihood="logistic", shape=SHAPE) for name in ("a", "b", "c")]
    changes = {"dataset": "photos/"}, {"dataset": "moved/"}, {"dataset": "other/", "sha256": "0" * 64}
    for folder, change in zip(folders, changes, strict=True):
        written = json.loads((folder / "study.json").read_text())
        written["data"] |= change
        (folder / "study.json").write_text(json.dumps(written))
    assert len(comparable_studies(folders[:2]).studies) == 2
    with pytest.raises(UsageError, match="different validation images"):
        comparable_studies(folders)


def test_what_matters_grows_with_the_values_of_an_image(levels, tmp_path):
    assert levels.threshold(0.2) == pytest.approx(0.2 * 3072 / 784)
    usual = load_study(make_study(tmp_path / "s", trials=3))
    assert usual.threshold(0.2) == 0.2
    assert usual.shown is usual


@pytest.mark.parametrize("shift", [-90.0, -140.0, -5000.0])
def test_everything_that_shows_a_study_bears_losses_of_any_sign(tmp_path, shift):
    study = load_study(make_study(tmp_path / "s", trials=30, shift=shift, likelihood="gaussian"))
    assert study.loss_unit.kind.name == "density"
    assert "nats per image, pixel densities" in render(study)
    assert isinstance(importance(study), pd.DataFrame)
    for name in FIGURES:
        getattr(plots, f"draw_{name}")(study)
    assert f"{study.best[VAL_LOSS]:.2f} nats per image" in " ".join(map(str, conclusions(study)))
    comparison(comparable_studies([study.folder]))


def test_a_likelihood_that_was_left_to_the_images_is_compared_by_its_name(tmp_path):
    space = load_space({"likelihood": {"type": "categorical", "choices": ["logistic", "categorical"]}}, TrialConfig())
    folders = [
        make_study(tmp_path / "searched", trials=5, space=space, likelihood="logistic", shape=SHAPE),
        make_study(tmp_path / "left", trials=5, shape=SHAPE),
    ]
    (line,) = [line for line in comparison(comparable_studies(folders)) if line.startswith("winner: likelihood")]
    assert line.split()[-1] == "logistic"
    assert "None" not in line
