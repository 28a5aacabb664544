"""The middle of a search: its trials are trained, and the winner is evaluated."""

from __future__ import annotations

from functools import partial

from ray import tune

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.cluster.slots import CurrentSlots
from vae_tune.cluster.worker_entry import ray_trainable
from vae_tune.config import names
from vae_tune.config.files import absolute, address
from vae_tune.config.machine_limits import cpu_note
from vae_tune.config.message_hints import quantity
from vae_tune.config.metric import METRIC
from vae_tune.config.settings import TrialConfig
from vae_tune.config.storage import claim_for
from vae_tune.images.code_length import UNIFORM
from vae_tune.images.datasets import Images
from vae_tune.record.trials import now
from vae_tune.search.ray_restarts import run_with_restarts
from vae_tune.search.stopping import explain
from vae_tune.search.tuner import run_trials
from vae_tune.tasks.model_code import codes_of, models_of
from vae_tune.tasks.search_record import record_slots
from vae_tune.tasks.search_start import RunningSearch
from vae_tune.tasks.winner_listener import WinnerListener
from vae_tune.vae.memory_estimate import PROCESS, training_bytes

_FLOAT = 4
"""Bytes of a pixel of the images that a user's metric is given."""


def train_trials(search: RunningSearch) -> None:
    """Train the trials and evaluate the winner."""
    plan, record, view, stopping = search.plan, search.record, search.view, search.stopping
    _announce(search)
    for row in record.rows:
        stopping.listen(row)
    with WinnerListener(search) as winner:
        record.watchers.append(stopping.listen)
        record.listeners += [winner, view]
        changed = partial(record_slots, record)
        slots = CurrentSlots(search.slots, plan.config.resources, view.say, stopping.fail, search.unfinished, changed)
        run_with_restarts(partial(_run, search, slots), record, stopping, search.ray, view.warn)
        record.refresh()  # the listeners may not know yet what was recorded just before a Ray died
        unfinished = search.unfinished()
        status = stopping.reason
        if status in ("", names.TIME_BUDGET, names.EPOCH_BUDGET):  # with the last suggestion, or after it
            status = (status or names.TIME_BUDGET) if unfinished > 0 else "complete"
        if why := explain(status, plan.config, unfinished):
            view.warn(why)
        if stopping.was_asked:
            winner.keeper.pause()
        else:
            view.say("Evaluating the winner on the test images ...")
            winner.keeper.finish()
    record.set_status(status, ended=now())


def _announce(search: RunningSearch) -> None:
    """Show what is about to run, and where."""
    plan, record, view = search.plan, search.record, search.view
    search.ray.log.write_to(plan.folder / names.RAY_FOLDER / names.RAY_LOG_FILE)
    unit = LossUnit.of(record.metadata["metric"])
    view.begin(plan.config.num_samples, plan.base.max_epochs, record.rows, unit)
    room = f"{search.slots}{cpu_note() if plan.config.resources.address is None else ''}"
    view.say(f"Study {address(plan.place)}: {room}; {unit.announcement}")
    if (target := plan.config.target_loss) is not None:
        view.say(target_line(target, unit))
        if warning := target_in_bits_warning(target, unit):
            view.warn(warning)
    if record.rows:
        going = len(record.rows) - record.ended
        view.say(
            f"Resumed: {quantity(record.ended, 'trial')} ended before, {quantity(going, 'unfinished trial')} to go on."
        )


def target_line(target: float, unit: LossUnit) -> str:
    """Return which value of ``target_loss`` ends the search, with its unit; nats per image are converted."""
    comparison = ">=" if unit.ranking.maximize else "<="
    if unit.ranking.is_users:
        return f"Target: {unit.ranking.name} {comparison} {target:g}"
    converted = "" if unit.nats == 1 else f" ({target / unit.nats:.3g} {unit.name})"
    return f"Target: validation loss {comparison} {target:g} {METRIC.unit}{converted}"


def target_in_bits_warning(target: float, unit: LossUnit) -> str | None:
    """Return a warning if ``target`` is probably in bits per dimension, of which a uniform decoder needs 8."""
    if unit.nats == 1 or not 0 < target <= UNIFORM:
        return None
    return (
        f"target_loss is in {METRIC.unit}, and {target:g} is out of reach. "
        f"For {target:g} {unit.name}: --target-loss {target * unit.nats:.1f}"
    )


def _run(search: RunningSearch, slots: CurrentSlots) -> None:
    """Run the trials on the Ray that runs now."""
    plan, images, stopping = search.plan, search.images, search.stopping
    stopping.begin()
    trainable = tune.with_parameters(  # stores the images in this Ray
        ray_trainable,
        images=images,
        base=plan.base,
        folder=absolute(plan.place),
        threads=search.slots.cpus,
        claim=claim_for(plan.place),
        codes=codes_of(models_of(plan.base, plan.space)),
        metric=plan.metric,
    )
    needs = partial(_trial_bytes, images, plan.metric is not None)
    run_trials(trainable, plan.config, plan.space, search.record, slots, stopping, search.ray.check, needs)


def _trial_bytes(images: Images, is_measured: bool, config: TrialConfig, on_gpu: bool) -> int:
    """Return the bytes of memory that a trial needs, and with it the images for a user's metric."""
    scaled = _FLOAT * images.pixels * len(images.validation) if is_measured and not on_gpu else 0
    return PROCESS + scaled + training_bytes(config, images.shape, len(images.validation), on_gpu=on_gpu)
