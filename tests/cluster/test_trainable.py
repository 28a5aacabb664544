"""A worker stores and reports an epoch while it trains the next one, and loses nothing by that."""

from __future__ import annotations

import contextlib
import gc
import math
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.tune.trainable import FunctionTrainable, function_trainable

from vae_tune.cluster import preemption, trainable
from vae_tune.cluster.trainable import train_trial
from vae_tune.config.names import (
    EPOCH,
    EPOCHS,
    GPU_ERROR,
    GPU_MEMORY,
    GPUS,
    REASON,
    STORAGE_ERROR,
    TRIAL,
    VAL_LOSS,
    VALUES,
)
from vae_tune.config.settings import TrialConfig
from vae_tune.images.datasets import Images
from vae_tune.vae.checkpoint import checkpoint_folder, checkpoints, read_midway
from vae_tune.vae.training import Diverged, TrainingState, fit, new_state

SMALL = TrialConfig(latent_size=3, hidden_width=8, batch_size=16, max_epochs=3, learning_rate=1e-2)
PATIENCE = 60.0


class Worker:
    """A worker of Ray Tune, whose ``answer`` to a report is all that it does; the training can be another one."""

    def __init__(self, folder: Path, images: Images, monkeypatch: pytest.MonkeyPatch):
        self.answer: Callable[[dict[str, Any]], None] = lambda report: None
        self.reports: list[dict[str, Any]] = []
        self.is_notified = False
        self.values: dict[str, Any] = {}
        self.known_epochs = 0
        self.gpus = 0.0
        self.folder = checkpoint_folder(folder, 0)
        self._study = folder
        self._images = images
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(trainable.tune, "report", self._report)
        monkeypatch.delenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", raising=False)

    def train(self) -> None:
        train_trial(
            {TRIAL: 0, VALUES: self.values, EPOCHS: self.known_epochs, GPUS: self.gpus},
            images=self._images,
            base=SMALL,
            folder=self._study,
            threads=1,
            is_notified=self.is_notified,
        )

    def after_first_epoch(self, go_on: Callable[[Callable[[TrainingState], None], TrainingState], None]) -> None:
        """Let ``go_on`` follow the first epoch: it gets what is shown the state between two steps, and the state."""

        def one(config, images, device, state, midway, metric=None) -> Iterator[Any]:
            yield next(fit(config, images, device, state))
            go_on(midway, state)

        self._monkeypatch.setattr(trainable, "fit", one)

    @property
    def epochs(self) -> list[int]:
        return [report[EPOCH] for report in self.reports]

    def _report(self, report: dict[str, Any]) -> None:
        self.reports.append(report)
        self.answer(report)


@pytest.fixture
def worker(tmp_path, tiny, monkeypatch) -> Worker:
    return Worker(tmp_path, tiny, monkeypatch)


def stop(_: object) -> None:
    """End the trial, as Ray Tune does from within a report."""
    raise SystemExit(0)


def test_the_next_epoch_is_trained_while_a_report_waits_for_its_answer(worker):
    trains = Event()

    def answer(report):
        assert report[EPOCH] > 1 or trains.wait(PATIENCE)

    worker.answer = answer
    worker.after_first_epoch(lambda midway, state: trains.set())
    worker.train()
    assert trains.is_set()


def test_an_epoch_is_reported_once_its_checkpoint_is_stored_and_in_its_turn(worker):
    stored: list[list[str]] = []
    worker.answer = lambda report: stored.append([path.name for path in checkpoints(worker.folder)])
    worker.train()
    names = [f"epoch_{epoch:04d}.safetensors" for epoch in (3, 2, 1)]
    assert worker.epochs == [1, 2, 3]
    assert [files[0] for files in stored] == names[::-1]
    assert [path.name for path in checkpoints(worker.folder)] == names[:2]


def test_a_stopped_trial_ends_in_the_middle_of_the_epoch_that_it_has_begun(worker):
    begun, overrun = Event(), []

    def answer(report):
        begun.wait(PATIENCE)
        stop(report)

    def train_on(midway, state):
        begun.set()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            midway(state)
        overrun.append(state.step)

    worker.answer = answer
    worker.after_first_epoch(train_on)
    with pytest.raises(SystemExit) as end:
        worker.train()
    assert end.value.code == 0  # any other Ray takes for a failure
    assert not overrun
    assert worker.epochs == [1]


def test_a_stopped_trial_keeps_no_memory_until_python_looks_for_garbage(worker, monkeypatch):
    models = []

    def new(*arguments):
        state = new_state(*arguments)
        models.append(weakref.ref(state.model))
        return state

    monkeypatch.setattr(trainable, "new_state", new)
    worker.answer = stop
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(SystemExit):
            worker.train()
        assert worker.epochs == [1]
        assert [model() for model in models] == [None]
    finally:
        gc.enable()


def test_a_gpu_that_torch_cannot_use_is_reported_in_one_line(worker, monkeypatch):
    if torch.cuda.is_available():
        monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1, device="cuda:99"))
    worker.gpus = 0.5
    worker.train()
    (report,) = worker.reports
    assert report[EPOCH] == 0
    assert report[GPU_ERROR]
    assert "\n" not in report[GPU_ERROR]
    assert not worker.folder.exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
)
def test_a_trial_that_runs_out_of_gpu_memory_reports_what_it_held_and_what_was_free(worker, monkeypatch, error):
    def run_out(*_, **__):
        raise error

    monkeypatch.setattr(trainable, "_device_name", lambda device: "a GPU")
    monkeypatch.setattr(trainable, "new_state", run_out)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 9_800_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (300_000_000, 10_100_000_000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    worker.gpus = 0.5
    worker.train()
    (report,) = worker.reports
    assert report[GPU_MEMORY] == "it held 9.8 GB and asked for more, 0.3 GB were free"
    worker.gpus = 0.0  # on a CPU it is an error like any other
    with pytest.raises(type(error)):
        worker.train()


def test_a_gpu_without_memory_for_cuda_itself_is_no_gpu_that_torch_cannot_use(worker, monkeypatch):
    def run_out(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "ones", run_out)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", run_out)
    worker.gpus = 0.5
    worker.train()
    (report,) = worker.reports
    assert report[GPU_MEMORY] == "it held nothing yet"


@pytest.mark.parametrize("trouble", [RuntimeError("out of memory"), Diverged(2, "training loss")])
def test_what_goes_wrong_after_the_epoch_that_a_trial_was_stopped_at_is_no_matter(worker, trouble):
    def go_wrong(midway, state):
        raise trouble

    worker.answer = stop
    worker.after_first_epoch(go_wrong)
    with pytest.raises(SystemExit):
        worker.train()
    assert worker.epochs == [1]


def test_what_goes_wrong_in_a_trial_that_goes_on_is_told(worker):
    def go_wrong(midway, state):
        raise RuntimeError("out of memory")

    worker.after_first_epoch(go_wrong)
    with pytest.raises(RuntimeError, match="out of memory"):
        worker.train()
    assert worker.epochs == [1]


def test_a_divergence_is_reported_after_the_epoch_before_it(worker):
    def diverge(midway, state):
        raise Diverged(2, "training loss")

    worker.after_first_epoch(diverge)
    worker.train()
    assert worker.epochs == [1, 2]
    assert math.isnan(worker.reports[1][VAL_LOSS])
    assert worker.reports[1][REASON] == "diverged: non-finite training loss in epoch 2"


def test_a_checkpoint_that_cannot_be_stored_ends_the_trial_with_that_for_a_report(worker, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(trainable, "store_checkpoint", full)
    with pytest.raises(SystemExit) as end:
        worker.train()
    assert end.value.code == 0
    assert [report[STORAGE_ERROR] for report in worker.reports] == ["No space left on device"]


def test_a_training_that_begins_again_since_its_checkpoints_are_damaged_says_so(worker):
    worker.folder.mkdir(parents=True)
    (worker.folder / "epoch_0001.safetensors").write_bytes(b"torn")
    worker.known_epochs = 1
    worker.train()
    assert worker.epochs == [1, 2, 3]
    assert "epoch_0001.safetensors is damaged" in worker.reports[0][REASON]
    assert not any(REASON in report for report in worker.reports[1:])


def test_checkpoints_of_a_trial_that_the_record_lost_give_way_to_another_of_its_number(worker):
    worker.train()
    worker.values = {"latent_size": 2}
    worker.known_epochs = 3
    with pytest.raises(ValueError, match="holds checkpoints of another configuration"):
        worker.train()
    worker.known_epochs = 0  # the end of the journal was lost
    worker.train()
    assert worker.epochs == [1, 2, 3, 1, 2, 3]
    assert worker.reports[0][VAL_LOSS] != worker.reports[3][VAL_LOSS]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_trial_goes_on_to_a_later_end_unless_its_schedule_depends_on_that(worker, tiny, monkeypatch, schedule):
    base = replace(SMALL, lr_schedule=schedule)
    monkeypatch.setattr(f"{__name__}.SMALL", base)
    worker.train()
    longer = replace(base, max_epochs=5)
    monkeypatch.setattr(f"{__name__}.SMALL", longer)
    worker.known_epochs = 3
    if schedule == "cosine":
        with pytest.raises(ValueError, match="holds checkpoints of another configuration"):
            worker.train()
        return
    worker.train()
    assert worker.epochs == [1, 2, 3, 3, 4, 5]
    expected = [report.val_loss for report in fit(longer, tiny, torch.device("cpu"))]
    assert [report[VAL_LOSS] for report in worker.reports[:2] + worker.reports[3:]] == expected


def test_what_is_saved_in_an_epoch_is_saved_after_the_checkpoint_that_it_rests_on(worker, monkeypatch):
    written: list[str] = []
    store, saved = trainable.store_checkpoint, Event()

    def slow(*arguments):
        saved.wait(0.5)
        written.append("checkpoint")
        return store(*arguments)

    def save(*_: object) -> None:
        written.append("midway")
        saved.set()

    monkeypatch.setattr(trainable, "store_checkpoint", slow)
    monkeypatch.setattr(trainable, "write_midway", save)
    monkeypatch.setattr(trainable, "on_notice", lambda save: save)  # this node is about to be taken away
    worker.is_notified = True
    worker.after_first_epoch(lambda midway, state: midway(state))
    worker.train()
    assert written == ["checkpoint", "midway"]


def test_a_trial_saves_itself_and_ends_where_the_search_pauses(worker, tiny, monkeypatch):
    """It goes on in the middle of its epoch later, with the numbers of a training that nothing interrupted."""
    paused = iter([False, False, True])
    monkeypatch.setattr(preemption.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(preemption, "draining_nodes", dict)
    monkeypatch.setattr(preemption, "read_mark", lambda name: next(paused, False))
    monkeypatch.setattr(preemption, "_POLL_SECONDS", 0.0)
    worker.is_notified = True
    worker.train()
    assert worker.epochs == []
    assert (worker.folder / "midway.safetensors").exists()
    assert read_midway(worker.folder, SMALL, 0, torch.device("cpu")).step == 3
    worker.train()
    expected = [report.val_loss for report in fit(SMALL, tiny, torch.device("cpu"))]
    assert [report[VAL_LOSS] for report in worker.reports] == expected


def test_ray_waits_for_the_step_of_a_stopped_trial_however_long_it_takes(worker, monkeypatch):
    waits: list[float] = []
    thread = SimpleNamespace(is_alive=lambda: True)
    session = SimpleNamespace(finish=lambda timeout: waits.append(timeout), training_thread=thread)
    monkeypatch.setattr(function_trainable, "get_session", lambda: session)
    worker.train()
    assert FunctionTrainable.reset_config(None, {}) is False  # what Ray does between two trials of a worker
    assert waits == [3600]
