"""A whole exploration, on Ray."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, alive, descendants, table, wait_for
from vae_tune import DataConfig, ResourceConfig, SearchConfig, TrialConfig
from vae_tune.analysis.audit import audit
from vae_tune.config.files import read_json
from vae_tune.tasks.explore import explore, plan

pytestmark = pytest.mark.system


CONTRAST = "def contrast(model, images):\n    return model.decode(model.encode(images)).std()\n"


def test_an_exploration_trains_its_grid_and_compares_the_sizes_on_test(tmp_path):
    (tmp_path / "mine.py").write_text(CONTRAST)
    config = SearchConfig(
        metric=f"{tmp_path}/mine.py:contrast",
        maximize=True,
        study_name="e",
        results_dir=tmp_path,
        data=DataConfig(train_size=300),
        resources=ResourceConfig(max_concurrent=1),
        trial=TrialConfig(hidden_width=16, max_epochs=2),
    )
    sizes = explore(*plan(config, [2, 5, 1_000_000_000], 2))  # of which the last fits into no machine's memory
    assert sizes["latent_size"].tolist() == [2, 5]
    assert sizes["trials"].tolist() == [2, 2]
    folder = tmp_path / "e"
    assert audit(folder) == []
    refused = [row for row in table(folder / "trials.csv") if row["state"] == "FAIL"]
    assert [row["latent_size"] for row in refused] == ["1000000000"] * 2
    assert all(" GB of memory, but a trial can have " in row["reason"] for row in refused)
    assert not (folder / "forecast.json").exists()  # nothing was proposed, and no trial stopped
    rows = table(folder / "explored.csv")
    assert [(row["latent_size"], row["seed"]) for row in rows] == [("2", "0"), ("5", "0"), ("2", "1"), ("5", "1")]
    mean = sum(float(row["test_loss"]) for row in rows if row["latent_size"] == "2") / 2
    assert sizes["test_loss_mean"][0] == pytest.approx(mean)
    assert sizes["test_contrast_mean"][0] == pytest.approx(sum(float(row["test_contrast"]) for row in rows[::2]) / 2)
    best = max(table(folder / "trials.csv"), key=lambda row: float(row["contrast"] or 0))
    assert read_json(folder / "best" / "metrics.json")["winner"]["trial"] == int(best["trial"])
    assert (folder / "best" / "metric_code" / "mine.py.txt").read_text() == CONTRAST
    for name in ("latent_sizes.csv", "latent_sizes.png", "samples_002.png", "samples_005.png"):
        assert (folder / name).exists()
    goes_on_after_a_kill(tmp_path, folder)


def goes_on_after_a_kill(place, unbroken):
    """The same exploration from the command line, killed in the middle, ends with the same table."""
    command = [Path(sys.executable).with_name("vae-tune"), "explore"]
    small = "--latent-size 2,5,1000000000 --repeats 2 --train-size 300 --hidden-width 16 --epochs 2 --max-concurrent 1"
    metric = ("--metric", f"{place}/mine.py:contrast")
    words = [*command, *small.split(), *metric, "--maximize", "--study-name", "killed", "--results-dir", str(place)]
    with (place / "log").open("w") as log:
        running = subprocess.Popen(words, cwd=ROOT, stdout=log)
        folder = place / "killed"
        wait_for(lambda: len(table(folder / "epochs.csv")) >= 3 or running.poll() is not None)
        children = descendants(running.pid)
        running.kill()
        running.wait()
    wait_for(lambda: not [pid for pid, words in children.items() if "ray::Implicit" in words and alive(pid)])
    resume = [*command, "--resume", str(folder), *metric]
    done = subprocess.run(resume, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| test contrast | 95 % interval |" in done.stdout
    assert audit(folder) == []
    assert (folder / "latent_sizes.csv").read_text() == (unbroken / "latent_sizes.csv").read_text()
