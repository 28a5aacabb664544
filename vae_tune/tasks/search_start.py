"""The start of a search: Ray, the images, room for the trials, and the record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

import optuna

from vae_tune.cluster.ray_runtime import RunningRay, running_ray
from vae_tune.cluster.slots import Slots, release_command, requested_slots
from vae_tune.config.errors import PausedAtStart, SearchError, SearchPaused
from vae_tune.config.names import INTERRUPTED, PAUSED
from vae_tune.config.settings import SearchConfig, duration_seconds
from vae_tune.images.datasets import Images, load_images
from vae_tune.record.claim import Claim
from vae_tune.record.remote_sync import uploading
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import now
from vae_tune.search.crash_notice import crash_notice
from vae_tune.search.lost_cluster import ending_without_cluster
from vae_tune.search.stopping import Stopping, Trainings, interruptible
from vae_tune.tasks.confirm import shortage
from vae_tune.tasks.gpu_share import trials_per_gpu
from vae_tune.tasks.model_code import probe_models
from vae_tune.tasks.notification import killed_command
from vae_tune.tasks.search_plan import Plan
from vae_tune.tasks.search_record import open_record, with_image_defaults, with_probed_metric
from vae_tune.views.live import live_views
from vae_tune.views.terminal import View

_NOTHING = "nothing was started."
_KILLED_EARLY = "The search was killed before its first trial."
_KILLED = "The search was killed, or Ray's core process ended it. Its record is intact. To resume: {}"


@dataclass(frozen=True)
class RunningSearch:
    """A search that has all it needs to train trials."""

    plan: Plan
    record: StudyRecord
    images: Images
    slots: Slots
    ray: RunningRay
    view: View
    stopping: Stopping

    def unfinished(self) -> int:
        """Return how many trials have not ended."""
        return self.plan.config.num_samples - self.record.ended


class InterruptedInOrder(KeyboardInterrupt):
    """A search was interrupted, and ended with its report and its summary."""


def make_stopping(config: SearchConfig) -> Stopping:
    """Start the clock of a search."""
    budget = None if config.time_budget is None else duration_seconds(config.time_budget)
    target = config.target_loss
    lowest = -target if config.maximize and target is not None else target
    return Stopping(budget, lowest, config.max_total_epochs)


@contextlib.contextmanager
def running_search(plan: Plan, claim: Claim | None, view: View, stopping: Stopping) -> Iterator[RunningSearch]:
    """Yield the search while its Ray runs and its record is open; no other driver may run it.

    Raises:
        KeyboardInterrupt: it was interrupted in the block, or while it started.
        SearchError: the record cannot be written any more.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stopping.warn = view.warn
    if warning := shortage(plan.config):
        view.warn(warning)
    view.say(f"Reading {plan.config.data.dataset} and starting Ray ...")
    with contextlib.ExitStack() as outlasting_ray, _started(plan, view, stopping) as (images, slots, ray):
        plan = with_image_defaults(plan, images.shape[0])
        if plan.metadata is None:
            probe_models(plan.base, plan.space, images.shape)
            plan = with_probed_metric(plan, images)
        record = open_record(plan, images, slots, view)
        release = release_command(plan.config.resources.address)
        killed = killed_command(plan.config.notify, plan.folder)
        outlasting_ray.enter_context(crash_notice(_KILLED.format(record.resume_command), release, killed))
        if claim is not None:
            record.after_upload = outlasting_ray.enter_context(
                uploading(record.folder, plan.place, claim, view.warn, stopping.fail, record.resume_command)
            )
        if plan.config.confirm:
            stopping.slots = slots.count
            count = (plan.config.confirm + 1) * plan.config.confirm_seeds
            stopping.follow_up = Trainings(count, plan.base.max_epochs)
        hurry = plan.config.time_budget is not None
        ending = ending_without_cluster(ray, stopping, partial(record_interruption, record, view))
        try:
            with ending, live_views(plan.config.views, record, view.warn, hurry=hurry) as names:
                for name in names:
                    view.say(f"Live view: {name}")
                yield RunningSearch(plan, record, images, slots, ray, view, stopping)
        except KeyboardInterrupt as interruption:
            if not isinstance(interruption, InterruptedInOrder | SearchPaused):
                record_interruption(record, view)
            kind = SearchPaused if isinstance(interruption, SearchPaused) else KeyboardInterrupt
            raise kind("the record keeps all that was computed.") from None
        except SystemExit:
            record_interruption(record, view)
            raise
        except OSError as error:
            reason = error.strerror or error
            raise SearchError(
                f"The record in {plan.folder} cannot be written: {reason}. The record is intact up to there.\n"
                f"Fix the cause, then resume: {record.resume_command}"
            ) from error
        finally:
            record.close()


@contextlib.contextmanager
def _started(plan: Plan, view: View, stopping: Stopping) -> Iterator[tuple[Images, Slots, RunningRay]]:
    """Yield the images, and the slots of a Ray that runs while the block lasts.

    A signal is handled once Ray is up (a SIGTERM that Ray itself handles, at once): an interrupted start of Ray can
    leave a lock behind that everything waits for.
    """
    resources = plan.config.resources
    with ThreadPoolExecutor(1) as reader, contextlib.ExitStack() as running:
        early = crash_notice(_KILLED_EARLY, release_command(resources.address))
        with interruptible(stopping):
            _heed(stopping)  # asked for before
            reading = reader.submit(load_images, plan.config.data, view.say, view.prepare, plan.arrays)
            try:
                ray = running.enter_context(running_ray(resources, view.warn, stopping.interrupt))
            except SystemExit as exited:  # of SIGTERM, for which Ray has handlers of its own as it starts
                raise KeyboardInterrupt(_NOTHING) from exited
        with interruptible(stopping), early:  # once more: Ray has put a handler of its own in its place
            while not (stopping.reason or reading.done()):
                wait([reading], timeout=0.1)
            if not stopping.reason:
                images = reading.result()
                per_gpu = trials_per_gpu(ray.gpus, plan.base, plan.space, images, view.warn)
                most, stopped = _most_trials(plan), lambda: bool(stopping.reason)
                free = requested_slots(resources, most, view.say, stopped, per_gpu)
                slots = running.enter_context(free)
        _heed(stopping)
        yield images, slots, ray


def _heed(stopping: Stopping) -> None:
    """End a search that a signal has stopped already."""
    if stopping.reason:
        raise (PausedAtStart if stopping.reason == PAUSED else KeyboardInterrupt)(_NOTHING)


def _most_trials(plan: Plan) -> int:
    """Return how many trials there will be side by side at most."""
    return max(1, plan.remaining, plan.config.confirm and (plan.config.confirm + 1) * plan.config.confirm_seeds)


def record_interruption(record: StudyRecord, view: View) -> None:
    """Record that a second Ctrl-C or SIGTERM, or one while no trial ran, ended the search; say how to resume."""
    if record.metadata["status"] == "running":
        with contextlib.suppress(OSError):
            record.set_status(INTERRUPTED, ended=now())
    view.warn(f"To resume: {record.resume_command}")
