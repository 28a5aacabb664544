"""A whole search: Ray Tune runs the trials, the Optuna study proposes them and keeps the record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from importlib import metadata
from pathlib import Path
from subprocess import DEVNULL, run
from types import FrameType
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from ray import tune
from ray.tune.stopper import Stopper

from vae_tune.cluster import Slots, find_slots, running_ray
from vae_tune.config import SearchConfig, TrialConfig, UsageError, to_dict
from vae_tune.data import Images, load_images
from vae_tune.names import RAY_FOLDER, TRIAL
from vae_tune.record import StudyRecord, now
from vae_tune.scheduler import Asha, Rungs
from vae_tune.searcher import FailureReasons, StudySearcher
from vae_tune.space import Space, load_space
from vae_tune.study import Study, load_study
from vae_tune.terminal import View, make_view
from vae_tune.trainable import train_trial
from vae_tune.winner import KIND, WinnerKeeper

_MAX_FAILURES = 3
"""Times that a trial is tried again after its worker died or raised."""


def run_search(config: SearchConfig, *, view: View | None = None) -> Study:
    """Run a search from its first trial to ``best/`` and return the study.

    Args:
        config: what to search and how.
        view: where to show it; by default the terminal, or plain lines elsewhere.

    Raises:
        UsageError: the search cannot run as configured; nothing was created.
        KeyboardInterrupt: it was interrupted; the record holds all that was computed.

    """
    space = load_space(config.space, config.trial)
    base = dataclasses.replace(config.trial, **space.fixed)
    folder = _new_folder(config)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with view or make_view() as view, ThreadPoolExecutor(1) as reader:
        view.say(f"Reading {config.data.dataset} and starting Ray ...")
        reading = reader.submit(load_images, config.data)
        with running_ray(config.resources) as ray_log:
            images = _result(reading)
            slots = find_slots(config.resources)
            record = StudyRecord.create(folder, _manifest(config, base, space, images), space)
            ray_log.write_to(folder / RAY_FOLDER / "driver.log")
            keeper = WinnerKeeper(record, images, base.max_epochs)
            view.begin(config.num_samples, base.max_epochs, record.rows)
            view.say(f"Study {folder.name}: {slots.count} trials side by side, {_resources(slots)} each.")
            record.listeners += [keeper, view]
            with _interruptible() as stop:
                _run_trials(config, base, space, record, images, slots, stop)
        return _finish(record, keeper, view, interrupted=stop.requested)


def _run_trials(
    config: SearchConfig,
    base: TrialConfig,
    space: Space,
    record: StudyRecord,
    images: Images,
    slots: Slots,
    stop: StopOnRequest,
) -> None:
    """Let Ray Tune run trials until there are enough or ``stop`` is requested."""
    searcher = StudySearcher(record, space, base, config.sampler)
    rungs = Rungs(config.asha.rungs(base.max_epochs), config.asha.reduction_factor)
    trainable = tune.with_parameters(
        train_trial, images=images, base=base, folder=record.folder.absolute(), threads=slots.cpus
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": slots.cpus, "gpu": slots.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=Asha(rungs, base.max_epochs),
            num_samples=config.num_samples,
            max_concurrent_trials=slots.count,  # also lets Ray start as many actors at once
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=str(record.folder.absolute()),
            stop=stop,
            callbacks=[FailureReasons(searcher)],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except BaseException:
        record.set_status("failed", ended=now())
        raise


def _finish(record: StudyRecord, keeper: WinnerKeeper, view: View, *, interrupted: bool) -> Study:
    """Evaluate the winner, close the record and show it."""
    if interrupted:
        record.set_status("interrupted", ended=now())
    else:
        view.say("Evaluating the winner on the test images ...")
        keeper.finish()
        record.set_status("complete", ended=now())
    record.close()
    study = load_study(record.folder)
    view.end(record.rows, study.metrics, record.folder)
    if interrupted:
        raise KeyboardInterrupt
    return study


def _new_folder(config: SearchConfig) -> Path:
    """Return the folder of a new study, which does not exist yet but can be made.

    Raises:
        UsageError: it exists, or cannot be made.

    """
    name = config.study_name or f"{config.data.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = config.results_dir / name
    if folder.exists():
        raise UsageError(f"The study {folder} exists already.\nTo go on with it: --resume {folder}")
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"results_dir {config.results_dir} cannot be written: {parent} is no writable folder."
        )
    return folder


def _manifest(config: SearchConfig, base: TrialConfig, space: Space, images: Images) -> dict[str, Any]:
    """Return the content of ``study.json``."""
    return {
        "name": config.study_name,
        "status": "running",
        "started": now(),
        "command": sys.argv,
        "seed": base.seed,
        "config": to_dict(config),
        "reference": to_dict(base),
        "space": {name: distribution_to_json(dist) for name, dist in space.distributions.items()},
        "fixed": dict(space.fixed),
        "data": {
            "dataset": config.data.dataset,
            "sha256": images.sha256(),
            "train": len(images.train),
            "validation": len(images.validation),
            "test": len(images.test),
            "shape": list(images.train.shape[1:]),
        },
        "metric": {"name": "val_loss", "unit": "nats per image", "kind": KIND, "mode": "min"},
        "rungs": list(config.asha.rungs(base.max_epochs)),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    names = ("vae-tune", "torch", "torchvision", "ray", "optuna", "pandas", "numpy")
    here = Path(__file__).parent
    git = run(
        ["git", "-C", str(here), "describe", "--always", "--dirty"],
        stdout=-1,
        stderr=DEVNULL,
        text=True,
        check=False,
    )
    return {
        "python": sys.version.split()[0],
        **{name: metadata.version(name) for name in names},
        "git": git.stdout.strip() if git.returncode == 0 else "",
    }


def _result(reading: Future[Images]) -> Images:
    return reading.result()


def _resources(slots: Slots) -> str:
    cpus = f"{slots.cpus} CPU{'s' if slots.cpus > 1 else ''}"
    return f"{cpus} and {slots.gpus:g} GPU" if slots.gpus else cpus


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config[TRIAL]:05d}"


class StopOnRequest(Stopper):  # type: ignore[misc]
    """Lets Ray Tune end in order, between two of its steps, once it is requested."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to end the search."""
        return self.requested


@contextlib.contextmanager
def _interruptible() -> Iterator[StopOnRequest]:
    """Turn the first Ctrl-C or SIGTERM into an orderly end; a second one acts as usual."""
    stop = StopOnRequest()
    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in signals}

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.requested = True
        signal.signal(number, before[number])

    for number in signals:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number in signals:
            signal.signal(number, before[number])
