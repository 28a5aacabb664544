"""The training of a search's trials by Ray Tune: the searcher proposes them, the scheduler decides which go on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from ray import tune

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.cluster.ray_processes import NO_TASK, RayDied
from vae_tune.cluster.ray_runtime import RunningRay, ray_is_alive
from vae_tune.cluster.slots import CurrentSlots, Slots
from vae_tune.cluster.worker_entry import ray_trainable
from vae_tune.config import names
from vae_tune.config.errors import SearchError
from vae_tune.config.files import absolute, address
from vae_tune.config.hyperparameters import with_values
from vae_tune.config.machine_limits import cpu_note
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.storage import claim_for
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow, now
from vae_tune.search.callbacks import EachStep, FailureReasons, ForgetMetrics, ReportsToLifecycle, StopsAll
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping, explain
from vae_tune.tasks.models import codes_of, models_of
from vae_tune.tasks.search_start import RunningSearch
from vae_tune.vae.memory_estimate import PROCESS, training_bytes

if TYPE_CHECKING:
    from vae_tune.tasks.winner import WinnerKeeper

_MAX_FAILURES = 3
"""Times that a trial is tried again after its worker died or raised."""
_MAX_RESTARTS = 3
"""Times in a row that Ray is started again without a finished epoch between."""


def train_trials(search: RunningSearch) -> None:
    """Train the trials and evaluate the winner."""
    plan, record, images, slots = search.plan, search.record, search.images, search.slots
    ray, view, stopping = search.ray, search.view, search.stopping
    ray.log.write_to(plan.folder / names.RAY_FOLDER / names.RAY_LOG_FILE)
    unit = LossUnit.of(record.metadata["metric"])
    view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows, unit)
    room = f"{slots}{cpu_note() if plan.config.resources.address is None else ''}"
    view.say(f"Study {address(plan.place)}: {room}; losses in {unit.name} ({unit.kind.words})")
    if record.rows:
        going = sum(row.state == names.RUNNING for row in record.rows)
        view.say(f"Resumed: {len(record.rows) - going} trials have ended, {going} unfinished ones continue.")
    for row in record.rows:
        stopping.listen(row)
    with contextlib.ExitStack() as threads:

        @cache
        def keeper() -> WinnerKeeper:
            from vae_tune.tasks.winner import WinnerKeeper
            from vae_tune.vae.threads import cpu_threads

            # the trials have the other cores; and as many threads as theirs give the same numbers
            threads.enter_context(cpu_threads(slots.cpus))
            return WinnerKeeper(record, images, plan.base.max_epochs, plan.config.keep, view.warn)

        importing = Thread(target=_import_ahead, args=[plan.config.num_samples])

        def keep(row: TrialRow) -> None:
            """Keep the best of the ended; import the rest once the workers train, since they import torch too."""
            if row.state != names.RUNNING:
                keeper()(row)
            elif row.reports and importing.ident is None:
                importing.start()

        record.listeners += [stopping.listen, keep, view]

        def run() -> None:
            stopping.begin()
            trainable = tune.with_parameters(  # stores the images in the Ray that runs now
                ray_trainable,
                images=images,
                base=plan.base,
                folder=absolute(plan.place),
                threads=slots.cpus,
                spot=plan.config.resources.address is not None,
                claim=claim_for(plan.place),
                codes=codes_of(models_of(plan.base, plan.space)),
            )
            run_trials(trainable, plan.config, plan.space, record, now_there, stopping, ray.check, needs)

        def left() -> int:
            return plan.config.num_samples - sum(row.state != names.RUNNING for row in record.rows)

        def needs(config: TrialConfig, on_gpu: bool) -> int:
            return PROCESS + training_bytes(config, images.shape, len(images.validation), on_gpu=on_gpu)

        now_there = CurrentSlots(slots, plan.config.resources, view.say, stopping.fail, left)

        outliving_ray(run, record, stopping, ray, view.warn)
        status = stopping.reason
        if status in ("", names.TIME_BUDGET):  # it can pause trials after the last suggestion, or end with the last
            status = names.TIME_BUDGET if left() > 0 else "complete"
        if why := explain(status, plan.config, left()):
            view.warn(why)
        if stopping.reason == names.INTERRUPTED:
            keeper().pause()
        else:
            view.say("Evaluating the winner on the test images ...")
            keeper().finish()
    record.set_status(status, ended=now())


def outliving_ray(
    run: Callable[[], None], record: StudyRecord, stopping: Stopping, ray: RunningRay, warn: Callable[[str], None]
) -> None:
    """Call ``run``, which runs trials; where a local Ray dies, start it again and go on, as a resume would.

    Raises:
        SearchError: Ray died again after the last restart that is tried without a finished epoch between.
    """
    starts, before, has_died = 0, -1, False
    while True:
        try:
            if has_died:
                ray.restart()
            ray.check()
            run()
            return
        except RayDied as died:
            if stopping.reason == names.INTERRUPTED:
                return
            has_died = True
            epochs = sum(row.epochs for row in record.rows)
            starts = 1 if epochs != before else starts + 1
            before = epochs
            if stopping.error or not ray.can_restart:
                raise _failed(record, stopping.error or str(died)) from died
            if starts > _MAX_RESTARTS:
                times = f"{_MAX_RESTARTS} times in a row, and no epoch was finished"
                raise _failed(record, f"{died} It was started again {times}.") from died
            warn(f"{died} It is started again, and the search goes on (attempt {starts} of {_MAX_RESTARTS}).")


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
    to_run = config.num_samples - sum(row.state != names.RUNNING for row in record.rows)
    if to_run <= 0:
        return
    grows = config.resources.address is not None
    most = min(to_run, config.resources.max_concurrent or to_run) if grows else slots().count
    cpus = slots().cpus

    def each_step() -> None:
        record.refresh()
        stopping.slots = slots().count  # it looks at the nodes, also when no more trials are handed out
        check()

    def share(values: dict[str, Any]) -> tune.PlacementGroupFactory:
        gpu = {"GPU": values[names.GPUS]} if values[names.GPUS] else {}
        return tune.PlacementGroupFactory([{"CPU": float(cpus), **gpu}])

    tuner = tune.Tuner(
        tune.with_resources(trainable, share),
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
            callbacks=[FailureReasons(searcher.trials, stopping, check), EachStep(each_step), ForgetMetrics()],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        check()
        if ray_is_alive():
            with contextlib.suppress(OSError):
                record.set_status(names.FAILED, ended=now())
            raise
        raise RayDied(NO_TASK) from error  # whatever Tune stumbled over is a consequence
    finally:
        _clear_ray_state(record.folder / names.RAY_FOLDER)
    if stopping.error:
        raise _failed(record, stopping.error)


def _failed(record: StudyRecord, error: str) -> SearchError:
    """Record that an error ended the search, and return the error to raise."""
    with contextlib.suppress(OSError):
        record.set_status(names.FAILED, ended=now())
    return SearchError(f"{error}\nFix the cause, then resume: {record.resume_command}")


def _import_ahead(num_samples: int) -> None:
    """Import the modules that are first needed between two trials or at the end, where it would cost waiting.

    An import that fails here fails again, with a message, where it is needed. After the end of the search some modules
    cannot be imported any more; that is silent.
    """
    with contextlib.suppress(Exception):
        for name in ("scipy.special", "vae_tune.tasks.winner", "vae_tune.replay.forecast"):
            import_module(name)
        from vae_tune.replay.surrogate import FEWEST

        if num_samples >= FEWEST:  # from fewer there is no forecast
            import_module("sklearn.gaussian_process")


def _clear_ray_state(folder: Path) -> None:
    """Delete the state that Ray Tune wrote for a restore of its own; a resume here uses the study instead."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != names.RAY_LOG_FILE:
            path.unlink(missing_ok=True)


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config[names.TRIAL]:05d}"
