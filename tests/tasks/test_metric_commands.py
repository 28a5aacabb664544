"""A user's metric in trainings and evaluations: computed, recorded, and asked for again by its file."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from tests.images.test_prepare import noise
from tests.tasks.test_train import numbers
from vae_tune.cli import main as cli
from vae_tune.config.files import read_json
from vae_tune.vae.checkpoint import read_metric_code

SMALL = ("--dataset", "a.npy", "--hidden-width", 8, "--latent-size", 2, "--epochs", 2)
TEXT = """
def contrast(model, images):
    assert not model.training
    found = model.decode(model.encode(images)).std()
    return {"contrast": found, "images": len(images)}
"""
METRIC = ("--metric", "mine.py:contrast")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command beside the file of the metric: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a GPU draws other noise
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(TEXT)
    np.save(tmp_path / "a.npy", noise(600))

    def run(command, *words):
        monkeypatch.setattr(sys, "argv", ["vae-tune", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main([command])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_a_training_computes_it_after_each_epoch_and_is_the_same_otherwise(run, tmp_path):
    assert run("train", *SMALL, "--output", "plain")[0] == 0
    code, out, errors = run("train", *SMALL, "--output", "a", *METRIC)
    assert code == 0, errors
    assert re.search(r"epoch 1/2 .* contrast 0\.\d+  images 60 ", out)
    assert "evaluate a --metric mine.py:contrast, " in out
    table = numbers(tmp_path / "a")
    assert {row.pop("images") for row in table} == {"60.0"}
    assert len({row.pop("contrast") for row in table}) == 2
    assert table == numbers(tmp_path / "plain")
    assert (tmp_path / "a" / "metric_code" / "mine.py.txt").read_text() == TEXT
    assert not (tmp_path / "plain" / "metric_code").exists()
    assert read_metric_code(tmp_path / "plain") is None


def test_a_training_goes_on_with_the_metric_that_it_began_with(run, tmp_path):
    small = SMALL[:-1]
    assert run("train", *small, 4, "--output", "whole", *METRIC)[0] == 0
    assert run("train", *small, 2, "--output", "a", *METRIC)[0] == 0
    assert run("train", *small, 2, "--output", "plain")[0] == 0
    (tmp_path / "moved.py").write_text("# a comment\n" + TEXT)
    (tmp_path / "mine.py").write_text(TEXT.replace(".std()", ".mean()"))
    for words, message in (
        (("a",), "The metric of a is mine.py:contrast, code of yours, which runs only from a file that you name.\n"),
        (("a", *METRIC), "The training a computes mine.py:contrast, but got mine.py:contrast with other code.\n"),
        (("plain", *METRIC), "The training plain computes no metric, but got mine.py:contrast.\nLeave out --metric"),
    ):
        code, _, errors = run("train", "--resume", *words, "--epochs", 4)
        assert (code, message in errors, len(errors.splitlines())) == (2, True, 2), errors
    code, _, errors = run("train", "--resume", "a", "--epochs", 4, "--metric", "moved.py:contrast")
    assert code == 0, errors
    assert numbers(tmp_path / "a") == numbers(tmp_path / "whole")
    assert read_json(tmp_path / "a" / "training.json")["metric"]["function"] == "moved.py:contrast"


def test_an_evaluation_computes_what_is_named_and_tells_what_the_training_had(run, tmp_path):
    assert run("train", *SMALL, "--output", "a", *METRIC)[0] == 0
    code, out, errors = run("evaluate", "a", "--images", 50)
    assert (code, "contrast" in out) == (0, False)
    assert "Without mine.py:contrast, the metric of the training. To compute it too: --metric mine.py:cont" in errors
    code, out, errors = run("evaluate", "a", "--images", 50, "--json", *METRIC)
    result = json.loads(out)
    assert (code, result["metric"], result["metrics"]["images"]) == (0, "mine.py:contrast", 50.0)
    assert errors == ""
    validation = json.loads(run("evaluate", "a", "--split", "validation", "--json", *METRIC)[1])["metrics"]
    assert validation["contrast"] == pytest.approx(float(numbers(tmp_path / "a")[-1]["contrast"]))
    (tmp_path / "mine.py").write_text(TEXT.replace(".std()", ".mean()"))
    _, out, errors = run("evaluate", "a", "--images", 50, *METRIC)
    assert re.search(r"\nBy mine\.py:contrast:\n  contrast  0\.\d+\n  images    50\n", out)
    assert "Warning: mine.py:contrast is not the code of the training's metric mine.py:contrast." in errors


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        ("assert not", "raise ValueError('no') #", 2, "metric mine.py:contrast fails for an untrained model and two"),
        ("assert not", "assert len(images) == 2 #", 1, "The metric fails in epoch 1: mine.py:3 in contrast: Asse"),
    ],
)
def test_a_metric_that_fails_ends_the_training_with_its_line(run, tmp_path, old, new, code, message):
    (tmp_path / "mine.py").write_text(TEXT.replace(old, new))
    found, _, errors = run("train", *SMALL, "--output", "a", *METRIC)
    assert (found, message in errors) == (code, True), errors
    assert (tmp_path / "a").exists() == (code == 1)


def test_a_metric_that_fails_ends_an_evaluation_in_a_line(run, tmp_path):
    assert run("train", *SMALL, "--output", "a")[0] == 0
    (tmp_path / "mine.py").write_text(TEXT.replace("assert not", "raise ValueError('no') #"))
    code, out, errors = run("evaluate", "a", "--images", 5, *METRIC)
    message = "vae-tune: metric mine.py:contrast fails: mine.py:3 in contrast: ValueError: no.\n"
    assert (code, out, errors) == (2, "", message)
