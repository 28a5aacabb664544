"""A search of the user's own class beside the MLP, killed and resumed; its workers have only the text of its file."""

import shutil
from pathlib import Path

import pytest

from tests.system.conftest import is_whole, table, wait_for
from tests.test_models_document import CLASSES
from vae_tune import load_model, load_study

pytestmark = pytest.mark.system

MODEL = "my_vae.py:MyVAE"
SPACE = f"""
model: {{type: categorical, choices: [mlp, {MODEL}]}}
latent_size: {{type: int, low: 2, high: 8}}
hidden_width: {{type: int, low: 8, high: 64}}
model.depth: {{type: int, low: 1, high: 2}}
"""


def test_a_search_of_an_own_class_is_killed_and_resumed_with_the_code_that_is_named(search, tmp_path):
    file = tmp_path / "my_vae.py"
    file.write_text(CLASSES[file.name])
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "points.yaml").write_text(f"- {{model: '{MODEL}', model.depth: 2}}\n")
    folder: Path = tmp_path / "out" / "own"
    small = ("--train-size", 1000, "--max-epochs", 3, "--num-samples", 4, "--scheduler", "none", "--sampler", "random")
    place = ("--results-dir", "out", "--study-name", "own", "--space", "space.yaml", "--points", "points.yaml")
    first = search(*small, *place)
    first.wait_for_line("Study out/own")
    shutil.move(file, tmp_path / "elsewhere.py")  # the workers have its text
    wait_for(lambda: any(row["trial"] == "1" for row in table(folder / "epochs.csv")), first)
    first.kill()
    first.wait()
    code, output = search("--resume", "out/own").wait()
    assert code == 2
    assert f"The model of out/own is {MODEL}, code of yours, which runs only from a file that you name." in output
    code, output = search("--resume", "out/own", "--model", "elsewhere.py:MyVAE").wait()
    assert code == 0, output
    is_whole(folder)
    study = load_study(folder)
    own = study.trials[study.trials["model"] == MODEL]
    assert own.loc[1, "model.depth"] == 2
    assert own["hidden_width"].isna().all()
    assert set(study.trials["state"]) == {"COMPLETE"}
    assert load_model(folder, model=f"{tmp_path / 'elsewhere.py'}:MyVAE").latent_size == study.best["latent_size"]
