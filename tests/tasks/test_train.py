"""One training without Ray: what it leaves, how it goes on, what it refuses."""

import csv
import json
import re
import shlex
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.images.test_prepare import noise
from tests.test_models_document import CLASSES
from vae_tune.cli import main as cli
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.images.datasets import load_images, to_tensor
from vae_tune.tasks import train as single
from vae_tune.vae.checkpoint import checkpoint_file, read_data, read_data_config, read_model, write_model
from vae_tune.vae.model import build_model
from vae_tune.vae.networks import registry
from vae_tune.vae.training import evaluate
from vae_tune.views.live.visdom import Visdom

SMALL = ("--train-size", 200, "--hidden-width", 8, "--latent-size", 2, "--batch-size", 50)


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command in ``tmp_path``: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a GPU draws other noise

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["vae-tune", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main(["train"])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def numbers(folder):
    """The rows of metrics.csv without what a clock decides."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def test_a_training_leaves_model_configuration_numbers_and_pictures(train, tmp_path):
    code, out, errors = train(*SMALL, "--epochs", 2, "--output", "a", "--binarization", "static")
    assert code == 0, errors
    names = {path.name for path in (tmp_path / "a").iterdir()}
    files = {"model.safetensors", "config.json", "metrics.csv", "samples.png", "reconstructions.png", "training.json"}
    assert names == files | {"checkpoints"}
    model, config = read_model(tmp_path / "a")
    data = DataConfig(train_size=200, binarization="static")
    assert (config.latent_size, config.max_epochs) == (2, 2)
    assert read_data(tmp_path / "a") == (data, load_images(data).sha256())
    result = evaluate(model, to_tensor(load_images(data).validation, torch.device("cpu")), config)
    rows = numbers(tmp_path / "a")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["val_loss"]) == pytest.approx(result.negative_elbo, rel=1e-6)
    assert "static values" in out
    assert out.count("epoch ") == 2


def test_a_training_that_is_taken_further_is_one_that_was_never_interrupted(train, tmp_path):
    assert train(*SMALL, "--epochs", 4, "--output", "whole")[0] == 0
    assert train(*SMALL, "--epochs", 2, "--output", "parts")[0] == 0
    assert train("--resume", "parts", "--epochs", 4)[0] == 0
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    first, second = (read_model(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_training_goes_on_from_its_last_checkpoint(train, tmp_path, monkeypatch):
    assert train(*SMALL, "--epochs", 3, "--output", "whole")[0] == 0
    write = single.write_checkpoint

    def interrupted(folder, config, state, report):
        if report.epoch == 2:  # its row is in metrics.csv already
            raise KeyboardInterrupt
        write(folder, config, state, report)

    monkeypatch.setattr(single, "write_checkpoint", interrupted)
    monkeypatch.setattr(cli, "_end_now", sys.exit)  # which ends this process, as an interruption does
    code, out, _ = train(*SMALL, "--epochs", 3, "--output", "parts")
    assert code == 130
    assert " train --resume parts" in out
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    monkeypatch.setattr(single, "write_checkpoint", write)
    assert train("--resume", "parts")[0] == 0
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")


def test_a_class_of_the_users_goes_on_from_another_place_as_the_commands_that_it_prints_say(
    train, tmp_path, monkeypatch
):
    def said(out, name):
        return shlex.split(re.search(rf"(?<= {name} ).*?(?=,|$)", out, re.MULTILINE)[0])

    def as_new():
        monkeypatch.setattr(registry, "_ADMITTED", {})

    as_new()
    (tmp_path / "my_vae.py").write_text(CLASSES["my_vae.py"])
    small = ("--train-size", 100, "--latent-size", 2, "--epochs", 1, "--output", "a", "--model")
    code, out, errors = train(*small, "my_vae.py:MyVAE")
    assert code == 0, errors
    assert said(out, "evaluate") == said(out, "generate") == ["a", "--model", "my_vae.py:MyVAE"]
    assert "--resume a --model my_vae.py:MyVAE\n" in train(*small, "my_vae.py:MyVAE")[2]
    (tmp_path / "my_vae.py").rename(tmp_path / "moved.py")
    as_new()
    code, out, errors = train("--resume", "a", "--model", "moved.py:MyVAE", "--epochs", 2)
    assert code == 0, errors
    assert said(out, "evaluate") == ["a", "--model", "moved.py:MyVAE"]
    assert [row["epoch"] for row in numbers(tmp_path / "a")] == ["1", "2"]
    (tmp_path / "moved.py").write_text(CLASSES["my_vae.py"].replace("256", "255"))
    for model, message in (
        ("moved.py:MyVAE", "The code of moved.py:MyVAE is not that of a: "),
        ("mlp", "--model is "),
    ):
        as_new()
        code, _, errors = train("--resume", "a", "--model", model, "--epochs", 3)
        assert (code, message in errors) == (2, True), errors
    assert [row["epoch"] for row in numbers(tmp_path / "a")] == ["1", "2"]


def test_a_training_finds_its_images_where_they_are_now_and_their_checksum_decides(train, tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    np.save("a.npy", noise(1100))
    small = ("--latent-size", 2, "--hidden-width", 4, "--epochs", 1)
    code, _, errors = train("--dataset", "a.npy", *small, "--output", "m")
    assert code == 0, errors
    (tmp_path / "a.npy").rename("b.npy")
    code, _, errors = train("--resume", "m", "--dataset", "b.npy", "--epochs", 2)
    assert code == 0, errors
    assert read_data_config(tmp_path / "m").dataset == "b.npy"
    np.save("b.npy", noise(1100, seed=1))
    code, _, errors = train("--resume", "m", "--epochs", 3)
    assert (code, errors) == (2, "vae-tune: The images of b.npy are not those that m was trained on.\n")
    assert len(numbers(tmp_path / "m")) == 2


def test_a_training_of_an_older_version_names_what_is_left_to_its_images_now(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", noise(1100))
    config, data = TrialConfig(latent_size=2, hidden_width=4, max_epochs=1), DataConfig(dataset="a.npy")
    for activation in ("relu", "linear"):
        named = replace(config, encoder_activation=activation, likelihood="logistic")
        single.train(named, data, output=tmp_path / activation)
    single.train(replace(config, max_epochs=2), data, resume=tmp_path / "relu")
    assert len(numbers(tmp_path / "relu")) == 2
    with pytest.raises(UsageError, match="encoder_activation is 'linear' in this training, but got 'relu'"):
        single.train(replace(config, max_epochs=2), data, resume=tmp_path / "linear")


def test_an_ended_training_that_is_resumed_trains_no_more(train, tmp_path):
    train(*SMALL, "--epochs", 2, "--output", "a")
    before = numbers(tmp_path / "a")
    code, out, _ = train("--resume", "a")
    assert code == 0
    assert "epoch " not in out
    assert numbers(tmp_path / "a") == before


@pytest.fixture
def winner(tmp_path):
    """What a search leaves in best/."""
    config = TrialConfig(latent_size=3, hidden_width=8, max_epochs=2, batch_size=50)
    folder = tmp_path / "results" / "study" / "best"
    write_model(folder, build_model(config, (1, 28, 28)), config, DataConfig(train_size=150, binarization="static"))
    return folder


def test_a_winner_can_be_trained_by_its_configuration(train, tmp_path, winner):
    assert train("--config", winner / "config.json", "--seed", 5, "--output", "again")[0] == 0
    model, config = read_model(tmp_path / "again")
    assert config == TrialConfig(latent_size=3, hidden_width=8, max_epochs=2, batch_size=50, seed=5)
    assert read_data_config(tmp_path / "again") == DataConfig(train_size=150, binarization="static")
    untrained = build_model(config, (1, 28, 28))
    assert not np.array_equal(model.network.encoder.mean.weight, untrained.network.encoder.mean.weight)


def test_a_configuration_alone_is_trained_on_the_default_data(train, tmp_path, winner):
    (winner / "model.safetensors").unlink()
    assert train("--config", winner / "config.json", "--train-size", 100, "--output", "again")[0] == 0
    assert read_data_config(tmp_path / "again") == DataConfig(train_size=100)


def test_the_curves_of_the_whole_training_are_shown_on_visdom(train, monkeypatch):
    shown = []

    class Server(Visdom):
        def __init__(self, address, folder, metadata):
            shown.append((address, folder.name, metadata["reference"]["max_epochs"]))

        def show(self, row, draw_samples):
            shown.append([report["epoch"] for report in row.reports])

        def flush(self):
            pass

        def close(self, status):
            shown.append(status)

    monkeypatch.setattr("vae_tune.views.live.visdom.Visdom", Server)
    assert train(*SMALL, "--epochs", 1, "--output", "a")[0] == 0
    assert train("--resume", "a", "--epochs", 3, "--visdom", "http://127.0.0.1:9")[0] == 0
    assert shown[0] == ("http://127.0.0.1:9", "a", 3)
    assert shown[-2:] == [[1, 2, 3], "complete"]


def test_a_visdom_server_that_is_down_does_not_harm_the_training(train):
    code, out, _ = train(*SMALL, "--epochs", 1, "--output", "a", "--visdom", "http://127.0.0.1:9")
    assert code == 0
    assert "visdom at http://127.0.0.1:9: Connection refused" in out


def test_a_training_that_diverges_ends_with_its_reason(train):
    code, _, errors = train(*SMALL, "--learning-rate", "1e6", "--output", "a")
    assert code == 1
    assert "diverged: non-finite" in errors
    assert len(errors.splitlines()) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An ended training."""
    folder = tmp_path_factory.mktemp("place") / "a"
    data, config = DataConfig(train_size=60), TrialConfig(latent_size=2, hidden_width=4, max_epochs=2)
    single.train(config, data, output=folder)
    return folder


BAD = [
    ("--threads 0", "--threads must be >= 1, but got 0"),
    ("--epochs 0", "--epochs must be >= 1, but got 0"),
    ("--latent-size 0", "--latent-size must be >= 1, but got 0"),
    ("--output a", "The training a exists already"),
    ("--output .", " exists already and is no training"),
    ("--output full/file", "full/file exists already and is no training"),
    ("--output full/file/deeper", "--output full/file/deeper cannot be written"),
    ("--resume nowhere", "nowhere is no training: training.json is missing"),
    ("--resume full", "full is no training: training.json is damaged"),
    ("--resume a --output b", "--resume takes no --output"),
    ("--resume a --config a/config.json", "--resume takes no --config"),
    ("--resume a --epochs 1", "--epochs must be >= 2, trained already, but got 1"),
    ("--resume a --latent-size 3", "--latent-size is 2 in this training, but got 3"),
    ("--resume a --train-size 61", "--train-size is 60 in this training, but got 61"),
    ("--config nowhere/config.json", "No usable configuration in nowhere/config.json"),
    ("--config full/training.json", "No usable configuration in full/training.json"),
    ("--visdom nowhere", "--visdom must be a URL such as http://127.0.0.1:8097, but got 'nowhere'"),
    ("--max-epochs 3", "unknown option --max-epochs"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_refused_in_two_lines_and_changes_nothing(train, trained, monkeypatch, words, message):
    place = trained.parent
    monkeypatch.chdir(place)
    (place / "full").mkdir(exist_ok=True)
    for name in ("training.json", "file"):
        (place / "full" / name).write_text("{")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    code, _, errors = train(*words.split())
    assert code == 2
    assert message in errors
    assert 1 <= len(errors.strip().splitlines()) <= 2
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(train, trained):
    checkpoint_file(trained / "checkpoints", 2).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"epoch_0002\.safetensors is damaged"):
        code, out, errors = train("--resume", trained)
    assert code == 0, errors
    assert "epoch 2/2" in out
    assert [row["epoch"] for row in numbers(trained)] == ["1", "2"]


def test_other_images_are_refused(train, trained):
    settings = json.loads((trained / "training.json").read_text())
    (trained / "training.json").write_text(json.dumps(settings | {"sha256": "other"}))
    code, _, errors = train("--resume", trained)
    assert code == 2
    assert "are not those that" in errors


def test_a_training_that_does_not_fit_into_memory_is_refused_before_it_begins(train, tmp_path, monkeypatch):
    monkeypatch.setattr(single, "available_memory", lambda: 1_000_000_000)
    code, out, errors = train("--latent-size", 20_000, "--train-size", 200, "--epochs", 1, "--output", "large")
    assert (code, out) == (2, "")
    assert re.search(r"needs about 4\.0 GB of memory, but 1\.0 GB are free\.\n.*--latent-size", errors)
    assert list(tmp_path.iterdir()) == []
