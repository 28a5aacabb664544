"""The end of a search: its best configurations confirmed, its forecast, its report and its summary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from vae_tune.analysis.study import Study
from vae_tune.config import message_hints
from vae_tune.config.errors import SearchPaused, telling_line
from vae_tune.config.names import PAUSED, SEARCH, SEED
from vae_tune.config.settings import SLURM
from vae_tune.record.metadata import read_metadata, resume_command
from vae_tune.search.stopping import Trainings, interruptible
from vae_tune.tasks.search_plan import Plan
from vae_tune.tasks.search_record import open_record
from vae_tune.tasks.search_run import train_trials
from vae_tune.tasks.search_start import InterruptedInOrder, RunningSearch, record_interruption
from vae_tune.views.terminal import View


def finish_search(search: RunningSearch, study: Study) -> Study:
    """Confirm the best configurations, write forecast and report, and show the summary; return ``study``.

    Raises:
        InterruptedInOrder: the search was interrupted, and has ended in order.
        SearchPaused: it was paused.
    """
    plan, record, view, stopping = search.plan, search.record, search.view, search.stopping
    metrics = study.metrics
    confirming = plan.config.confirm and not stopping.was_asked
    if confirming:
        stopping = stopping.with_same_deadline()
    with interruptible(stopping):
        from vae_tune.analysis.advice import final_findings  # late: no first trial waits for it

        if confirming:
            metrics = _confirm(replace(search, stopping=stopping), metrics)
            view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows, study.loss_unit)
        if not stopping.was_asked and study.kind == SEARCH:
            view.say("Replaying the search ...")
            with _warn_on_error(view, "The search could not be replayed"):
                from vae_tune.replay.forecast import SECONDS, write_forecast

                outlook = write_forecast(study, min(SECONDS, stopping.spare_seconds))
                if outlook is not None:
                    record.set_status(record.metadata["status"], outlook=asdict(outlook))
        with _warn_on_error(
            view, "There is no report", f" To write it later: {message_hints.command('report', plan.place)}"
        ):
            from vae_tune.views.report.page import write_report

            write_report(record.folder)
        findings = [str(finding) for finding in final_findings(study)]
        requeued = stopping.reason == PAUSED and plan.config.resources.address == SLURM  # the job says how to resume
        view.end(record.rows, metrics, plan.place, findings, "" if requeued else record.resume_command)
    if stopping.was_asked:
        raise SearchPaused if stopping.reason == PAUSED else InterruptedInOrder
    return study


def _confirm(search: RunningSearch, metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """Train the best configurations again with fresh seeds; return ``metrics`` with the result."""
    from vae_tune.tasks import confirm
    from vae_tune.vae.threads import cpu_threads

    plan, record, view = search.plan, search.record, search.view
    rows = confirm.candidates(record.rows, plan.base.max_epochs, plan.config.confirm)
    if not rows:
        view.warn("No confirmation: no trial is complete.")
        return metrics
    if search.stopping.refuses_new_trials():
        later = resume_command(record.metadata, plan.place, num_samples=len(record.rows), time_budget=None)
        view.warn(f"No confirmation: no time is left for it. To confirm now: {later}")
        return metrics
    used = {row.values.get(SEED, plan.base.seed) for row in record.rows}
    config, grid = confirm.plan(rows, plan.base, plan.config, record.folder, used)
    metadata = read_metadata(config.resume) if config.resume else None
    folder, place = (parent / str(config.study_name) for parent in (record.folder, record.place))
    again = Plan(config, folder, place, grid.space, config.trial, grid.points, config.num_samples, metadata, grid.kind)
    again = replace(again, metric=plan.metric)
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
            table = confirm.compare(confirmation, rows, search.images, view.warn, plan.metric)
    except (KeyboardInterrupt, SystemExit):
        record_interruption(confirmation, view)
        raise
    finally:
        confirmation.close()
    return {**(metrics or {}), "confirmation": table.to_dict("records")}


@contextlib.contextmanager
def _warn_on_error(view: View, failure: str, remedy: str = "") -> Iterator[None]:
    """Turn an error in the block into a warning: the search itself is complete."""
    try:
        yield
    except Exception as error:
        view.warn(f"{failure}: {telling_line(error)}{remedy}")
