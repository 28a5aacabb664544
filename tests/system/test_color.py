"""Every command on pictures in color that are not square, with pixel levels."""

import json
import shutil

import pytest
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis.run import execute
from tests.cli.test_main import run
from tests.real_pictures import photo_patches
from tests.system.conftest import is_whole
from tests.test_notebook import figures, winner_pictures
from vae_tune import load_study
from vae_tune.views.figures import FIGURES

pytestmark = pytest.mark.system


def test_every_command_works_on_pictures_in_color_that_are_not_square(search, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for number, patch in enumerate(photo_patches(24, 20)[:600, 2:22]):
        Image.fromarray(patch).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "space.yaml").write_text("latent_size: {type: int, low: 2, high: 9}\n")
    data = ("--dataset", "photos", "--hidden-width", 16, "--batch-size", 32)
    views = ("--tensorboard", "--mlflow", "sqlite:///mlflow.db", "--visdom", "http://127.0.0.1:9")
    settings = ("--num-samples", 7, "--space", "space.yaml", "--scheduler", "none", "--max-epochs", 2)
    code, output = search(*data, *settings, *views, "--study-name", "s", "--keep", 2).wait()
    assert code == 0, output
    folder = tmp_path / "results" / "s"
    is_whole(folder, trials=7)
    study = load_study(folder)
    assert study.image_shape == (3, 20, 24)
    assert study.loss_unit.name == "bits/dim"
    assert "PNG or WebP" in output
    assert study.metrics["code_length"]["of"] == study.metadata["data"]["test"] == 60
    events = EventAccumulator(str(folder / "tensorboard" / "trial_00000")).Reload()
    assert len(events.Images("samples")) == 1
    (shown,) = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"], "tags.`mlflow.runName` = 's'")
    assert shown.data.metrics["code_length/png"] == study.metrics["code_length"]["png"]

    shutil.copytree(folder, "copied/s")
    for command, *words in (
        ("evaluate", "results/s", "--nll-samples", 3, "--images", 9),
        ("generate", "results/s", "--output", "drawn"),
        ("report", "results/s"),
        ("replay", "results/s", "--repeats", 2, "--num-samples", 9, "--force"),
        ("compare", "results/s", "copied/s"),
        ("audit", "results/s"),
        ("list", "results"),
        ("train", *data, "--epochs", 1, "--output", "models/a"),
        ("evaluate", "models/a", "--split", "validation"),
    ):
        code, said, errors = run(monkeypatch, capsys, *words, command=command)
        assert (code, errors.strip()) == (0, ""), (command, errors)  # a progress bar ends its line
        assert "nats" not in said or command in ("audit", "replay"), (command, said)  # whose tables are in nats
    assert "PNG or WebP" in (folder / "report.html").read_text()
    for name in ("samples", "reconstructions", "interpolations", "traversals", "map"):
        with Image.open(tmp_path / "drawn" / f"{name}.png") as picture:
            assert len(set(picture.convert("RGB").resize((64, 64)).get_flattened_data())) > 9
    execute(folder, tmp_path / "notebook.ipynb")
    book = (tmp_path / "notebook.ipynb").read_text()
    assert json.loads(book)
    import nbformat

    shown = nbformat.reads(book, as_version=4)
    assert figures(shown) == len(FIGURES)
    assert len(winner_pictures(shown)) == 2

    words = ("--latent-size", "2,3", "--repeats", 1, "--epochs", 1, "--study-name", "e", *data)
    code, output = search(*words, program=("-m", "vae_tune", "explore")).wait()
    assert code == 0, output
    assert "bits/dim, pixel levels" in output
    assert "nats" not in output
