"""A search that a user's own function ranks."""

import json

import optuna
import pytest

from tests.system.conftest import table
from vae_tune.analysis.audit import audit
from vae_tune.config.errors import UsageError
from vae_tune.tasks.search import resume_search

pytestmark = pytest.mark.system

MINE = """
def contrast(model, images):
    if model.latent_size == 3:
        raise ValueError("no contrast")
    found = model.decode(model.encode(images)).std()
    return {"contrast": float("nan") if model.latent_size == 5 and len(images) > 2 else found, "images": len(images)}
"""
SMALL = ("--train-size", 500, "--max-epochs", 2, "--hidden-width", 16, "--results-dir", "out", "--study-name", "mine")


def test_a_users_function_ranks_trials_fails_them_and_must_stay_the_same(search, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE.replace("len(images) > 2", "True").replace("== 5", "== 20"))
    options = ("--metric", "mine.py:contrast", "--maximize", *SMALL)
    code, output = search(*options).wait()
    assert code == 2
    assert (
        "metric mine.py:contrast fails for an untrained model and two images: 'contrast' of contrast is nan" in output
    )
    assert not (tmp_path / "out" / "mine").exists()

    mine.write_text(MINE)
    (tmp_path / "points.yaml").write_text("- {latent_size: 3}\n- {latent_size: 5}\n- {latent_size: 30}\n")
    (tmp_path / "space.yaml").write_text("latent_size: {type: int, low: 2, high: 64}\n")
    code, output = search(*options, "--num-samples", 4, "--points", "points.yaml", "--space", "space.yaml").wait()
    assert code == 0, output
    folder = tmp_path / "out" / "mine"
    assert audit(folder) == []
    trials, epochs = table(folder / "trials.csv"), table(folder / "epochs.csv")
    assert [row["state"] for row in trials[1:3]] == ["FAIL", "FAIL"]
    assert trials[1]["reason"] == "mine.py:4 in contrast: ValueError: no contrast, in epoch 1"
    assert trials[2]["reason"] == "'contrast' of contrast is nan, in epoch 1"
    assert {row["images"] for row in epochs} == {"10000.0"}
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    study = optuna.load_study(study_name="mine", storage=optuna.storages.JournalStorage(backend))
    best = max((row for row in trials if row["state"] == "COMPLETE"), key=lambda row: float(row["contrast"]))
    assert study.direction.name == "MAXIMIZE"
    assert (study.best_trial.number, study.best_value) == (int(best["trial"]), float(best["contrast"]))
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert metrics["winner"]["trial"] == int(best["trial"])
    assert {"contrast", "negative_elbo"} <= {*metrics["winner"]["test"]} & {*metrics["reference"]["validation"]}
    assert f"best {float(best['contrast']):.4g} contrast" in output or "contrast  latent_size=" in output

    with pytest.raises(UsageError, match=r"The metric of .* is mine.py:contrast, code of yours"):
        resume_search(folder)
    mine.write_text(MINE.replace(".std()", ".mean()"))
    code, output = search("--resume", folder, "--metric", "mine.py:contrast", "--num-samples", 5).wait()
    assert code == 2
    assert "metric mine.py:contrast is not the code that ranked this study" in output
    (tmp_path / "moved.py").write_text("# " + MINE)
    mine.unlink()
    assert audit(folder) == []
