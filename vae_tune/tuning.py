"""A whole search: Ray Tune runs the trials, the Optuna study proposes them and keeps the record."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import optuna
from ray import tune

from vae_tune.callbacks import EachStep, FailureReasons, LetGo
from vae_tune.cluster import RAY_DIED, RayLog, ray_is_alive, running_ray
from vae_tune.config import SearchConfig, SearchError, duration_seconds, telling_line
from vae_tune.data import Images, load_images
from vae_tune.ending import Ending, explain, interruptible
from vae_tune.files import address, argument, is_remote
from vae_tune.last_word import last_word
from vae_tune.loggers import live_views
from vae_tune.manifest import (
    read_config,
    read_manifest,
)
from vae_tune.mirror import Claim, claimed, mirrored
from vae_tune.names import (
    FAILED,
    GPUS,
    INTERRUPTED,
    RAY_FOLDER,
    RAY_LOG_FILE,
    RUNNING,
    SEED,
    TIME_BUDGET,
    TRIAL,
)
from vae_tune.plan import Plan, make_plan, open_record, study_place
from vae_tune.record import StudyRecord
from vae_tune.scheduler import make_scheduler, settle
from vae_tune.searcher import StudySearcher
from vae_tune.slots import Slots, SlotsNow, release_command, requested_slots
from vae_tune.space import Grid, Space
from vae_tune.study import Study, load_study
from vae_tune.terminal import View, make_view
from vae_tune.trials import TrialRow, now
from vae_tune.worker import train_trial

if TYPE_CHECKING:
    from vae_tune.winner import WinnerKeeper

_KILLED = "The search was killed, or Ray's core ended it. What its record holds is whole; go on: --resume {}"
_KILLED_EARLY = "The search was killed before its first trial."
_MAX_FAILURES = 3
"""Times that a trial is tried again after its worker died or raised."""


def run_search(config: SearchConfig, *, view: View | None = None, grid: Grid | None = None) -> Study:
    """Run a search, new or resumed, to its end and return the study.

    Args:
        config: what to search and how.
        view: where to show it; by default the terminal, or plain lines elsewhere.
        grid: a new search's space and points, in place of the files that ``config`` names.

    Raises:
        UsageError: the search cannot run as configured; nothing was created or changed.
        KeyboardInterrupt: it was interrupted; the record holds all that was computed.
    """
    budget = None if config.time_budget is None else duration_seconds(config.time_budget)
    ending = Ending(budget, config.target_loss)
    place = study_place(config)
    with claimed(place, view.say if view else partial(print, flush=True)) as claim:
        return _claimed_search(make_plan(config, grid, place), claim, view, ending)


def _claimed_search(plan: Plan, claim: Claim | None, view: View | None, ending: Ending) -> Study:
    """Run a search that no other driver runs."""
    config = plan.config
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with view or make_view() as view, contextlib.ExitStack() as last:  # noqa: PLR1704
        view.say(f"Reading {config.data.dataset} and starting Ray ...")
        with _started(plan, view, ending) as (images, slots, ray_log):
            record = open_record(plan, images, slots)
            # outlasts Ray, whose core may end this process
            release = release_command(config.resources.address)
            last.enter_context(last_word(_KILLED.format(argument(plan.place)), release))
            if claim is not None:
                record.after_upload = last.enter_context(
                    mirrored(record.folder, plan.place, claim, view.warn, ending.fail)
                )
            try:
                with live_views(config.views, record, view.warn, hurry=config.time_budget is not None) as names:
                    for name in names:
                        view.say(f"Live view: {name}")
                    return _search(plan, record, images, slots, view, ending, ray_log)
            except KeyboardInterrupt:
                _note_interruption(record, view)
                raise KeyboardInterrupt("the record keeps all that was computed.") from None
            except SystemExit:
                _note_interruption(record, view)
                raise
            except OSError as error:
                reason = error.strerror or error
                raise SearchError(
                    f"The record in {plan.folder} cannot be written: {reason}. What it holds is whole.\n"
                    f"Mend that, then go on: --resume {argument(plan.place)}"
                ) from error
            finally:
                record.close()


@contextlib.contextmanager
def _started(plan: Plan, view: View, ending: Ending) -> Iterator[tuple[Images, Slots, RayLog]]:
    """Yield the images, and the slots of a Ray that runs while the block lasts.

    A signal is heeded once Ray is up (a SIGTERM that Ray itself heeds, at once): torn from its start, Ray can leave a
    lock behind that everything waits for.
    """
    resources = plan.config.resources
    with ThreadPoolExecutor(1) as reader, contextlib.ExitStack() as running:
        reading = reader.submit(load_images, plan.config.data)
        early = last_word(_KILLED_EARLY, release_command(resources.address))
        with interruptible(ending):
            try:
                ray_log = running.enter_context(running_ray(resources))
            except SystemExit as exited:  # of SIGTERM, for which Ray has handlers of its own as it starts
                raise KeyboardInterrupt("nothing was begun.") from exited
        with interruptible(ending), early:  # once more: Ray has put a handler of its own in its place
            while not (ending.reason or reading.done()):
                wait([reading], timeout=0.1)
            if not ending.reason:
                images = reading.result()
                there = requested_slots(resources, _most_trials(plan), view.say, lambda: bool(ending.reason))
                slots = running.enter_context(there)
        if ending.reason:
            raise KeyboardInterrupt("nothing was begun.")
        yield images, slots, ray_log


def _search(
    plan: Plan, record: StudyRecord, images: Images, slots: Slots, view: View, ending: Ending, ray_log: RayLog
) -> Study:
    """Train the trials, confirm the best, and show what was found."""
    if plan.config.confirm:
        trainings = (plan.config.confirm + 1) * plan.config.confirm_seeds
        ending.later_epochs = trainings * (plan.base.max_epochs + 1) / slots.count  # one for the test images
    _train(plan, record, images, slots, view, ending, ray_log)
    study = load_study(record.folder)
    metrics = study.metrics
    if plan.config.confirm and ending.reason != INTERRUPTED:
        ending = ending.renewed()
        metrics = _confirm(plan, record, images, slots, view, ending, ray_log, metrics)
        view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows)
    advice = [] if ending.reason == INTERRUPTED or study.repeated else _foretell(study, ending, view)
    _report(record.folder, plan.place, view)
    view.end(record.rows, metrics, plan.place, advice)
    if ending.reason == INTERRUPTED:
        raise KeyboardInterrupt
    return study


def _train(
    plan: Plan, record: StudyRecord, images: Images, slots: Slots, view: View, ending: Ending, ray_log: RayLog
) -> None:
    """Run the trials and evaluate the winner."""
    ray_log.write_to(plan.folder / RAY_FOLDER / RAY_LOG_FILE)
    view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows)
    view.say(
        f"Study {address(plan.place)}: {slots}; losses in nats per image ({plan.config.data.binarization} values)"
    )
    for row in record.rows:
        ending.listen(row)
    with contextlib.ExitStack() as threads:

        @cache
        def keeper() -> WinnerKeeper:
            from vae_tune.training import cpu_threads
            from vae_tune.winner import WinnerKeeper

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
        trainable = tune.with_parameters(
            train_trial,
            images=images,
            base=plan.base,
            folder=plan.place if is_remote(plan.place) else plan.place.absolute(),
            threads=slots.cpus,
            spot=plan.config.resources.address is not None,
        )

        def left() -> int:
            return plan.config.num_samples - sum(row.state != RUNNING for row in record.rows)

        now_there = SlotsNow(slots, plan.config.resources, view.say, ending.fail, left)
        with interruptible(ending):
            run_trials(trainable, plan.config, plan.space, record, now_there, ending)
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


def _confirm(
    plan: Plan,
    record: StudyRecord,
    images: Images,
    slots: Slots,
    view: View,
    ending: Ending,
    ray_log: RayLog,
    metrics: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """Train the best configurations again with fresh seeds; return ``metrics`` with what that showed."""
    from vae_tune import confirm

    rows = confirm.candidates(record.rows, plan.base.max_epochs, plan.config.confirm)
    if not rows or ending.refuses_new_trials():
        view.say("Nothing could be confirmed: no time is left, or no trial is complete.")
        return metrics
    used = {row.values.get(SEED, plan.base.seed) for row in record.rows}
    config, grid = confirm.plan(rows, plan.base, plan.config, record.folder, used)
    manifest = read_manifest(config.resume) if config.resume else None
    folder, place = (parent / str(config.study_name) for parent in (record.folder, record.place))
    again = Plan(config, folder, place, grid.space, config.trial, grid.points, config.num_samples, manifest)
    few = (
        "" if len(rows) >= plan.config.confirm else f", all that are complete of the {plan.config.confirm} asked for,"
    )
    view.say(f"Confirming {len(rows)} configurations{few} with {config.num_samples // len(rows)} fresh seeds each ...")
    confirmation = open_record(again, images, slots)
    confirmation.after_upload = record.after_upload
    try:
        _train(again, confirmation, images, slots, view, ending, ray_log)
        from vae_tune.training import cpu_threads

        with cpu_threads(slots.cpus):
            table = confirm.compare(confirmation, rows, images, view.warn)
    except (KeyboardInterrupt, SystemExit):
        _note_interruption(confirmation, view)
        raise
    finally:
        confirmation.close()
    return {**(metrics or {}), "confirmation": table.to_dict("records")}


def _note_interruption(record: StudyRecord, view: View) -> None:
    """Write into the record that Ctrl-C or SIGTERM ended it while no trial ran, outside of :func:`interruptible`."""
    if record.manifest["status"] == "running":
        with contextlib.suppress(OSError):
            record.set_status(INTERRUPTED, ended=now())
        view.say(f"Go on: --resume {argument(record.place)}")


def resume_search(folder: str | Path, *, view: View | None = None, **changes: Any) -> Study:
    """Go on with the study in ``folder``; ``changes`` are fields of :class:`SearchConfig`.

    Only what leaves the trials comparable may change, for instance ``num_samples`` or ``resources``.
    """
    return run_search(dataclasses.replace(read_config(Path(folder)), **changes), view=view)


def run_trials(
    trainable: Callable[..., Any],
    config: SearchConfig,
    space: Space,
    record: StudyRecord,
    slots: Callable[[], Slots],
    ending: Ending,
) -> None:
    """Let Ray Tune run trials until ``config.num_samples`` have finished or ``ending`` says so."""
    base = dataclasses.replace(config.trial, **space.fixed)
    scheduler = make_scheduler(config.asha, base.max_epochs, base.seed)
    settle(record, scheduler, base.max_epochs)
    to_run = config.num_samples - sum(row.state != RUNNING for row in record.rows)
    if to_run <= 0:
        return
    searcher = StudySearcher(record, space, base, config.sampler, ending, scheduler, config.num_samples, slots)
    grows = config.resources.address is not None
    most = min(to_run, config.resources.max_concurrent or to_run) if grows else slots().count
    cpus = slots().cpus

    def each_step() -> None:
        record.refresh()
        slots()  # it looks at the nodes, also when no more trials are handed out

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
            callbacks=[FailureReasons(searcher, ending), EachStep(each_step), LetGo()],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if ray_is_alive():
            with contextlib.suppress(OSError):
                record.set_status(FAILED, ended=now())
            raise
        ending.fail(RAY_DIED)  # whatever Tune stumbled over is a consequence
    finally:
        _clear_ray_state(record.folder / RAY_FOLDER)
    if ending.error:
        with contextlib.suppress(OSError):
            record.set_status(FAILED, ended=now())
        raise SearchError(f"{ending.error}\nMend that, then go on: --resume {argument(record.place)}")


def _import_ahead(num_samples: int) -> None:
    """Import what is first needed between two trials or at the end, where trials or a person would wait for it."""
    for name in ("scipy.special", "vae_tune.winner", "vae_tune.replay.forecast"):
        import_module(name)
    from vae_tune.replay.surrogate import FEWEST

    if num_samples >= FEWEST:  # from fewer nothing can be foretold
        import_module("sklearn.gaussian_process")


def _share(cpus: int, gpus: float) -> tune.PlacementGroupFactory:
    """Return the resources of a trial."""
    return tune.PlacementGroupFactory([{"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})])


def _most_trials(plan: Plan) -> int:
    """Return how many trials there will be side by side at most."""
    return max(1, plan.remaining, plan.config.confirm and (plan.config.confirm + 1) * plan.config.confirm_seeds)


def _clear_ray_state(folder: Path) -> None:
    """Delete the state that Ray Tune wrote for a restore of its own; a resume here asks the study instead."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != RAY_LOG_FILE:
            path.unlink(missing_ok=True)


def _foretell(study: Study, ending: Ending, view: View) -> list[str]:
    """Replay the search for a few seconds, and return its advice; what keeps it from that harms nothing else."""
    from vae_tune.advice import closing
    from vae_tune.replay.forecast import SECONDS, write_forecast

    view.say("Replaying the search ...")
    try:
        write_forecast(study, min(SECONDS, ending.spare_seconds))
    except Exception as error:
        view.warn(f"The search could not be replayed: {telling_line(error)}")
    return [str(finding) for finding in closing(study)]


def _report(folder: Path, place: Path, view: View) -> None:
    """Write the report; what keeps it from being written harms nothing else."""
    from vae_tune.report import write_report

    try:
        write_report(folder)
    except Exception as error:
        view.warn(f"There is no report: {telling_line(error)} To write it later: vae-tune report {argument(place)}")


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config[TRIAL]:05d}"
