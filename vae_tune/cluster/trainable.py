"""The training of a trial in a Ray Tune worker, a process that trains one trial after another."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from ray import tune

from vae_tune.cluster.preemption import Paused, on_notice
from vae_tune.config import names
from vae_tune.config.files import is_remote
from vae_tune.config.settings import TrialConfig
from vae_tune.config.storage import ClaimLost, delete_folder, set_claim
from vae_tune.config.trial_values import with_values
from vae_tune.images.datasets import Images
from vae_tune.vae.checkpoint import (
    checkpoint_bytes,
    checkpoint_folder,
    newest_checkpoint,
    read_midway,
    store_checkpoint,
    write_midway,
)
from vae_tune.vae.memory_estimate import in_words
from vae_tune.vae.schedule import continues
from vae_tune.vae.training import Diverged, EpochReport, TrainingState, fit, new_state
from vae_tune.vae.user_metric import MetricFailed, UserMetric

_STOP_SECONDS = "3600"
"""The longest time that Ray waits for a stopped trial to end its step or evaluation.

By default it abandons the worker after two seconds, and with it the next trial, without telling the searcher or the
callbacks: the search would wait for that trial forever (Ray 2.60).
"""

_OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def train_trial(
    config: dict[str, Any],
    *,
    images: Images,
    base: TrialConfig,
    folder: Path,
    threads: int,
    is_notified: bool = True,
    claim: tuple[Path, str] | None = None,
    metric: UserMetric | None = None,
) -> None:
    """Train one trial and report each epoch to Ray Tune; continue from its newest checkpoint where there is one.

    Args:
        config: the trial's number, its hyperparameters, how many of its epochs the record holds, its share of a GPU.
        images: shared by all trials of a node, read-only.
        base: the reference configuration; the hyperparameters replace its fields.
        folder: the study, on disk or object storage, where the checkpoints go.
        threads: of the CPU.
        is_notified: whether to save the trial in the middle of an epoch when its node is taken away, or at a pause.
        claim: the study on object storage that the driver has claimed, and the claim's token.
        metric: the user's, which ranks the trials in place of the validation loss.
    """
    if claim:
        set_claim(*claim)
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", _STOP_SECONDS)
    torch.set_num_threads(threads)
    device = torch.device("cuda" if config.get(names.GPUS) else "cpu")
    try:
        _train(config, images, base, folder, device, is_notified, metric)
    except RuntimeError as error:
        if device.type == "cpu" or not _is_out_of_memory(error):
            raise
        tune.report({names.EPOCH: 0, names.VAL_LOSS: float("inf"), names.GPU_MEMORY: _gpu_memory()})


def _train(
    config: dict[str, Any],
    images: Images,
    base: TrialConfig,
    folder: Path,
    device: torch.device,
    is_notified: bool,
    metric: UserMetric | None,
) -> None:
    """Train a trial on ``device``; the other arguments are those of :func:`train_trial`."""
    if (name := _device_name(device)) is None:
        return
    trial_config = with_values(base, config[names.VALUES])
    checkpoints = checkpoint_folder(folder, config[names.TRIAL])
    notes: list[str] = []

    def report(epoch: EpochReport, **more: str) -> None:
        if notes:
            more[names.REASON] = notes.pop()
        evaluating = epoch.seconds - len(images.train) / epoch.images_per_second
        own = metric.report(epoch.metrics) if metric and epoch.metrics else {}
        tune.report({**epoch.to_dict(), **own, names.DEVICE: name, names.EVALUATION_SECONDS: evaluating, **more})

    try:
        with warnings.catch_warnings(record=True) as damage:
            warnings.simplefilter("always", UserWarning)  # of every trial of this worker
            checkpoint = newest_checkpoint(checkpoints, device)
    except OSError as error:
        tune.report({names.EPOCH: 0, names.VAL_LOSS: float("inf"), names.STORAGE_ERROR: str(error)})
        return
    if damage:
        notes.append(" ".join(str(warning.message) for warning in damage))
    reports: list[EpochReport] = []
    unknown = is_remote(folder) or not config.get(names.EPOCHS)
    is_own = checkpoint is not None and continues(checkpoint.config, trial_config)
    if checkpoint is None or (unknown and not is_own):
        if checkpoint:  # the end of the record was lost, and another trial got the same number
            delete_folder(checkpoints)
        state = new_state(trial_config, images.shape, device)
    elif not is_own:
        raise ValueError(f"{checkpoints} holds checkpoints of another configuration: {checkpoint.config}")
    else:
        state = checkpoint.state
        reports = [*checkpoint.earlier, checkpoint.report]
        for done in reports:  # the last was perhaps never received; the record ignores an epoch that it knows
            if done.epoch > config.get(names.EPOCHS, 0) or done is checkpoint.report:
                report(done)
    state = read_midway(checkpoints, trial_config, state.epoch, device) or state
    with _Reporter(checkpoints, report) as reporter:
        watch = on_notice(partial(reporter.save_midway, trial_config, state)) if is_notified else None

        def midway(_: TrainingState) -> None:
            reporter.raise_if_stopped()
            if watch:
                watch()

        try:
            for epoch in fit(trial_config, images, device, state, midway, metric):
                reporter.submit(epoch, checkpoint_bytes(trial_config, state, epoch, reports))
                reports.append(epoch)
        except (Diverged, MetricFailed) as failure:
            reporter.wait()
            tune.report(_failure_report(failure, state.epoch + 1) | {names.DEVICE: name})


def _failure_report(failure: Diverged | MetricFailed, epoch: int) -> dict[str, Any]:
    """Return the report that ends a trial as FAIL, with the reason."""
    is_divergence = isinstance(failure, Diverged)
    why = {names.REASON: str(failure)} if is_divergence else {names.METRIC_ERROR: f"{failure}, in epoch {epoch}"}
    return {names.EPOCH: epoch, names.VAL_LOSS: float("nan"), **why}


def _device_name(device: torch.device) -> str | None:
    """Return the name of a device; report why torch cannot use it: Ray assigns every GPU that a driver lists."""
    try:
        torch.ones(1, device=device).add_(1).item()
        return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA raises the second
        if _is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        tune.report({names.EPOCH: 0, names.VAL_LOSS: float("inf"), names.GPU_ERROR: reason})
        return None


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether a GPU's memory did not suffice; libraries of CUDA have words of their own for that."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _gpu_memory() -> str:
    """Return what this process holds of its GPU's memory, and what is left there; let go of what it no longer uses."""
    try:
        held, (free, _) = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()
        torch.cuda.empty_cache()
    except RuntimeError:  # there was not even enough for CUDA itself
        return "it held nothing yet"
    return f"it held {in_words(held)} and asked for more, {in_words(free)} were free"


class _Reporter:
    """Stores checkpoints and reports epochs in a thread, while the next epoch is trained.

    An epoch is reported once its checkpoint is stored, and the next one is submitted once Ray Tune has answered. The
    answer may be that the trial ends: then :meth:`raise_if_stopped` and :meth:`wait` raise SystemExit.
    """

    def __init__(self, folder: Path, report: Callable[..., None]):
        self._folder = folder
        self._report = report
        self._thread = ThreadPoolExecutor(1)
        self._stored: Future[Path] | None = None
        self._answer: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        """Wait for the last answer; where it ends the trial, an error in the following epoch does not matter.

        A pause ends the block without an error: the trial goes on when the search is resumed.
        """
        self._thread.shutdown()
        self.raise_if_stopped()
        return kind is Paused

    def submit(self, epoch: EpochReport, content: bytes) -> None:
        """Store and report an epoch as soon as the one before is reported."""
        self.wait()
        self._stored = self._thread.submit(store_checkpoint, self._folder, epoch.epoch, content)
        self._answer = self._thread.submit(self._store_and_report, epoch, self._stored)

    def raise_if_stopped(self) -> None:
        """Raise the error that ends the trial, if there is one."""
        if self._answer and self._answer.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the last answer; raise the error that ends the trial.

        The answer is deleted: its error refers to the trial and its tensors, which refer to it.
        """
        answer, self._answer = self._answer, None
        if answer:
            try:
                answer.result()
            finally:
                del answer

    def save_midway(self, config: TrialConfig, state: TrainingState) -> None:
        """Save a training in the middle of an epoch; where that fails, only this epoch is lost."""
        with contextlib.suppress(OSError, ClaimLost):
            if self._stored:  # else it would continue an epoch that may never be stored
                self._stored.result()
            write_midway(self._folder, config, state)

    def _store_and_report(self, epoch: EpochReport, stored: Future[Path]) -> None:
        try:
            stored.result()
        except (OSError, ClaimLost) as error:
            # not the trial's fault: the search ends, and a resume continues from the epoch before
            self._report(epoch, **{names.STORAGE_ERROR: str(error)})
            sys.exit(0)
        self._report(epoch)
