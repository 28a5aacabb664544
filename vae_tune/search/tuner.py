"""Ray Tune runs the trials of a search: the searcher proposes them, the scheduler decides which continue."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from vae_tune.cluster.preemption import ask_to_pause
from vae_tune.cluster.ray_processes import NO_TASK, RayDied
from vae_tune.cluster.ray_runtime import ray_is_alive
from vae_tune.cluster.slots import Slots
from vae_tune.cluster.worker_entry import trial_resources
from vae_tune.config import names
from vae_tune.config.compat.ray_tune import busy_steps
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import with_values
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import now
from vae_tune.search.callbacks import EachStep, FailureReasons, ForgetTrials, ReportsToLifecycle, StopsAll
from vae_tune.search.ray_restarts import failed
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import Lifecycle

_MAX_FAILURES = 3
"""Times that a trial is tried again after its worker died or raised."""


def run_trials(
    trainable: Callable[..., Any],
    config: SearchConfig,
    space: Space,
    record: StudyRecord,
    slots: Callable[[], Slots],
    stopping: Stopping,
    check: Callable[[], None] = lambda: None,
    needs: Callable[[TrialConfig, bool], int] | None = None,
) -> None:
    """Let Ray Tune run trials until ``config.num_samples`` have finished or ``stopping`` says so.

    Raises:
        RayDied: Ray has died; ``check`` raises it where that is known sooner.
        SearchError: an error ended the search.
    """
    base = with_values(config.trial, space.fixed)
    scheduler = make_scheduler(config.asha, base.max_epochs, base.seed)
    searcher = StudySearcher(
        record, space, base, config.sampler, stopping, scheduler, config.num_samples, slots, needs
    )
    to_run = config.num_samples - record.ended
    if to_run <= 0:
        return
    grows = config.resources.address is not None
    most = min(to_run, config.resources.max_concurrent or to_run) if grows else slots().count
    each_step = partial(_each_step, record, searcher.trials, stopping, slots, check)
    ask_to_pause(pausing=False)
    tuner = tune.Tuner(
        tune.with_resources(trainable, partial(trial_resources, slots().cpus)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=ReportsToLifecycle(searcher.trials),
            num_samples=-1,  # the searcher knows: to Ray Tune, a trial that starts again is another one
            max_concurrent_trials=most,  # so many actors may start at once; the searcher knows how many may run
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=names.RAY_FOLDER,
            storage_path=str(record.folder.absolute()),
            stop=StopsAll(stopping),
            callbacks=[FailureReasons(searcher.trials, stopping, check), EachStep(each_step), ForgetTrials()],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            verbose=0,
        ),
    )
    try:
        with record.synced_in_background():
            with busy_steps(lambda: searcher.all_slots_are_taken):
                tuner.fit()
            with searcher.trials.recording():
                record.wait()
    except Exception as error:
        check()
        if ray_is_alive():
            with contextlib.suppress(OSError):
                record.set_status(names.FAILED, ended=now())
            raise
        raise RayDied(NO_TASK) from error  # Ray's death caused the error that Tune raised
    finally:
        _clear_ray_state(record.folder / names.RAY_FOLDER)
    if stopping.error:
        raise failed(record, stopping.error)


def _each_step(
    record: StudyRecord, trials: Lifecycle, stopping: Stopping, slots: Callable[[], Slots], check: Callable[[], None]
) -> None:
    """Do what each step of Ray Tune's loop needs."""
    with trials.recording():
        record.refresh()
    stopping.slots = slots().count  # it looks at the nodes, also when no more trials are handed out
    check()
    if stopping.reason == names.PAUSED:
        ask_to_pause(pausing=True)


def _clear_ray_state(folder: Path) -> None:
    """Delete the state that Ray Tune wrote for a restore of its own; a resume here uses the study instead."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != names.RAY_LOG_FILE:
            path.unlink(missing_ok=True)


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config[names.TRIAL]:05d}"
