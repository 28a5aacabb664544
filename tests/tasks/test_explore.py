"""The grid of an exploration, how it is shown, and what it refuses."""

import io
import sys
import threading
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from tests.stores import BUCKET, s3
from tests.studies import SCORE, iso, make_study
from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.analysis.study import load_study
from vae_tune.cli import main as cli
from vae_tune.cli.explore import ExploreOptions, run
from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.files import read_json, write_json
from vae_tune.config.local_copies import mark_copy, record_files, working_copy
from vae_tune.config.names import COMPLETE, DEVICE, EXPLORATION, FAIL, LOCK_FILE, NODE
from vae_tune.config.settings import ResourceConfig, SearchConfig, TrialConfig
from vae_tune.config.storage import write_bytes
from vae_tune.record.metadata import new_metadata, read_metadata, read_search_config, resume_command
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow
from vae_tune.tasks.explore import explore, failures, plan, show
from vae_tune.tasks.repeats import summarize_seeds
from vae_tune.vae.training import fit, new_state
from vae_tune.views.console import make_console
from vae_tune.views.figures.latent_sizes import draw

SUMMARIZED = ("test_loss", "test_reconstruction", "test_kl", "test_active_units")


def test_the_grid_has_every_size_with_every_seed_and_all_sizes_first():
    config, grid = plan(SearchConfig(trial=TrialConfig(seed=7, hidden_width=50)), [2, 10], 3)
    points = [{"latent_size": config.trial.latent_size, "seed": config.trial.seed}, *grid.points]
    assert points == [{"latent_size": size, "seed": seed} for seed in (7, 8, 9) for size in (2, 10)]
    assert config.num_samples == config.keep == 6
    assert config.trial.hidden_width == 50
    assert config.asha.scheduler == "none"
    assert grid.space.contains(config.trial)  # trial 0 is a point like the others


def test_trials_that_failed_are_named():
    states = [(2, COMPLETE), (5, FAIL), (2, COMPLETE), (5, COMPLETE)]
    rows = [TrialRow(number, {"latent_size": size}, iso(0), state) for number, (size, state) in enumerate(states)]
    assert failures(rows) == ["Latent size 5: 1 of 2 trials failed and are left out; trials.csv gives the reasons."]


def test_one_repeat_of_one_size_is_a_grid():
    config, grid = plan(SearchConfig(), [3], 1)
    assert (config.num_samples, list(grid.points)) == (1, [])


def test_a_resumed_exploration_goes_on_with_its_own_settings_on_other_resources(tmp_path, tiny, monkeypatch):
    trial, rooms = TrialConfig(hidden_width=50), ResourceConfig(max_concurrent=1)
    config, grid = plan(SearchConfig(study_name="e", results_dir=tmp_path, trial=trial), [2, 10], 5)
    metadata = new_metadata("e", config, config.trial, grid.space, tiny, grid.kind) | {"runs": []}
    StudyRecord.create(tmp_path / "e", metadata).close()
    searched = []
    monkeypatch.setattr(
        "vae_tune.tasks.explore.run_search", lambda config, **_: searched.append(config) or load_study(config.resume)
    )
    with pytest.raises(UsageError, match=r"No trial of .* was trained to the end"):
        run(ExploreOptions(resume=tmp_path / "e", resources=rooms))
    assert searched == [replace(config, resume=tmp_path / "e", resources=rooms)]


@pytest.fixture
def explored(monkeypatch, capsys):
    """Resume the exploration ``e`` with further words, as if they were typed; returns what it said of an error."""

    def explored(*words):
        monkeypatch.setattr(sys, "argv", ["vae-tune", "--resume", "e", *words])
        with pytest.raises(SystemExit):
            cli.main(["explore"])
        return capsys.readouterr().err

    return explored


def test_a_resumed_exploration_needs_the_place_of_a_users_class_and_no_other_option(tmp_path, monkeypatch, explored):
    monkeypatch.chdir(tmp_path)
    config, grid = plan(SearchConfig(), [2, 10], 2)
    own = replace(config.trial, model="my_vae.py:MyVAE")
    make_study(tmp_path / "e", trials=4, space=grid.space, scheduler="none", kind=grid.kind, reference=own)
    searched = []

    def run_search(config, **_):
        searched.append(config.trial.model)
        raise UsageError("It searches.")

    monkeypatch.setattr("vae_tune.tasks.explore.run_search", run_search)

    assert "The model of e is my_vae.py:MyVAE, code of yours" in explored()
    assert "--resume takes no options but --model" in explored("--model", "moved.py:MyVAE", "--batch-size", "64")
    assert searched == []
    assert "It searches." in explored("--model", "moved.py:MyVAE")
    assert searched == ["moved.py:MyVAE"]


def test_a_resumed_exploration_needs_the_place_of_a_users_metric(tmp_path, monkeypatch, explored):
    monkeypatch.chdir(tmp_path)
    config, grid = plan(SearchConfig(metric="mine.py:f", maximize=True), [2, 10], 2)
    folder = make_study(tmp_path / "e", trials=4, space=grid.space, scheduler="none", kind=grid.kind, metric=SCORE)
    metadata = read_json(folder / "study.json")
    write_json(
        folder / "study.json", metadata | {"config": metadata["config"] | {"metric": "mine.py:f", "maximize": True}}
    )
    searched = []

    def run_search(config, **_):
        searched.append((config.metric, config.maximize))
        raise UsageError("It searches.")

    monkeypatch.setattr("vae_tune.tasks.explore.run_search", run_search)

    assert "The metric of e is mine.py:f, code of yours" in explored()
    assert "It searches." in explored("--metric", "moved.py:f")
    assert searched == [("moved.py:f", True)]
    assert resume_command(read_metadata(folder), folder).endswith(f"explore --resume {folder} --metric mine.py:f")
    assert config.maximize


def test_a_resumed_exploration_finds_its_images_where_they_are_now(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, grid = plan(SearchConfig(), [2, 10], 2)
    make_study(tmp_path / "e", trials=4, space=grid.space, scheduler="none", kind=grid.kind)
    recorded, searched = read_search_config(tmp_path / "e", EXPLORATION).data, []

    def run_search(config, **_):
        searched.append(config.data)
        raise UsageError("It searches.")

    monkeypatch.setattr("vae_tune.tasks.explore.run_search", run_search)
    for words in ((), ("--dataset", "moved"), ("--data-dir", "sets"), ("--dataset", "moved", "--image-size", "8")):
        monkeypatch.setattr(sys, "argv", ["vae-tune", "--resume", "e", *words])
        with pytest.raises(SystemExit):
            cli.main(["explore"])
    assert searched == [recorded, replace(recorded, dataset="moved"), replace(recorded, data_dir=Path("sets"))]
    assert "--resume takes no options but --model, --metric, --dataset, --data-dir" in capsys.readouterr().err


def test_what_follows_an_exploration_on_object_storage_is_written_under_its_claim(tmp_path, tiny, monkeypatch):
    trial = TrialConfig(hidden_width=4, batch_size=20, max_epochs=1)
    config, grid = plan(SearchConfig(study_name="e", results_dir=Path(f"s3://{BUCKET}"), trial=trial), [2], 1)
    beat = threading.Event()

    def load(_):  # and nothing to say: the search has said what there is
        beat.clear()
        assert beat.wait(30)  # while the sizes are compared, the driver shows that it is alive
        return tiny

    monkeypatch.setattr("vae_tune.images.datasets.load_images", load)
    monkeypatch.setattr("vae_tune.record.claim._BEAT_SECONDS", 0.0)
    monkeypatch.setattr("vae_tune.record.remote_sync._PERIOD_SECONDS", 0.02)
    monkeypatch.setattr("vae_tune.tasks.explore.run_search", lambda *_, **__: load_study(folder))
    with s3() as server:
        for name, value in (server.environment | {"VAE_TUNE_CACHE": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)
        place = config.results_dir / "e"
        folder = working_copy(place)
        metadata = new_metadata("e", config, config.trial, grid.space, tiny, grid.kind) | {"runs": []}
        record = StudyRecord.create(folder, metadata, place=place)
        begun = record.study.ask(dict(grid.space.distributions))
        record.start(begun, begun.params)
        cpu = torch.device("cpu")
        for report in fit(config.trial, tiny, cpu, new_state(config.trial, tiny.shape, cpu)):
            record.report(0, {**asdict(report), NODE: "host", DEVICE: "cpu"})
        record.finish(0, COMPLETE)
        record.close()
        mark_copy(folder, place)
        for path in record_files(folder):
            write_bytes(place / path.relative_to(folder), path.read_bytes())
        claimed = {}

        def note(method, name):
            if method == "PUT" and not name.endswith(LOCK_FILE):
                claimed[name] = f"e/{LOCK_FILE}" in server.objects()
            elif method == "PUT":
                beat.set()

        server.before = note
        explore(config, grid)
        assert f"e/{LOCK_FILE}" not in server.objects()
    checkpoint = "e/checkpoints/trial_00000/epoch_0001.safetensors"  # it was lost: the trial is trained again
    assert {checkpoint, "e/explored.csv", "e/latent_sizes.csv", "e/latent_sizes.png"} < claimed.keys()
    assert all(claimed.values())


def test_an_interrupted_exploration_says_how_to_go_on(tmp_path, monkeypatch):
    planned = plan(SearchConfig(study_name="e", results_dir=tmp_path), [2, 10], 5)

    def interrupted(config, **_):
        (config.results_dir / config.study_name).mkdir()
        (config.results_dir / config.study_name / "study.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("vae_tune.tasks.explore.run_search", interrupted)
    console = make_console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        explore(*planned, console)
    assert console.file.getvalue() == f"To continue: {message_hints.resume(tmp_path / 'e', 'explore')}\n"


@pytest.fixture
def sizes():
    """A summary of three sizes, the last with one trial."""
    rows = [(2, 160.0), (2, 162.0), (10, 112.0), (10, 113.0), (20, 108.0)]
    table = pd.DataFrame([{"latent_size": size, **dict.fromkeys(SUMMARIZED, loss)} for size, loss in rows])
    return summarize_seeds(table, ["latent_size"], SUMMARIZED)


def test_the_table_is_markdown_and_names_the_kind(sizes):
    console = make_console(file=io.StringIO(), width=200)
    show(sizes, LossUnit.of({"kind": "static"}), 20, partial(console.print, soft_wrap=True))
    text = console.file.getvalue()
    assert "after 20 epochs, nats per image, static values" in text
    assert "| 2 | 2 | 161.00 | 1.41 | 148.29 to 173.71 |" in text
    assert "| 20 | 1 | 108.00 |  |  |" in text


def test_the_plot_is_a_picture(sizes, tmp_path):
    draw(sizes, LossUnit.of({"kind": "grey"})).savefig(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"


BAD = [
    ("--latent-size 2,2", "--latent-size must be different whole numbers >= 1, such as 2,10,20, but got '2,2'"),
    ("--latent-size 2,x", "--latent-size must be different whole numbers"),
    ("--latent-size 0", "--latent-size must be different whole numbers"),
    ("--latent-size 2,", "--latent-size must be different whole numbers"),
    ("--repeats 0", "--repeats must be >= 1, but got 0"),
    ("--seed 4294967295 --repeats 2", "--repeats must be <= 1, as no seed is above 4294967295, but got 2"),
    ("--epochs 0", "--epochs must be >= 1, but got 0"),
    ("--resume nowhere", "nowhere is no study"),
    ("--resume study", "study is a search, not an exploration"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_refused_in_two_lines(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    make_study(tmp_path / "study", trials=2)
    monkeypatch.setattr(sys, "argv", ["vae-tune", *words.split()])
    with pytest.raises(SystemExit) as stop:
        cli.main(["explore"])
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_a_search_does_not_go_on_with_an_exploration_whose_trials_it_would_only_copy(tmp_path, monkeypatch, capsys):
    _, grid = plan(SearchConfig(), [2, 10], 2)
    make_study(tmp_path / "e", trials=4, space=grid.space, sampler="random", scheduler="none", kind=grid.kind)
    monkeypatch.setattr(sys, "argv", ["search.py", "--resume", str(tmp_path / "e"), "--num-samples", "6"])
    with pytest.raises(SystemExit) as stop:
        cli.main(["search"])
    assert stop.value.code == 2
    assert f" explore --resume {tmp_path / 'e'}\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["confirmation", "confirmation-of-sizes"])
def test_an_exploration_of_any_name_goes_on(tmp_path, name):
    _, grid = plan(SearchConfig(), [2, 10], 2)
    folder = make_study(
        tmp_path / name, trials=4, space=grid.space, sampler="random", scheduler="none", kind=EXPLORATION
    )
    assert read_search_config(folder, EXPLORATION).resume == folder
    with pytest.raises(UsageError, match="is an exploration, not a search"):
        read_search_config(folder)
