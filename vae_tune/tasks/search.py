"""A whole search, from its configuration to its report."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from vae_tune.analysis.study import Study, load_study
from vae_tune.cluster.ray_runtime import RunningRay
from vae_tune.cluster.slots import Slots, release_command
from vae_tune.config import suggestions
from vae_tune.config.files import named_path
from vae_tune.config.names import INTERRUPTED, SEARCH, SEED
from vae_tune.config.settings import SearchConfig, SearchError, duration_seconds, telling_line
from vae_tune.config.space import Grid
from vae_tune.images.datasets import Images
from vae_tune.record.claim import Claim, claimed
from vae_tune.record.metadata import read_config, read_manifest
from vae_tune.record.remote_sync import uploading
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import now
from vae_tune.search.crash_notice import last_word
from vae_tune.search.stopping import Ending, Trainings, interruptible
from vae_tune.tasks.execution import train_trials
from vae_tune.tasks.search_plan import Plan, make_plan, open_record, study_place
from vae_tune.tasks.startup import started
from vae_tune.views.live import live_views
from vae_tune.views.terminal import View, make_view

_KILLED = "The search was killed, or Ray's core ended it. What its record holds is whole; go on: {}"


class _EndedInOrder(KeyboardInterrupt):
    """A search was interrupted, and ended with its report and what it found."""


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
        ending.tell = view.warn
        view.say(f"Reading {config.data.dataset} and starting Ray ...")
        with started(plan, view, ending) as (images, slots, ray):
            record = open_record(plan, images, slots, view)
            # outlasts Ray, whose core may end this process
            release = release_command(config.resources.address)
            last.enter_context(last_word(_KILLED.format(record.resume_command), release))
            if claim is not None:
                record.after_upload = last.enter_context(
                    uploading(record.folder, plan.place, claim, view.warn, ending.fail, record.manifest["kind"])
                )
            try:
                with live_views(config.views, record, view.warn, hurry=config.time_budget is not None) as names:
                    for name in names:
                        view.say(f"Live view: {name}")
                    return _search(plan, record, images, slots, view, ending, ray)
            except KeyboardInterrupt as interruption:
                if not isinstance(interruption, _EndedInOrder):
                    _note_interruption(record, view)
                raise KeyboardInterrupt("the record keeps all that was computed.") from None
            except SystemExit:
                _note_interruption(record, view)
                raise
            except OSError as error:
                reason = error.strerror or error
                raise SearchError(
                    f"The record in {plan.folder} cannot be written: {reason}. What it holds is whole.\n"
                    f"Mend that, then go on: {record.resume_command}"
                ) from error
            finally:
                record.close()


def _search(
    plan: Plan, record: StudyRecord, images: Images, slots: Slots, view: View, ending: Ending, ray: RunningRay
) -> Study:
    """Train the trials, confirm the best, and show what was found."""
    if plan.config.confirm:
        ending.slots = slots.count
        ending.later = Trainings((plan.config.confirm + 1) * plan.config.confirm_seeds, plan.base.max_epochs)
    with interruptible(ending):
        train_trials(plan, record, images, slots, view, ending, ray)
        study = load_study(record.folder)
    metrics = study.metrics
    confirming = plan.config.confirm and ending.reason != INTERRUPTED
    if confirming:
        ending = ending.renewed()
    with interruptible(ending):
        from vae_tune.analysis.advice import final_findings  # late: no first trial waits for it

        if confirming:
            metrics = _confirm(plan, record, images, slots, view, ending, ray, metrics)
            view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows)
        if ending.reason != INTERRUPTED and study.kind == SEARCH:
            _foretell(study, ending, view)
        _report(record.folder, plan.place, view)
        view.end(record.rows, metrics, plan.place, [str(finding) for finding in final_findings(study)])
    if ending.reason == INTERRUPTED:
        raise _EndedInOrder
    return study


def _confirm(
    plan: Plan,
    record: StudyRecord,
    images: Images,
    slots: Slots,
    view: View,
    ending: Ending,
    ray: RunningRay,
    metrics: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """Train the best configurations again with fresh seeds; return ``metrics`` with what that showed."""
    from vae_tune.tasks import confirm

    rows = confirm.candidates(record.rows, plan.base.max_epochs, plan.config.confirm)
    if not rows:
        view.warn("Nothing is confirmed: no trial is complete.")
        return metrics
    if ending.refuses_new_trials():
        later = suggestions.resume(plan.place, num_samples=len(record.rows), time_budget=None)
        view.warn(f"Nothing is confirmed: no time is left for it. To confirm now: {later}")
        return metrics
    used = {row.values.get(SEED, plan.base.seed) for row in record.rows}
    config, grid = confirm.plan(rows, plan.base, plan.config, record.folder, used)
    manifest = read_manifest(config.resume) if config.resume else None
    folder, place = (parent / str(config.study_name) for parent in (record.folder, record.place))
    again = Plan(config, folder, place, grid.space, config.trial, grid.points, config.num_samples, manifest, grid.kind)
    few = (
        "" if len(rows) >= plan.config.confirm else f", all that are complete of the {plan.config.confirm} asked for,"
    )
    each = f"{config.num_samples // len(rows)} fresh seeds each"
    view.say(f"Confirming {len(rows)} configuration{'s' if len(rows) > 1 else ''}{few} with {each} ...")
    ending.later = Trainings(config.num_samples)  # all are evaluated
    confirmation = open_record(again, images, slots, view)
    confirmation.after_upload = record.after_upload
    try:
        train_trials(again, confirmation, images, slots, view, ending, ray)
        from vae_tune.vae.threads import cpu_threads

        with cpu_threads(slots.cpus):
            table = confirm.compare(confirmation, rows, images, view.warn)
    except (KeyboardInterrupt, SystemExit):
        _note_interruption(confirmation, view)
        raise
    finally:
        confirmation.close()
    return {**(metrics or {}), "confirmation": table.to_dict("records")}


def _note_interruption(record: StudyRecord, view: View) -> None:
    """Note in the record that a second Ctrl-C or SIGTERM, or one while no trial ran, ended it; say how to go on."""
    if record.manifest["status"] == "running":
        with contextlib.suppress(OSError):
            record.set_status(INTERRUPTED, ended=now())
    view.warn(f"Go on: {record.resume_command}")


def resume_search(folder: str | Path, *, view: View | None = None, **changes: Any) -> Study:
    """Go on with the study in ``folder``; ``changes`` are fields of :class:`SearchConfig`.

    Only what leaves the trials comparable may change, for instance ``num_samples`` or ``resources``.
    """
    return run_search(dataclasses.replace(read_config(named_path(folder)), **changes), view=view)


def _foretell(study: Study, ending: Ending, view: View) -> None:
    """Replay the search for a few seconds, and write what that foretells; an error in it harms nothing else."""
    from vae_tune.replay.forecast import SECONDS, write_forecast

    view.say("Replaying the search ...")
    try:
        write_forecast(study, min(SECONDS, ending.spare_seconds))
    except Exception as error:
        view.warn(f"The search could not be replayed: {telling_line(error)}")


def _report(folder: Path, place: Path, view: View) -> None:
    """Write the report; what keeps it from being written harms nothing else."""
    from vae_tune.views.report.page import write_report

    try:
        write_report(folder)
    except Exception as error:
        later = suggestions.command("report", place)
        view.warn(f"There is no report: {telling_line(error)} To write it later: {later}")
