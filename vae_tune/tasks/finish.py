"""The end of a search: its best configurations confirmed, its forecast, its report and its summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vae_tune.analysis.study import Study
from vae_tune.config import suggestions
from vae_tune.config.names import INTERRUPTED, SEARCH, SEED
from vae_tune.config.settings import telling_line
from vae_tune.record.metadata import read_manifest
from vae_tune.search.stopping import Stopping, Trainings, interruptible
from vae_tune.tasks.execution import train_trials
from vae_tune.tasks.search_plan import Plan, open_record
from vae_tune.tasks.startup import InterruptedInOrder, RunningSearch, record_interruption
from vae_tune.views.terminal import View


def finish_search(search: RunningSearch, study: Study) -> Study:
    """Confirm the best configurations, write forecast and report, and show the summary; return ``study``.

    Raises:
        InterruptedInOrder: the search was interrupted, and has ended in order.
    """
    plan, record, view, stopping = search.plan, search.record, search.view, search.stopping
    metrics = study.metrics
    confirming = plan.config.confirm and stopping.reason != INTERRUPTED
    if confirming:
        stopping = stopping.with_same_deadline()
    with interruptible(stopping):
        from vae_tune.analysis.advice import final_findings  # late: no first trial waits for it

        if confirming:
            metrics = _confirm(replace(search, stopping=stopping), metrics)
            view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows, study.loss_unit)
        if stopping.reason != INTERRUPTED and study.kind == SEARCH:
            _forecast(study, stopping, view)
        _report(record.folder, plan.place, view)
        view.end(record.rows, metrics, plan.place, [str(finding) for finding in final_findings(study)])
    if stopping.reason == INTERRUPTED:
        raise InterruptedInOrder
    return study


def _confirm(search: RunningSearch, metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """Train the best configurations again with fresh seeds; return ``metrics`` with the result."""
    from vae_tune.tasks import confirm
    from vae_tune.vae.threads import cpu_threads

    plan, record, view = search.plan, search.record, search.view
    rows = confirm.candidates(record.rows, plan.base.max_epochs, plan.config.confirm)
    if not rows:
        view.warn("Nothing is confirmed: no trial is complete.")
        return metrics
    if search.stopping.refuses_new_trials():
        later = suggestions.resume(plan.place, num_samples=len(record.rows), time_budget=None)
        view.warn(f"Nothing is confirmed: no time is left for it. To confirm now: {later}")
        return metrics
    used = {row.values.get(SEED, plan.base.seed) for row in record.rows}
    config, grid = confirm.plan(rows, plan.base, plan.config, record.folder, used)
    manifest = read_manifest(config.resume) if config.resume else None
    folder, place = (parent / str(config.study_name) for parent in (record.folder, record.place))
    again = Plan(config, folder, place, grid.space, config.trial, grid.points, config.num_samples, manifest, grid.kind)
    asked = plan.config.confirm
    few = "" if len(rows) >= asked else f", all that are complete of the {asked} asked for,"
    each = f"{config.num_samples // len(rows)} fresh seeds each"
    view.say(f"Confirming {len(rows)} configuration{'s' if len(rows) > 1 else ''}{few} with {each} ...")
    search.stopping.follow_up = Trainings(config.num_samples)  # all are evaluated
    confirmation = open_record(again, search.images, search.slots, view)
    confirmation.after_upload = record.after_upload
    try:
        train_trials(replace(search, plan=again, record=confirmation))
        with cpu_threads(search.slots.cpus):
            table = confirm.compare(confirmation, rows, search.images, view.warn)
    except (KeyboardInterrupt, SystemExit):
        record_interruption(confirmation, view)
        raise
    finally:
        confirmation.close()
    return {**(metrics or {}), "confirmation": table.to_dict("records")}


def _forecast(study: Study, stopping: Stopping, view: View) -> None:
    """Replay the search for a few seconds and write the forecast; an error in it harms nothing else."""
    from vae_tune.replay.forecast import SECONDS, write_forecast

    view.say("Replaying the search ...")
    try:
        write_forecast(study, min(SECONDS, stopping.spare_seconds))
    except Exception as error:
        view.warn(f"The search could not be replayed: {telling_line(error)}")


def _report(folder: Path, place: Path, view: View) -> None:
    """Write the report; an error in it harms nothing else."""
    from vae_tune.views.report.page import write_report

    try:
        write_report(folder)
    except Exception as error:
        later = suggestions.command("report", place)
        view.warn(f"There is no report: {telling_line(error)} To write it later: {later}")
