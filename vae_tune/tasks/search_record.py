"""The record of a search is opened: created, or reopened to be resumed."""

from __future__ import annotations

import dataclasses

from optuna.trial import TrialState

from vae_tune.cluster.slots import Slots
from vae_tune.config.compat.optuna import fixed_params
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import to_dict
from vae_tune.config.files import address
from vae_tune.config.local_copies import mark_copy, original_path
from vae_tune.config.names import CODE, REOPENED, SLOTS
from vae_tune.images.datasets import Images
from vae_tune.record.metadata import as_reopened, new_metadata, refuse_other_data, this_run
from vae_tune.record.run_slots import with_change
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import now
from vae_tune.search.initial_trials import InitialTrials
from vae_tune.search.sampler import configuration_key, count_configurations
from vae_tune.search.warm_start import read_warm_start
from vae_tune.tasks.kinds import refuse_kinds
from vae_tune.tasks.model_code import describe_codes, models_of
from vae_tune.tasks.search_plan import Plan, check_sampler
from vae_tune.vae import image_defaults
from vae_tune.vae.user_metric import probe_metric
from vae_tune.views.terminal import View


def open_record(plan: Plan, images: Images, slots: Slots, view: View) -> StudyRecord:
    """Create or reopen the study folder after the last checks; show which trials the sampler starts from."""
    config = to_dict(dataclasses.replace(plan.config, resume=None, notify=None))
    if plan.metadata is not None:
        config["space"] = plan.metadata["config"]["space"]  # shows where the space is from; it is not read again
    start = {"started": now(), "num_samples": plan.config.num_samples, SLOTS: dataclasses.asdict(slots)}
    entry = {**start, **this_run()}
    if plan.metadata is not None:
        refuse_other_data(plan.metadata, plan.config, images)
        data = {**plan.metadata["data"], "dataset": plan.config.data.dataset}
        metadata = {**plan.metadata, "config": config, "data": data, "runs": [*plan.metadata["runs"], entry]}
        if plan.reopening:
            metadata = as_reopened(metadata, plan.reopening.note(plan.metadata.get(REOPENED)))
        record = StudyRecord.resume(
            plan.folder, metadata, plan.place, plan.metadata, plan.storage, reopening=plan.reopening
        )
        if plan.reopening:
            view.say(str(plan.reopening))
        _warn_of_repeats(record, plan, view)
        return record
    refuse_kinds(plan.space, plan.base, images.shape[0], images.binarization)
    metadata = new_metadata(plan.folder.name, plan.config, plan.base, plan.space, images, plan.kind, plan.metric)
    metadata["runs"] = [entry]
    if codes := describe_codes(models_of(plan.base, plan.space)):
        metadata[CODE] = codes
    others = plan.config.warm_start
    warm_starts = [read_warm_start(folder, metadata, plan.space, plan.base) for folder in others]
    initial = InitialTrials(plan.points, [trial for other in warm_starts for trial in other.trials])
    try:
        if plan.folder != plan.place and original_path(plan.folder) != plan.place:
            plan.folder.mkdir(parents=True, exist_ok=True)
            mark_copy(plan.folder, plan.place)
        record = StudyRecord.create(
            plan.folder, metadata, lambda study: initial.enqueue(study, plan.space, plan.base), plan.place
        )
    except FileExistsError as error:
        raise UsageError(f"Another search has created the study {address(plan.place)} meanwhile.") from error
    except OSError as error:
        raise UsageError(f"The study {plan.folder} cannot be created: {error.strerror or error}.") from error
    for other in warm_starts:
        (view.say if other.trials else view.warn)(str(other))
    _warn_of_repeats(record, plan, view)
    return record


def record_slots(record: StudyRecord, slots: Slots) -> None:
    """Record that this run has other slots from now on."""
    change = with_change(record.metadata["runs"][-1], dataclasses.asdict(slots), now())
    record.set_status(record.metadata["status"], **change)


def with_image_defaults(plan: Plan, channels: int) -> Plan:
    """Return ``plan`` with a value for each searched setting that its reference leaves to the images.

    Raises:
        UsageError: the sampler needs a reference inside of the space, and this one is outside.
    """
    searched = [name for name in image_defaults.SETTINGS if name in plan.space.distributions]
    left = [name for name in searched if getattr(plan.base, name) is None]
    if not left:
        return plan
    named = image_defaults.with_image_defaults(plan.base, channels)
    values = {name: getattr(named, name) for name in left}
    trial, base = (dataclasses.replace(config, **values) for config in (plan.config.trial, plan.base))
    if plan.metadata is None:
        check_sampler(plan.config, plan.space, base)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, trial=trial), base=base)


def with_probed_metric(plan: Plan, images: Images) -> Plan:
    """Return ``plan`` with the names of the values of its metric, which a new study has called for the first time.

    Raises:
        UsageError: it cannot rank trials.
    """
    if plan.metric is None or plan.metric.ranking.columns:
        return plan
    metric = probe_metric(plan.metric, plan.base, images.shape, images.validation)
    return dataclasses.replace(plan, metric=metric)


def _warn_of_repeats(record: StudyRecord, plan: Plan, view: View) -> None:
    """Warn where the space has fewer configurations than there are trials to come."""
    searched = plan.space.distributions
    waiting = record.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    known_values = [
        *(trial.params for trial in record.warm_start_trials),
        *(row.values for row in record.rows),
        *map(fixed_params, waiting),
    ]
    known = {configuration_key(searched, values) for values in known_values if plan.space.is_complete(values)}
    to_come = plan.config.num_samples - len(record.rows) - len(waiting)
    if (repeats := to_come - count_configurations(plan.space) + len(known)) > 0:
        view.warn(
            f"The space has {count_configurations(plan.space):.0f} configurations, {len(known)} of them known or "
            f"given already: {repeats:.0f} of the {to_come} trials to come will repeat others."
        )
