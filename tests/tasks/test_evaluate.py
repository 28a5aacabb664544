"""The numbers of a model on disk, as a person asks for them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.images.test_prepare import noise
from tests.studies import make_study
from vae_tune.cli import main as cli
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import load_images, to_tensor
from vae_tune.vae.checkpoint import read_data_config, write_model
from vae_tune.vae.model import build_model
from vae_tune.vae.training import evaluate

CONFIG = TrialConfig(latent_size=3, hidden_width=8)


@pytest.fixture
def model(tmp_path):
    """A model that was trained on static images, as it claims."""
    write_model(tmp_path / "model", build_model(CONFIG, (1, 28, 28)), CONFIG, DataConfig(binarization="static"))
    return tmp_path / "model"


def run(monkeypatch, capsys, *words, command="evaluate"):
    monkeypatch.setattr(sys, "argv", ["vae-tune", *map(str, words)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a GPU draws other noise
    with pytest.raises(SystemExit) as stop:
        cli.main([command])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_the_numbers_are_those_of_the_evaluation_of_a_search(model, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, model, "--json", "--images", 100)
    result = json.loads(out)
    images = load_images(DataConfig(binarization="static")).test[:100]
    expected = evaluate(build_model(CONFIG, (1, 28, 28)), to_tensor(images, torch.device("cpu")), CONFIG)
    assert code == 0
    assert result["negative_elbo"] == pytest.approx(expected.negative_elbo, rel=1e-6)
    assert (result["kind"], result["split"], result["images"]) == ("static", "test", 100)
    assert (result["active_units"], result["latent_size"]) == (expected.active_units, 3)
    assert "nll" not in result


def test_the_likelihood_comes_with_samples_and_standard_error(model, monkeypatch, capsys):
    code, out, errors = run(monkeypatch, capsys, model, "--json", "--images", 5, "--nll-samples", 20)
    nll = json.loads(out)["nll"]
    assert code == 0, errors
    assert nll["samples"] == 20
    assert 300 < nll["mean"] < 700
    assert 0 < nll["standard_error"] < 100


@pytest.mark.parametrize("kind", ["grey", "static"])
def test_every_number_is_shown_with_its_kind(model, monkeypatch, capsys, kind):
    _, out, _ = run(monkeypatch, capsys, model, "--images", 2, "--nll-samples", 3, "--binarization", kind)
    assert f"In nats per image, {kind} values" in out
    assert ("no likelihood" in out) == (kind == "grey")


def test_a_study_stands_for_its_best_model(model, monkeypatch, capsys):
    study = model.parent / "study"
    study.mkdir()
    model.rename(study / "best")
    (study / "study.json").write_text("{}")
    _, out, _ = run(monkeypatch, capsys, study, "--json", "--images", 1)
    assert json.loads(out)["model"] == str(study / "best")


def test_a_model_that_is_named_by_its_file_alone_is_called_by_its_folder(model, monkeypatch, capsys):
    monkeypatch.chdir(model)
    _, out, _ = run(monkeypatch, capsys, "model.safetensors", "--json", "--images", 1)
    assert json.loads(out)["model"] == str(model)


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_a_study_without_a_model_is_refused_in_a_line(tmp_path, monkeypatch, capsys, command):
    study = make_study(tmp_path / "s", trials=3, failed=1.0)
    code, _, errors = run(monkeypatch, capsys, study, command=command)
    assert code == 2
    assert errors == f"vae-tune: The study {study} has no model: none of its trials has succeeded yet.\n"


def test_a_model_whose_file_says_nothing_of_its_data_takes_the_default(model):
    path = model / "model.safetensors"
    save_file(load_file(path), path)
    assert read_data_config(model) == DataConfig()


def test_a_folder_of_images_that_is_gone_is_replaced_by_the_default(model, monkeypatch, capsys):
    write_model(model, build_model(CONFIG, (1, 28, 28)), CONFIG, DataConfig(data_dir=Path("/nowhere/at/all")))
    code, _, errors = run(monkeypatch, capsys, model, "--images", 1)
    assert code == 0, errors


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_images_that_have_changed_since_the_training_are_told_unless_they_are_named(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    images, data = noise(1100), DataConfig(dataset="a.npy")
    np.save("a.npy", images[:1000])
    trained_on = load_images(data)
    model = build_model(CONFIG, trained_on.shape)
    write_model(tmp_path / "model", model, CONFIG, data, trained_on.sha256())
    quiet = run(monkeypatch, capsys, "model", command=command)
    np.save("a.npy", images)
    warned = run(monkeypatch, capsys, "model", command=command)
    named = run(monkeypatch, capsys, "model", "--dataset", "a.npy", command=command)
    assert (quiet[0], warned[0], named[0]) == (0, 0, 0)
    assert warned[2].startswith("Warning: the images of a.npy have changed since the training:")
    assert len(warned[2].splitlines()) == 1
    assert quiet[2] == named[2] == ""


BAD = [
    ("--images 0", "--images must be >= 1, but got 0"),
    ("--images 10001", "--images must be <= 10000, the test images of mnist, but got 10001"),
    ("--nll-samples 0", "--nll-samples must be >= 1, but got 0"),
    ("--nll-samples -5", "--nll-samples must be >= 1, but got -5"),
    ("--nll-samples many", "--nll-samples"),
    ("--split train", "--split must be one of test, validation, but got 'train'"),
    ("--binarization round", "--binarization must be one of"),
]


def refused(monkeypatch, capsys, message, *words):
    code, out, errors = run(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_bad_options_are_refused_in_a_line(model, monkeypatch, capsys, words, message):
    refused(monkeypatch, capsys, message, model, *words.split())


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (cut, "incomplete"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"PK\3\4, a zip file"), "header"),
        (lambda folder: (folder / "config.json").write_text('{"latent_size": 4}'), "size mismatch"),
        (
            lambda folder: write_model(folder, build_model(CONFIG, (1, 10, 10)), CONFIG),
            "is for images of 1 x 10 x 10, but those of mnist are 1 x 28 x 28",
        ),
    ],
    ids=["no model", "no config", "cut", "no safetensors", "other shape", "other pixels"],
)
def test_a_model_that_cannot_be_used_is_refused_in_a_line(model, monkeypatch, capsys, spoil, message):
    spoil(model)
    refused(monkeypatch, capsys, message, model)


def test_no_model_at_all_is_refused_in_a_line(monkeypatch, capsys):
    refused(monkeypatch, capsys, "missing model", "--json")
