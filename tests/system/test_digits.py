"""A whole search on scikit-learn's handwritten digits: 8 x 8 gray pictures with labels, from one .npz file."""

import json

import numpy as np
import pytest

from tests.cli.test_main import run
from tests.real_pictures import digits
from tests.system.conftest import is_whole
from vae_tune import load_study

pytestmark = pytest.mark.system


def test_digits_from_a_file_go_through_a_search_and_the_map_of_its_winner(search, tmp_path, monkeypatch, capsys):
    images, labels = digits()
    parts = {"train": slice(0, 1300), "val": slice(1300, 1500), "test": slice(1500, None)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    np.savez(tmp_path / "digits.npz", **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_TUNE_CACHE", str(tmp_path / "cache"))
    data = ("--dataset", "digits.npz", "--likelihood", "logistic", "--hidden-width", 64, "--batch-size", 32)
    settings = ("--num-samples", 2, "--max-epochs", 3, "--target-loss", 5, "--study-name", "s")
    code, output = search(*data, *settings).wait()
    assert code == 0, output
    assert "Target: validation loss <= 5 nats per image (0.113 bits/dim)" in output
    assert "For 5 bits/dim: --target-loss 221.8" in " ".join(output.split())
    folder = tmp_path / "results" / "s"
    is_whole(folder, trials=2)
    study = load_study(folder)
    assert study.image_shape == (1, 8, 8)
    sizes = [study.metadata["data"][split] for split in ("train", "validation", "test")]
    assert sizes == [1300, 200, 297]
    test = study.metrics["winner"]["test"]["negative_elbo"] / study.loss_unit.nats
    assert 0 < test < study.metrics["code_length"]["uniform"]

    code, said, errors = run(monkeypatch, capsys, "results/s", "--output", "drawn", command="generate")
    assert (code, errors.strip()) == (0, ""), said
    assert (tmp_path / "drawn" / "map.png").exists()
    code, said, _ = run(monkeypatch, capsys, "results/s", command="evaluate")
    assert f"{test:.3f}" in said
    assert json.loads((folder / "best" / "metrics.json").read_text())["code_length"]["of"] == 297
