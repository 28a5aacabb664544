"""The trials of a search, run by Ray Tune: the study's searcher proposes them, its scheduler decides who goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from ray import tune

from vae_tune.cluster.ray_processes import NO_TASK, RayDied
from vae_tune.cluster.ray_runtime import RunningRay, ray_is_alive
from vae_tune.cluster.slots import CurrentSlots, Slots
from vae_tune.cluster.worker_entry import train_trial
from vae_tune.config.files import absolute, address
from vae_tune.config.machine_limits import cpu_note
from vae_tune.config.names import FAILED, GPUS, INTERRUPTED, RAY_FOLDER, RAY_LOG_FILE, RUNNING, TIME_BUDGET, TRIAL
from vae_tune.config.settings import SearchConfig, SearchError, TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.storage import claim_for
from vae_tune.images.datasets import Images
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow, now
from vae_tune.search.callbacks import EachStep, FailureReasons, LetGo
from vae_tune.search.scheduler import make_scheduler, settle
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Ending, explain
from vae_tune.tasks.search_plan import Plan
from vae_tune.vae.likelihoods.likelihood import kind_of
from vae_tune.vae.memory import PROCESS, training_bytes
from vae_tune.views.terminal import View

if TYPE_CHECKING:
    from vae_tune.tasks.winner import WinnerKeeper

_MAX_FAILURES = 3
"""Times that a trial is tried again after its worker died or raised."""
_MAX_RESTARTS = 3
"""Times in a row that Ray is started again without a finished epoch between."""


def train_trials(
    plan: Plan, record: StudyRecord, images: Images, slots: Slots, view: View, ending: Ending, ray: RunningRay
) -> None:
    """Run the trials and evaluate the winner."""
    ray.log.write_to(plan.folder / RAY_FOLDER / RAY_LOG_FILE)
    view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows)
    room = f"{slots}{cpu_note() if plan.config.resources.address is None else ''}"
    kind = kind_of(plan.base, plan.config.data.binarization)
    view.say(f"Study {address(plan.place)}: {room}; losses in {kind.unit} ({kind.name} values)")
    if record.rows:
        going = sum(row.state == RUNNING for row in record.rows)
        view.say(f"Resumed: {len(record.rows) - going} trials have ended, {going} unfinished ones go on.")
    for row in record.rows:
        ending.listen(row)
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
            """Keep what ended; import the rest once the workers have begun to train, since they import torch too."""
            if row.state != RUNNING:
                keeper()(row)
            elif row.reports and importing.ident is None:
                importing.start()

        record.listeners += [ending.listen, keep, view]

        def trainable() -> Callable[..., Any]:
            """Give the images to the Ray that runs now."""
            function: Callable[..., Any] = tune.with_parameters(
                train_trial,
                images=images,
                base=plan.base,
                folder=absolute(plan.place),
                threads=slots.cpus,
                spot=plan.config.resources.address is not None,
                claim=claim_for(plan.place),
            )
            return function

        def left() -> int:
            return plan.config.num_samples - sum(row.state != RUNNING for row in record.rows)

        def needs(config: TrialConfig, on_gpu: bool) -> int:
            return PROCESS + training_bytes(config, images.shape, len(images.validation), on_gpu=on_gpu)

        now_there = CurrentSlots(slots, plan.config.resources, view.say, ending.fail, left)

        def run() -> None:
            ending.begin()
            run_trials(trainable(), plan.config, plan.space, record, now_there, ending, ray.check, needs)

        outliving_ray(run, record, ending, ray, view.warn)
        status = ending.reason
        if status in ("", TIME_BUDGET):  # it can pause trials after the last suggestion, or be used up by the last
            status = TIME_BUDGET if left() > 0 else "complete"
        if why := explain(status, plan.config, left()):
            view.warn(why)
        if ending.reason == INTERRUPTED:
            keeper().pause()
        else:
            view.say("Evaluating the winner on the test images ...")
            keeper().finish()
    record.set_status(status, ended=now())


def outliving_ray(
    run: Callable[[], None], record: StudyRecord, ending: Ending, ray: RunningRay, warn: Callable[[str], None]
) -> None:
    """Let ``run`` run trials; where a Ray of this machine dies, start it again and go on, as a resume would.

    Raises:
        SearchError: Ray died once more than it is started again without a finished epoch between.
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
            if ending.reason == INTERRUPTED:
                return
            has_died = True
            epochs = sum(row.epochs for row in record.rows)
            starts = 1 if epochs != before else starts + 1
            before = epochs
            if ending.error or not ray.can_restart:
                raise _failed(record, ending.error or str(died)) from died
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
    ending: Ending,
    check: Callable[[], None] = lambda: None,
    needs: Callable[[TrialConfig, bool], int] | None = None,
) -> None:
    """Let Ray Tune run trials until ``config.num_samples`` have finished or ``ending`` says so.

    Raises:
        RayDied: Ray has; ``check`` raises it too, where it is known sooner.
        SearchError: what broke ends the search.
    """
    base = dataclasses.replace(config.trial, **space.fixed)
    scheduler = make_scheduler(config.asha, base.max_epochs, base.seed)
    settle(record, scheduler, base.max_epochs)
    to_run = config.num_samples - sum(row.state != RUNNING for row in record.rows)
    if to_run <= 0:
        return
    searcher = StudySearcher(record, space, base, config.sampler, ending, scheduler, config.num_samples, slots, needs)
    grows = config.resources.address is not None
    most = min(to_run, config.resources.max_concurrent or to_run) if grows else slots().count
    cpus = slots().cpus

    def each_step() -> None:
        record.refresh()
        ending.slots = slots().count  # it looks at the nodes, also when no more trials are handed out
        check()

    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda values: _share(cpus, values[GPUS])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher knows: to Ray Tune, a trial that is handed out again is another one
            max_concurrent_trials=most,  # so many actors may start at once; the searcher knows how many may run
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=str(record.folder.absolute()),
            stop=ending,
            callbacks=[FailureReasons(searcher, ending, check), EachStep(each_step), LetGo()],
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
                record.set_status(FAILED, ended=now())
            raise
        raise RayDied(NO_TASK) from error  # whatever Tune stumbled over is a consequence
    finally:
        _clear_ray_state(record.folder / RAY_FOLDER)
    if ending.error:
        raise _failed(record, ending.error)


def _failed(record: StudyRecord, error: str) -> SearchError:
    """Note in the record that the search broke, and return what to raise."""
    with contextlib.suppress(OSError):
        record.set_status(FAILED, ended=now())
    return SearchError(f"{error}\nMend that, then go on: {record.resume_command}")


def _import_ahead(num_samples: int) -> None:
    """Import what is first needed between two trials or at the end, where trials or a person would wait for it.

    What fails here fails again, and is told, where it is needed; but not where the search has ended meanwhile: then
    some modules cannot be imported any more.
    """
    with contextlib.suppress(Exception):
        for name in ("scipy.special", "vae_tune.tasks.winner", "vae_tune.replay.forecast"):
            import_module(name)
        from vae_tune.replay.surrogate import FEWEST

        if num_samples >= FEWEST:  # from fewer nothing can be foretold
            import_module("sklearn.gaussian_process")


def _share(cpus: int, gpus: float) -> tune.PlacementGroupFactory:
    """Return the resources of a trial."""
    return tune.PlacementGroupFactory([{"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})])


def _clear_ray_state(folder: Path) -> None:
    """Delete the state that Ray Tune wrote for a restore of its own; a resume here asks the study instead."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != RAY_LOG_FILE:
            path.unlink(missing_ok=True)


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config[TRIAL]:05d}"
