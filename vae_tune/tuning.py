"""A whole search: Ray Tune runs the trials, the Optuna study proposes them and keeps the record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from ray import tune

from vae_tune.cluster import RAY_DIED, RayLog, Slots, find_slots, ray_is_alive, running_ray
from vae_tune.config import SearchConfig, SearchError, TrialConfig, UsageError, duration_seconds, telling_line, to_dict
from vae_tune.data import Images, load_images
from vae_tune.ending import Ending, interruptible
from vae_tune.last_word import last_word
from vae_tune.loggers import live_views, require_packages
from vae_tune.manifest import (
    new_manifest,
    read_config,
    read_manifest,
    read_space,
    refuse_changes,
    refuse_other_data,
    this_run,
)
from vae_tune.names import (
    FAILED,
    INTERRUPTED,
    RAY_FOLDER,
    RAY_LOG_FILE,
    RUNNING,
    STUDY_FILE,
    TIME_BUDGET,
    TRIAL,
    WARM_START,
)
from vae_tune.prior import Prior, read_points, read_warm_start, reference_values
from vae_tune.record import StudyRecord, unfinished_creation
from vae_tune.scheduler import make_scheduler, settle
from vae_tune.searcher import EachStep, FailureReasons, StudySearcher
from vae_tune.space import Grid, Space, load_space
from vae_tune.study import Study, load_study
from vae_tune.terminal import View, make_view
from vae_tune.trials import now, read_trials

_KILLED = "The search was killed, or Ray's core ended it. What its record holds is whole; go on: --resume {}"
_MAX_FAILURES = 3
"""Times that a trial is tried again after its worker died or raised."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A search that passed all checks that need no Ray and no images."""

    config: SearchConfig
    folder: Path
    space: Space
    base: TrialConfig
    """The reference configuration: the configuration's own, with what the space fixes."""
    points: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any] | None
    """``study.json`` of the study to resume, or None for a new one."""


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
    plan = _plan(config, grid)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    budget = None if config.time_budget is None else duration_seconds(config.time_budget)
    ending = Ending(budget, config.target_loss)
    with view or make_view() as view, ThreadPoolExecutor(1) as reader, contextlib.ExitStack() as last:  # noqa: PLR1704
        view.say(f"Reading {config.data.dataset} and starting Ray ...")
        reading = reader.submit(load_images, config.data)
        with running_ray(config.resources) as ray_log:
            images = reading.result()
            from vae_tune.training import cpu_threads  # torch, which another thread imported while Ray started

            slots = find_slots(config.resources)
            record = _open(plan, images, slots)
            last.enter_context(last_word(_KILLED.format(plan.folder)))  # outlasts Ray, whose core may end this process
            try:
                # the trials have the other cores; and as many threads as theirs give the same numbers
                with (
                    cpu_threads(slots.cpus),
                    live_views(config.views, record, view.warn, hurry=budget is not None) as names,
                ):
                    for name in names:
                        view.say(f"Live view: {name}")
                    return _search(plan, record, images, slots, view, ending, ray_log)
            except OSError as error:
                reason = error.strerror or error
                raise SearchError(
                    f"The record in {plan.folder} cannot be written: {reason}. What it holds is whole.\n"
                    f"Mend that, then go on: --resume {plan.folder}"
                ) from error
            finally:
                record.close()


def _search(
    plan: _Plan, record: StudyRecord, images: Images, slots: Slots, view: View, ending: Ending, ray_log: RayLog
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
    advice = [] if ending.reason == INTERRUPTED else _foretell(study, ending, view)
    _report(record.folder, view)
    view.end(record.rows, metrics, record.folder, advice)
    if ending.reason == INTERRUPTED:
        raise KeyboardInterrupt
    return study


def _train(
    plan: _Plan, record: StudyRecord, images: Images, slots: Slots, view: View, ending: Ending, ray_log: RayLog
) -> None:
    """Run the trials and evaluate the winner."""
    from vae_tune.trainable import train_trial
    from vae_tune.winner import WinnerKeeper

    ray_log.write_to(plan.folder / RAY_FOLDER / RAY_LOG_FILE)
    keeper = WinnerKeeper(record, images, plan.base.max_epochs, plan.config.keep, view.warn)
    view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows)
    view.say(f"Study {plan.folder}: {slots}; losses in nats per image ({plan.config.data.binarization} values)")
    for row in record.rows:
        ending.listen(row)
    record.listeners += [ending.listen, keeper, view]
    trainable = tune.with_parameters(
        train_trial,
        images=images,
        base=plan.base,
        folder=plan.folder.absolute(),
        threads=slots.cpus,
        gpu=slots.gpus > 0,
    )
    with interruptible(ending):
        run_trials(trainable, plan.config, plan.space, record, slots, ending)
    if ending.reason == INTERRUPTED:
        keeper.pause()
    else:
        view.say("Evaluating the winner on the test images ...")
        keeper.finish()
    unfinished = any(row.state == RUNNING for row in record.rows)  # paused by the budget after the last suggestion
    record.set_status(ending.reason or (TIME_BUDGET if unfinished else "complete"), ended=now())


def _confirm(
    plan: _Plan,
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
    config, grid = confirm.plan(rows, plan.base, plan.config, record.folder)
    manifest = read_manifest(config.resume) if config.resume else None
    again = _Plan(config, record.folder / str(config.study_name), grid.space, config.trial, grid.points, manifest)
    view.say(f"Confirming {len(rows)} configurations with {config.num_samples // len(rows)} fresh seeds each ...")
    confirmation = _open(again, images, slots)
    try:
        _train(again, confirmation, images, slots, view, ending, ray_log)
        table = confirm.compare(again.folder, confirmation.rows, rows, images, view.warn)
    finally:
        confirmation.close()
    return {**(metrics or {}), "confirmation": table.to_dict("records")}


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
    slots: Slots,
    ending: Ending,
) -> None:
    """Let Ray Tune run trials until ``config.num_samples`` have finished or ``ending`` says so."""
    base = dataclasses.replace(config.trial, **space.fixed)
    scheduler = make_scheduler(config.asha, base.max_epochs, base.seed)
    settle(record, scheduler, base.max_epochs)
    to_run = config.num_samples - sum(row.state != RUNNING for row in record.rows)
    if to_run <= 0:
        return
    promotes = config.asha.scheduler == "asha-promotion"  # to Ray Tune, a trial that is promoted is another one
    limit = config.num_samples if promotes else None
    searcher = StudySearcher(record, space, base, config.sampler, ending, scheduler, limit)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": slots.cpus, "gpu": slots.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1 if promotes else to_run,
            max_concurrent_trials=slots.count,  # also lets Ray start as many actors at once
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=str(record.folder.absolute()),
            stop=ending,
            callbacks=[FailureReasons(searcher, ending), EachStep(record.refresh)],
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
        raise SearchError(f"{ending.error}\nMend that, then go on: --resume {record.folder}")


def _clear_ray_state(folder: Path) -> None:
    """Delete the state that Ray Tune wrote for a restore of its own; a resume here asks the study instead."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != RAY_LOG_FILE:
            path.unlink(missing_ok=True)


def _plan(config: SearchConfig, grid: Grid | None) -> _Plan:
    require_packages(config.views)
    if config.resume is None:
        space = grid.space if grid else load_space(config.space, config.trial)
        base = dataclasses.replace(config.trial, **space.fixed)
        points = grid.points if grid else read_points(config.points, space, base)
        _check_sampler(config, space, base)
        for folder in config.warm_start:
            read_manifest(folder)
        return _Plan(config, _new_folder(config), space, base, points, None)
    if config.sampler == "cmaes":
        raise UsageError("Optuna keeps the state of cmaes as a pickle, which is not read.\nResume with --sampler tpe.")
    manifest = read_manifest(config.resume)
    for name in ("results_dir", "study_name"):
        if to_dict(config)[name] != manifest["config"][name]:
            raise UsageError(f"--resume {config.resume} names the study: leave out --{name.replace('_', '-')}.")
    space = read_space(manifest)
    refuse_changes(manifest, config, space if config.space is None else load_space(config.space, config.trial))
    started = sum(WARM_START not in t.user_attrs and t.state.name != "WAITING" for t in read_trials(config.resume))
    if config.num_samples < started:
        raise UsageError(f"num_samples must be >= {started}, the trials begun already, but got {config.num_samples}.")
    base = dataclasses.replace(config.trial, **space.fixed)
    _check_sampler(config, space, base)
    return _Plan(config, config.resume, space, base, [], manifest)


def _check_sampler(config: SearchConfig, space: Space, base: TrialConfig) -> None:
    """Refuse samplers that learn from all trials alike where the reference has no place in the space."""
    if config.sampler in ("qmc", "gp", "cmaes") and not space.contains(base):
        values = reference_values(space, base)
        raise UsageError(
            f"--sampler {config.sampler} needs a reference inside of the space, but it is {values}.\n"
            f"Choose one with --{next(iter(values)).replace('_', '-')} and the like, or take --sampler tpe."
        )


def _new_folder(config: SearchConfig) -> Path:
    """Return the folder of a new study, which does not exist yet but can be made.

    Raises:
        UsageError: it exists, or cannot be made.
    """
    name = config.study_name or f"{config.data.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = config.results_dir / name
    if (folder / STUDY_FILE).exists():
        raise UsageError(f"The study {folder} exists already.\nTo go on with it: --resume {folder}")
    if folder.exists() and not (folder.is_dir() and unfinished_creation(folder)):
        raise UsageError(f"{folder} exists already and is no study.\nChoose another --study-name.")
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"results_dir {config.results_dir} cannot be written: {parent} is no writable folder.")
    return folder


def _open(plan: _Plan, images: Images, slots: Slots) -> StudyRecord:
    """Create or reopen the study folder, after the last checks."""
    config = to_dict(dataclasses.replace(plan.config, resume=None))
    if plan.manifest is not None:
        config["space"] = plan.manifest["config"]["space"]  # the file is needed no more, but tells where it was from
    entry = {
        "started": now(),
        "num_samples": plan.config.num_samples,
        "slots": dataclasses.asdict(slots),
        **this_run(),
    }
    if plan.manifest is not None:
        refuse_other_data(plan.manifest, plan.config, images)
        runs = [*plan.manifest["runs"], entry]
        return StudyRecord.resume(plan.folder, {**plan.manifest, "config": config, "runs": runs})
    manifest = new_manifest(plan.folder.name, plan.config, plan.base, plan.space, images) | {"runs": [entry]}
    prior = Prior(plan.points, read_warm_start(plan.config.warm_start, manifest, plan.space, plan.base))
    try:
        return StudyRecord.create(plan.folder, manifest, lambda study: prior.plant(study, plan.space, plan.base))
    except OSError as error:
        raise UsageError(f"The study {plan.folder} cannot be created: {error.strerror or error}.") from error


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


def _report(folder: Path, view: View) -> None:
    """Write the report; what keeps it from being written harms nothing else."""
    from vae_tune.report import write_report

    try:
        write_report(folder)
    except Exception as error:
        view.warn(f"There is no report: {telling_line(error)} To write it later: vae-tune report {folder}")


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.config[TRIAL]:05d}"
