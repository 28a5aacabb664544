"""The views of a record: what they are shown, what they need, and what they never do to it."""

import dataclasses
import sys
import threading
import tomllib
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch

from tests.cli.test_main import everything_below, run
from tests.record import test_study_record as test_record
from tests.view_servers import Warnings
from tests.views.test_tensorboard import read, scalars
from vae_tune.config.names import COMPLETE, PRUNED, RUNNING
from vae_tune.config.settings import TrialConfig, ViewsConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow
from vae_tune.vae.checkpoint import checkpoint_folder, write_checkpoint
from vae_tune.vae.pictures import grid, samples
from vae_tune.vae.training import EpochReport, new_state
from vae_tune.views.live import VIEWS, live_views, require_packages
from vae_tune.views.live.samples import samples_of
from vae_tune.views.live.view import LiveView

METADATA = {
    **test_record.METADATA,
    "reference": {"latent_size": 20, "max_epochs": 2},
    "data": {"shape": [5, 7]},
    "runs": [{"started": "2026-01-05T08:00:00.000+00:00"}],
}
CONFIG = TrialConfig(latent_size=3, hidden_width=8)


def report(epoch, loss):
    numbers = {"train_loss": loss, "val_loss": loss, "val_reconstruction": loss, "val_kl": 1.0, "active_units": 3}
    return EpochReport(epoch=epoch, seconds=1.0, images_per_second=60.0, **numbers)


def train(folder, trial, *losses):
    """Report epochs of a trial, each with its checkpoint, and return the model."""
    state = new_state(CONFIG, (1, 5, 7), torch.device("cpu"))
    for epoch, loss in enumerate(losses, start=1):
        state.epoch = epoch
        write_checkpoint(checkpoint_folder(folder, trial), CONFIG, state, report(epoch, loss))
    return state.model


@pytest.fixture
def record(tmp_path):
    record = StudyRecord.create(tmp_path / "study", METADATA)
    yield record
    record.close()


def ask(record):
    trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
    record.start(trial, trial.params)
    return trial.number


def delete_checkpoints(record):
    """A listener that deletes the checkpoints of a trial that has ended, as the search does with those that lost."""

    def listen(row):
        if row.state != RUNNING:
            for path in checkpoint_folder(record.folder, row.trial).iterdir():
                path.unlink()

    return listen


def test_trials_that_were_there_and_those_that_come_are_shown_with_samples_of_models_that_are_deleted_at_once(record):
    before = ask(record)
    record.report(before, vars(report(1, 130.0)))
    with live_views(ViewsConfig(tensorboard=True), record, Warnings()) as names:
        record.listeners.append(delete_checkpoints(record))
        number = ask(record)
        model = train(record.folder, number, 120.0, 110.0)
        for epoch, loss in enumerate((120.0, 110.0), start=1):
            record.report(number, vars(report(epoch, loss)))
        record.finish(number, COMPLETE)
    folder = record.folder / "tensorboard"
    assert names == [f"TensorBoard at {folder}"]
    assert scalars(folder / "trial_00000") == [(1, 130.0)]
    assert scalars(folder / "trial_00001") == [(1, 120.0), (2, 110.0)]
    (image,) = read(folder / "trial_00001").Images("samples")
    sheet = grid(samples(model, 64), 8)
    assert (image.step, image.height, image.width) == (2, *sheet.shape)


def test_a_view_that_is_down_does_not_touch_the_record_and_warns_once(record):
    warnings = Warnings()
    with live_views(ViewsConfig(visdom="http://127.0.0.1:9"), record, warnings):
        number = ask(record)
        record.report(number, vars(report(1, 120.0)))
        record.finish(number, PRUNED)
        assert "Connection refused" in warnings.first()
    assert record.rows[0].state == PRUNED
    assert len(warnings.lines) == 1


def test_a_view_is_a_field_a_line_in_the_list_and_a_module_named_like_the_extra_that_installs_it():
    assert set(VIEWS) == {field.name for field in dataclasses.fields(ViewsConfig)}
    views = [resolve_name(path) for path in VIEWS.values()]
    assert all(issubclass(view, LiveView) and view.name and view.package for view in views)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {view.__module__.rpartition(".")[2] for view in views} <= set(project["optional-dependencies"])


class NewView(LiveView):
    name, package, shown = "Comet", "json", []

    def __init__(self, address, folder, metadata):
        self.shown.append((address, folder, metadata["name"]))

    def show(self, row, draw_samples):
        self.shown.append((row.trial, row.state))

    def close(self, status):
        self.shown.append(status)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewConfig(ViewsConfig):
    comet: str | None = None


def test_a_new_view_needs_only_its_class_its_field_and_its_line(record, monkeypatch):
    monkeypatch.setitem(VIEWS, "comet", f"{__name__}:NewView")
    config = NewConfig(comet="https://comet.example")
    require_packages(config)
    with live_views(config, record, Warnings()) as names:
        assert names == ["Comet at https://comet.example"]
        record.finish(ask(record), PRUNED)
    name, status = record.metadata["name"], record.metadata["status"]
    assert NewView.shown[0] == ("https://comet.example", record.folder, name)
    assert NewView.shown[-2:] == [(0, PRUNED), status]


def test_without_views_nobody_listens_and_no_thread_starts(record):
    before = threading.active_count()
    with live_views(ViewsConfig(), record, Warnings()) as names:
        assert names == record.listeners == []
        assert threading.active_count() == before


def test_samples_are_drawn_once_for_all_views(tmp_path):
    model = train(tmp_path, 3, 120.0)
    row = TrialRow(3, {}, "", PRUNED, reports=({"epoch": 1},))
    draw = samples_of(tmp_path, row)
    assert draw() is draw()
    assert np.array_equal(draw(), grid(samples(model, 64), 8))


@pytest.mark.parametrize("state", [RUNNING, PRUNED])
def test_a_trial_that_runs_or_has_no_checkpoint_has_no_samples_of(tmp_path, state):
    if state == RUNNING:
        train(tmp_path, 3, 120.0)
    assert samples_of(tmp_path, TrialRow(3, {}, "", state, reports=({"epoch": 1},))) is None


@pytest.mark.parametrize(
    ("option", "package", "extra"),
    [
        ("--tensorboard", "tensorboardX", "tensorboard"),
        ("--mlflow sqlite:///mlflow.db", "mlflow", "mlflow"),
        ("--visdom http://127.0.0.1:8097", "visdom", "visdom"),
        ("--wandb vae", "wandb", "wandb"),
        ("--study-storage postgresql://host/teams", "psycopg", "postgresql"),
    ],
)
def test_a_missing_package_is_named_with_its_extra_before_anything_is_created(
    monkeypatch, capsys, tmp_path, option, package, extra
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, errors = run(monkeypatch, capsys, *option.split())
    view = option.split()[0]
    assert code == 2
    assert errors == f"search.py: {view} needs the package {package}: pip install 'vae-tune[{extra}]'\n"
    assert not everything_below(tmp_path)
