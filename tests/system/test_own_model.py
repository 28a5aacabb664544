"""A search of the user's own class beside the MLP, killed and resumed; its workers have only the text of its file."""

import shutil

import pytest

from tests.system.conftest import is_whole, table, wait_for
from tests.test_models_document import CLASSES
from vae_tune import load_model, load_study

pytestmark = pytest.mark.system

MODEL = "my_vae.py:MyVAE"
RANDOM = ("nn.Flatten())\n        with", "nn.BatchNorm2d(16), nn.Dropout(0.3), nn.Flatten())\n        with")
SPACE = f"""
model: {{type: categorical, choices: [mlp, {MODEL}]}}
latent_size: {{type: int, low: 2, high: 8}}
hidden_width: {{type: int, low: 8, high: 64}}
model.depth: {{type: int, low: 1, high: 2}}
"""
SMALL = ("--train-size", 1000, "--max-epochs", 4, "--num-samples", 3, "--max-concurrent", 1, "--scheduler", "none")
PLACE = ("--results-dir", "out", "--sampler", "random", "--space", "space.yaml", "--points", "points.yaml")
LOSSES = ("trial", "epoch", "train_loss", "val_loss", "val_reconstruction", "val_kl", "active_units")


def test_a_search_of_an_own_class_is_killed_and_resumed_with_the_code_that_is_named(search, tmp_path):
    """The class has dropout and batch norm: its losses are those of a search that was not killed, bit for bit."""
    file = tmp_path / "my_vae.py"
    file.write_text(CLASSES[file.name].replace(*RANDOM))
    assert "Dropout" in file.read_text()
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "points.yaml").write_text(f"- {{model: '{MODEL}', model.depth: 2}}\n")
    code, output = search(*SMALL, *PLACE, "--study-name", "whole").wait()
    assert code == 0, output

    folder = tmp_path / "out" / "own"
    first = search(*SMALL, *PLACE, "--study-name", "own")
    first.wait_for_line("Study out/own")
    shutil.move(file, tmp_path / "elsewhere.py")  # the workers have its text
    wait_for(lambda: any(row["trial"] == "1" for row in table(folder / "epochs.csv")), first)
    first.kill()
    first.wait()
    assert table(folder / "trials.csv")[-1]["state"] == "RUNNING"
    code, output = search("--resume", "out/own").wait()
    assert code == 2
    assert f"The model of out/own is {MODEL}, code of yours, which runs only from a file that you name." in output
    code, output = search("--resume", "out/own", "--model", "elsewhere.py:MyVAE").wait()
    assert code == 0, output
    is_whole(folder, trials=3)
    whole, resumed = (
        [[row[name] for name in LOSSES] for row in table(tmp_path / "out" / name / "epochs.csv")]
        for name in ("whole", "own")
    )
    assert resumed == whole
    assert len(whole) == 12
    study = load_study(folder)
    own = study.trials[study.trials["model"] == MODEL]
    assert own.loc[1, "model.depth"] == 2
    assert own["hidden_width"].isna().all()
    assert set(study.trials["state"]) == {"COMPLETE"}
    assert load_model(folder, model=f"{tmp_path / 'elsewhere.py'}:MyVAE").latent_size == study.best["latent_size"]
