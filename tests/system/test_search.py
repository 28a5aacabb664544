"""Whole searches on embedded images, started as a person starts them."""

import json
import os
import re
import time
from dataclasses import replace

import nbformat
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis.run import execute
from tests.system.conftest import is_whole, table
from tests.test_notebook import figures, winner_pictures
from tests.views.test_wandb import history, run_folders
from vae_tune import DataConfig, ResourceConfig, SearchConfig, TrialConfig, load_study, run_search
from vae_tune.analysis.audit import audit
from vae_tune.config.errors import UsageError
from vae_tune.config.names import ARRAYS
from vae_tune.tasks.search import resume_search
from vae_tune.vae.checkpoint import read_model
from vae_tune.views.figures import FIGURES

pytestmark = pytest.mark.system

SMALL = ("--train-size", 5000, "--max-epochs", 3, "--results-dir", "out")


def journal(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    return optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend))


def live_views_agree(place, folder, trials, metrics, output):
    """What TensorBoard, MLflow and W&B were shown is what the record holds; that visdom was down is said once."""
    assert output.count("visdom at http://127.0.0.1:9: Connection refused. Training continues") == 1
    for row in trials:
        shown = EventAccumulator(str(folder / "tensorboard" / f"trial_{int(row['trial']):05d}")).Reload()
        assert len(shown.Scalars("val_loss")) == int(row["epochs"])
        assert len(shown.Images("samples")) == 1
    runs = {run.info.run_name: run for run in MlflowClient(f"sqlite:///{place}/mlflow.db").search_runs(["1"])}
    study = runs.pop(folder.name)
    states = {name: run.data.tags["vae_tune.state"] for name, run in runs.items()}
    assert states == {f"trial {row['trial']}": row["state"] for row in trials}
    assert study.data.metrics["winner/test/negative_elbo"] == metrics["winner"]["test"]["negative_elbo"]
    losses = [history(run) for _, run in sorted(run_folders(folder).items())]
    assert [len(epochs) for epochs in losses] == [int(row["epochs"]) for row in trials]
    assert [epochs[-1][1] for epochs in losses] == [pytest.approx(float(row["val_loss"])) for row in trials]
    assert list(place.glob("mlartifacts/*/artifacts/best/model.safetensors"))


def is_confirmed(folder, output):
    """The winner and the reference were trained again with a seed that the search never saw."""
    assert re.search(r"Winner: trial.*Confirmed with fresh seeds", output, re.DOTALL)
    assert table(folder / "confirmation.csv")[-1]["trial"] == "0"
    assert {trial.params["seed"] for trial in journal(folder / "confirmation").trials} == {1}


def tells_what_it_found(folder, best, reports, output):
    """The study loads, and Jupyter runs the notebook on it."""
    study = load_study(folder)
    assert study.best_trial == best
    assert len(study.epochs) == reports
    execute(folder, output)
    shown = nbformat.read(output, as_version=4)
    assert figures(shown) == len(FIGURES)
    assert winner_pictures(shown) == [
        (folder / "best" / name).read_bytes() for name in ("samples.png", "reconstructions.png")
    ]
    assert f"The best is trial {best}:" in json.dumps(shown)
    assert '"name": "stderr"' not in json.dumps(shown)


def test_a_search_ends_with_the_best_vae_and_a_whole_record(search, tmp_path):
    views = ("--tensorboard", "--mlflow", "sqlite:///mlflow.db", "--visdom", "http://127.0.0.1:9", "--wandb", "vae")
    words = ("--num-samples", 6, "--study-name", "six", "--confirm", 1, "--confirm-seeds", 1, *views, *SMALL)
    code, output = search(*words, environment={"WANDB_MODE": "offline"}).wait()
    assert code == 0, output
    folder = tmp_path / "out" / "six"

    lines = re.findall(r"^\[ ?\d/6\] trial \d .*$", output, re.MULTILINE)
    assert len(lines) == 6
    is_confirmed(folder, output)
    assert not re.search(r"ray::|Traceback|WARNING|INFO", output)  # Ray's chatter stays in its log

    trials, epochs = table(folder / "trials.csv"), table(folder / "epochs.csv")
    assert [row["trial"] for row in trials] == [str(number) for number in range(6)]
    assert {row["state"] for row in trials} <= {"COMPLETE", "PRUNED"}
    assert trials[0]["state"] == "COMPLETE"
    assert (trials[0]["latent_size"], trials[0]["hidden_width"]) == ("20", "400")
    study = journal(folder)
    for row, trial in zip(trials, study.trials, strict=True):
        mine = [epoch for epoch in epochs if epoch["trial"] == row["trial"]]
        assert row["state"] == trial.state.name
        assert {int(epoch["epoch"]): float(epoch["val_loss"]) for epoch in mine} == trial.intermediate_values
        assert float(row["val_loss"]) == float(mine[-1]["val_loss"])
        assert int(row["epochs"]) == len(mine) == (3 if row["state"] == "COMPLETE" else 1)

    metadata = json.loads((folder / "study.json").read_text())
    assert metadata["status"] == "complete"
    assert metadata["rungs"] == [1]
    assert metadata["data"]["train"] == 5000
    assert metadata["runs"][0]["versions"]["ray"].startswith("2.60")
    assert metadata["runs"][0]["slots"]["cpus"] == 1
    assert metadata["runs"][0]["ended"] > trials[-1]["ended"]

    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    complete = [row for row in trials if row["state"] == "COMPLETE"]
    best = min(complete, key=lambda row: float(row["val_loss"]))
    assert metrics["winner"]["trial"] == int(best["trial"])
    assert metrics["winner"]["validation"]["negative_elbo"] == float(best["val_loss"])
    assert metrics["kind"] == "grey"
    for who in ("winner", "reference"):
        test = metrics[who]["test"]
        assert test["negative_elbo"] == pytest.approx(test["reconstruction"] + test["kl"])
        assert abs(test["negative_elbo"] - metrics[who]["validation"]["negative_elbo"]) < 5
    gain = metrics["reference"]["test"]["negative_elbo"] - metrics["winner"]["test"]["negative_elbo"]
    assert metrics["improvement"]["test"] == gain

    model, config = read_model(folder / "best")
    assert config.latent_size == model.latent_size == int(best["latent_size"])
    assert load_file(folder / "best" / "model.safetensors")
    for name in ("samples.png", "reconstructions.png"):
        assert Image.open(folder / "best" / name).convert("L").getextrema()[1] > 200
    kept = [path.relative_to(folder / "checkpoints").as_posix() for path in folder.glob("checkpoints/*/*")]
    assert kept == [f"trial_{int(best['trial']):05d}/epoch_0003.safetensors"]
    assert not list(folder.rglob("*.tmp"))
    assert [path.name for path in (folder / "ray").iterdir()] == ["driver.log"]
    assert audit(folder) == []

    live_views_agree(tmp_path, folder, trials, metrics, output)
    tells_what_it_found(folder, int(best["trial"]), len(epochs), tmp_path / "notebook.ipynb")


@pytest.fixture
def one_cpu():
    """Allow this process and all that it starts one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_cpu")
def test_python_does_what_the_command_does_with_as_many_trials_as_cpus_that_it_may_use(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("learning_rate: {type: float, low: 1.0e-4, high: 1.0e+30, log: true}\n")
    (tmp_path / "points.yaml").write_text("- {learning_rate: 1.0e+30}\n")
    config = SearchConfig(
        num_samples=2,
        space=tmp_path / "space.yaml",
        points=tmp_path / "points.yaml",
        results_dir=tmp_path,
        study_name="py",
        data=DataConfig(train_size=1000),
        trial=TrialConfig(max_epochs=1, hidden_width=32),
    )
    values = np.random.default_rng(0).integers(0, 256, (1300, 7, 9), np.uint8)
    images = {"train": values[:1100], "validation": values[1100:1200], "test": values[1200:]}
    study = run_search(config, images=images)
    assert study.name == "py"
    assert list(study.trials.state) == ["COMPLETE", "FAIL"]
    assert study.trials.reason[1].startswith("diverged: ")
    assert study.config == replace(config, data=DataConfig(train_size=1000, dataset=ARRAYS))
    assert study.image_shape == (1, 7, 9)
    assert study.best.val_loss == study.trials.val_loss.min()
    said = capsys.readouterr().out
    assert "Winner: trial" in said
    assert f"1 trial at a time, 1 CPU each (1 of {os.cpu_count()} CPUs may be used);" in said
    assert study.metadata["runs"][0]["slots"]["count"] == 1
    with pytest.raises(UsageError, match="exists already"):
        run_search(config, images=images)

    before = table(study.folder / "trials.csv")
    longer = resume_search(study.folder, images=images, num_samples=3, resources=ResourceConfig(max_concurrent=1))
    assert table(study.folder / "trials.csv")[:2] == before
    assert len(longer.trials) == 3
    assert longer.trials.state[2] != "RUNNING"
    assert audit(study.folder) == []


def test_a_time_budget_ends_the_search_in_time_with_its_best_confirmed(search, tmp_path):
    space = tmp_path / "narrow.yaml"  # a large network would have long epochs, for which the search keeps time free
    space.write_text("learning_rate: {type: float, low: 1.0e-3, high: 1.0e-2, log: true}\nhidden_width: 20\n")
    brief = ("--train-size", 1000, *SMALL[2:], "--space", space)
    for seconds in (75, 300):  # on a busy machine Ray alone may take most of the first
        name = f"brief-{seconds}"
        start = time.monotonic()
        budget = ("--num-samples", 5000, "--study-name", name, "--time-budget", f"{seconds}s")
        code, output = search(*budget, "--confirm", 1, "--confirm-seeds", 1, *brief).wait()
        assert time.monotonic() - start < 2 * seconds  # 5,000 trials would take ten minutes and more
        folder = tmp_path / "out" / name
        assert json.loads((folder / "study.json").read_text())["status"] == "time budget used"
        confirmed = folder / "confirmation" / "trials.csv"
        if confirmed.exists() and {row["state"] for row in table(confirmed)} == {"COMPLETE"}:
            break
    assert code == 0, output
    assert confirmed.exists(), output
    assert 1 <= len(table(folder / "trials.csv")) < 5000
    assert "test" in json.loads((folder / "best" / "metrics.json").read_text())["winner"]
    assert {trial.state.name for trial in journal(folder / "confirmation").trials} == {"COMPLETE"}
    assert table(folder / "confirmation.csv")[-1]["trial"] == "0"

    begun = len(table(folder / "trials.csv"))
    more = ("--num-samples", begun + 1, "--time-budget", "None", "--confirm", 0)
    code, output = search("--resume", folder, *more).wait()
    assert code == 0, output
    is_whole(folder, trials=begun + 1)
