"""Study folders made up in a moment, with plausible numbers: for all that reads a study, without Ray and training.

The trials run on simulated workers and a simulated clock; ASHA decides as in a search, so that ``audit`` finds
nothing. The folder is written by the real :class:`StudyRecord`.
"""

import heapq
import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from PIL import Image

from vae_tune.analysis.study import load_study
from vae_tune.config.fields import to_dict
from vae_tune.config.files import write_json
from vae_tune.config.metric import Metric
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, REPORT_COLUMNS, RUNNING, SEARCH
from vae_tune.config.settings import AshaConfig, DataConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.config.trial_values import with_values
from vae_tune.images.code_length import CodeLength
from vae_tune.images.datasets import Images
from vae_tune.record.metadata import new_metadata, this_run
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import REPORT_ATTRIBUTE, VALUES_ATTRIBUTE, winner
from vae_tune.vae.networks.code import Code
from vae_tune.vae.user_metric import UserMetric

SCORE = UserMetric(
    Code("mine.py:score", "mine", {"mine": "def score(): ..."}, {"mine": "mine.py"}),
    Metric("score", "", "maximize", ("score", "half")),
)
"""A metric of a user's for :func:`make_study`: ``score`` is the loss negated, so that it ranks alike."""
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
TRAIN = 5000


@dataclass
class Simulated:
    """A trial of the simulation."""

    number: int
    values: dict
    started: float
    node: str
    fails_at: int | None
    ended: float = 0.0
    state: str = RUNNING
    reason: str = ""
    audited: int | None = None
    collapsed: bool = False
    diverged: bool = False
    reports: list = field(default_factory=list)


def make_study(
    folder,
    *,
    trials=40,
    max_epochs=9,
    seed=0,
    slots=2,
    nodes=("host",),
    failed=0.05,
    ended=None,
    status="complete",
    space=DEFAULT_SPACE,
    scheduler="asha",
    sampler="tpe",
    reference=None,
    kind=SEARCH,
    shift=0.0,
    likelihood=None,
    shape=(1, 28, 28),
    metric=None,
):
    """Write a study of made-up trials into ``folder`` and return the folder.

    ``failed`` is the share of trials that fail; 1.0 spares not even the reference. With ``ended`` the clock stops when
    so many trials have ended: what is running then stays RUNNING, which goes with ``status`` running or interrupted.
    ``nodes`` each have ``slots`` workers. ``reference`` replaces the reference configuration, ``likelihood`` its
    likelihood, which sets the kind of the losses; ``shift`` is added to all losses, ``shape`` is that of the images.
    ``metric`` ranks trials in place of the loss, which it mirrors: see :data:`SCORE`.
    """
    folder = Path(folder)
    config = SearchConfig(
        num_samples=max(trials, 1),
        study_name=folder.name,
        results_dir=folder.parent,
        sampler=sampler,
        asha=AshaConfig(scheduler=scheduler),
        data=DataConfig(train_size=TRAIN),
        trial=reference or TrialConfig(max_epochs=max_epochs, likelihood=likelihood, encoder_activation="linear"),
    )
    workers = [node for node in nodes for _ in range(slots)]
    simulated = simulate(config, space, trials, workers, failed, trials if ended is None else ended, seed)
    for report in (report for trial in simulated for report in trial.reports):
        for name in ("train_loss", "val_loss", "val_reconstruction"):
            report[name] += shift
        if metric:
            report.update(score=-report["val_loss"], half=report["val_loss"] / 2, ranked_loss=report["val_loss"])
    options = {"metric": metric, "space": space, "status": status, "slots": len(workers), "kind": kind, "shape": shape}
    return write_study(folder, config, simulated, **options)


def write_study(
    folder,
    config,
    simulated,
    *,
    space=DEFAULT_SPACE,
    status="complete",
    slots=2,
    resumed=(),
    kind=SEARCH,
    shape=(1, 28, 28),
    metric=None,
):
    """Write a study of given trials; ``resumed`` are the seconds after the start at which further runs began."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    blank = np.zeros((1, *shape), np.uint8)
    metadata = new_metadata(folder.name, config, config.trial, space, Images(blank, blank, blank), kind, metric)
    metadata["data"] |= {"train": TRAIN, "validation": 10_000, "test": 10_000}
    run = {"num_samples": config.num_samples, "slots": {"count": slots, "cpus": 1, "gpus": 0}, **this_run()}
    run |= {"command": ["search.py", "--num-samples", str(config.num_samples)]}
    metadata["runs"] = [{"started": iso(seconds), **run} for seconds in (0, *resumed)]
    last = max([report["order"] for trial in simulated for report in trial.reports], default=0)
    ranked_by = metadata["metric"]["name"]
    trials = [frozen(trial, space, config.trial, ranked_by) for trial in simulated]
    record = StudyRecord.create(folder, metadata, lambda study: study.add_trials(trials))
    write_best(folder, record.rows, config, metadata["metric"])
    seconds = max([clock(report["time"]) for t in simulated for report in t.reports if report["order"] == last] or [0])
    record.set_status(status, **({} if status == "running" else {"ended": iso(seconds + 3)}))
    record.close()
    return folder


def hand_made(folder, *trials, max_epochs=3, space=DEFAULT_SPACE, resumed=(), kind=SEARCH, **options):
    """Write a study of trials that are given as dicts, and return it loaded.

    Each has ``losses``, one an epoch, and may have ``state``, ``started`` and ``times`` (one an epoch; seconds after
    the study's start; by default an epoch a second), ``ended`` (by default with its last epoch), ``values`` beside the
    reference's, ``node``, ``reason``, ``audited``, ``collapsed``, ``diverged``, and more columns of its reports.
    """
    base = TrialConfig(max_epochs=max_epochs, encoder_activation="linear")
    reference = space.values(base)
    simulated = []
    for number, given in enumerate(trials):
        trial = {"losses": (), "state": COMPLETE, "started": 0.0, "node": "host", "values": {}} | given
        times = trial.get("times") or [trial["started"] + epoch for epoch, _ in enumerate(trial["losses"], start=1)]
        values = reference | trial["values"]
        values = {name: value for name, value in values.items() if space.applies(name, values.get("model", ""))}
        made = Simulated(number, values, trial["started"], trial["node"], None)
        made.state, made.ended = trial["state"], trial.get("ended", max([trial["started"], *times]))
        for name in ("reason", "audited", "collapsed", "diverged"):
            setattr(made, name, trial.get(name, getattr(made, name)))
        columns = {name: value for name, value in given.items() if name in REPORT_COLUMNS}
        for epoch, (loss, time) in enumerate(zip(trial["losses"], times, strict=True), start=1):
            numbers = {"train_loss": loss, "val_loss": loss, "val_reconstruction": loss - 20, "val_kl": 20.0}
            numbers |= {"active_units": 7, "seconds": 1.0, "images_per_second": 1000.0}
            made.reports.append({"epoch": epoch, **numbers, **columns, "time": iso(time), "order": 0})
        simulated.append(made)
    ordered = sorted((report for trial in simulated for report in trial.reports), key=lambda report: report["time"])
    for order, report in enumerate(ordered, start=1):
        report["order"] = order
    config = SearchConfig(num_samples=max(len(trials), 1), trial=base, **options)
    return load_study(write_study(folder, config, simulated, space=space, resumed=resumed, kind=kind))


def simulate(config, space, count, workers, failed, ended, seed):
    """Run ``count`` trials on ``workers`` until ``ended`` of them have ended."""
    random = np.random.default_rng(seed)
    rungs = {epoch: {} for epoch in config.asha.rungs(config.trial.max_epochs)}
    trials, events, order, over = [], [], 0, 0

    def start(slot, now):
        if len(trials) == count:
            return
        number = len(trials)
        values = space.values(config.trial)
        if number:
            values = {name: draw(random, dist, number) for name, dist in space.distributions.items()}
            values = {name: value for name, value in values.items() if space.applies(name, values.get("model", ""))}
        fails_at = int(random.geometric(0.6)) if number and random.random() < failed else None
        fails_at = 1 if failed >= 1 else fails_at
        trials.append(Simulated(number, values, now, workers[slot], fails_at))
        heapq.heappush(events, (now + epoch_seconds(random, values), slot, number))

    for slot in range(len(workers)):
        start(slot, 0.4 * slot)
    while events and over < ended:
        now, slot, number = heapq.heappop(events)
        trial = trials[number]
        epoch = len(trial.reports) + 1
        if epoch == trial.fails_at:
            broken = random.random() < 0.3
            trial.reason = "RuntimeError: out of memory" if broken else f"diverged: non-finite loss in epoch {epoch}"
            trial.state, trial.diverged = FAIL, not broken
        else:
            order += 1
            previous = clock(trial.reports[-1]["time"]) if trial.reports else trial.started
            trial.reports.append(report(random, trial.values, epoch, now, now - previous, order))
            trial.state = decide(rungs, config, trial)
        if trial.state == RUNNING:
            heapq.heappush(events, (now + epoch_seconds(random, trial.values), slot, number))
        else:
            over += 1
            trial.ended = now
            start(slot, now + random.uniform(0.05, 0.3))
    return trials


def decide(rungs, config, trial):
    """Tell what becomes of a trial after its newest report, by the rule of ``scheduler.Rungs``."""
    epoch, loss = len(trial.reports), trial.reports[-1]["val_loss"]
    if epoch == config.trial.max_epochs:
        return COMPLETE
    if epoch in rungs:
        losses = rungs[epoch]
        losses[trial.number] = loss
        quota = max(1, len(losses) // config.asha.reduction_factor)
        if loss > sorted(losses.values())[quota - 1] and trial.number:
            return PRUNED
    return RUNNING


def draw(random, distribution, number):
    """Draw a value, log-uniform where the space is; later trials stay nearer to the middle, as a sampler would."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(random.integers(len(distribution.choices)))]
    low, high = float(distribution.low), float(distribution.high)
    place = random.random()
    if number > 10 and random.random() < 0.7:
        place = float(np.clip(random.normal(0.65, 0.12), 0, 1))
    value = low * (high / low) ** place if distribution.log else low + (high - low) * place
    if distribution.step is not None and not distribution.log:
        value = low + round((value - low) / distribution.step) * distribution.step
    return min(max(round(value), int(low)), int(high)) if isinstance(distribution, IntDistribution) else float(value)


def epoch_seconds(random, values):
    return (0.4 + values.get("hidden_width", 400) / 400) * random.uniform(0.95, 1.1)


def report(random, values, epoch, now, seconds, order):
    """Make up the numbers of an epoch: loss falls to a floor that the hyperparameters set."""
    latent, width = values.get("latent_size", 20), values.get("hidden_width", 400)
    speed = math.log10(values.get("learning_rate", 1e-3)) + 2.6
    floor = 104 + 9 * math.log(latent / 24) ** 2 / (1 + 0.2 * latent / 24) + 2.5 * math.log(1000 / width)
    floor += 0.02 * sum(len(str(value)) for value in values.values() if isinstance(value, str))
    loss = floor + 9 * speed**2 + (55 + 12 * speed**2) * epoch ** (-0.95 + 0.1 * abs(speed))
    loss = float(loss + random.normal(0, 0.25))
    kl = float(min(26, 4.2 * latent**0.55) * (1 - 0.5 / epoch))
    return {
        "epoch": epoch,
        "train_loss": float(loss - 1.2 * math.log1p(epoch) + 20 / epoch * random.uniform(0.9, 1.1)),
        "val_loss": loss,
        "val_reconstruction": loss - kl,
        "val_kl": kl,
        "active_units": int(min(latent, 6 + 5 * math.log(latent + 1) + random.integers(3))),
        "seconds": round(seconds, 3),
        "images_per_second": float(TRAIN / (0.85 * seconds)),
        "time": iso(now),
        "order": order,
    }


def frozen(trial, space, base, ranked_by="val_loss"):
    """Return what the Optuna study holds of a simulated trial."""
    inside = space.contains(with_values(base, trial.values))
    attributes = {f"{REPORT_ATTRIBUTE}{report['epoch']}": report for report in trial.reports}
    attributes |= {"node": trial.node, "device": "cpu"} if trial.reports else {}
    attributes |= {"reason": trial.reason} if trial.reason else {}
    attributes |= {"audited": trial.audited} if trial.audited else {}
    attributes |= {"collapsed": trial.collapsed, "diverged": trial.diverged} if trial.state != RUNNING else {}
    attributes |= {} if inside else {VALUES_ATTRIBUTE: trial.values}
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=TrialState[trial.state],
        value=trial.reports[-1][ranked_by] if trial.state in (COMPLETE, PRUNED) else None,
        datetime_start=START + timedelta(seconds=trial.started),
        datetime_complete=None if trial.state == RUNNING else START + timedelta(seconds=trial.ended),
        params=trial.values if inside else {},
        distributions={name: space.distributions[name] for name in trial.values} if inside else {},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={report["epoch"]: report[ranked_by] for report in trial.reports},
    )


def write_best(folder, rows, config, metric):
    """Write ``best/`` without weights: numbers, configuration and two pictures."""
    best, ranking = winner(rows, config.trial.max_epochs), Metric.of(metric)
    if best is None:
        return
    chosen = {"winner": best}
    if rows[0].epochs == best.epochs and rows[0].state != FAIL:
        chosen["reference"] = rows[0]
    metrics = {
        **{name: value for name, value in metric.items() if name in ("kind", "unit", "dimensions")},
        "rule": f"{ranking.best} {ranking.name} at max_epochs={config.trial.max_epochs}",
        **{who: numbers(row, ranking.columns) for who, row in chosen.items()},
    }
    if "reference" in metrics:
        metrics["improvement"] = {
            split: ranking.improvement(metrics["reference"][split], metrics["winner"][split])
            for split in ("validation", "test")
        }
    if "dimensions" in metrics:
        metrics["code_length"] = asdict(CodeLength(5.4, 3.7, 2.7, 2.6, 0.149, 1000, 10_000))
    (folder / "best").mkdir()
    write_json(folder / "best" / "metrics.json", metrics)
    write_json(folder / "best" / "config.json", to_dict(with_values(config.trial, best.values)))
    for name in ("samples.png", "reconstructions.png"):
        noise = np.random.default_rng(0).integers(0, 256, (240, 240), np.uint8)
        Image.fromarray(noise).save(folder / "best" / name)


def numbers(row, columns=()):
    last = row.reports[-1]
    elbo = {"negative_elbo": last["val_loss"], "reconstruction": last["val_reconstruction"], "kl": last["val_kl"]}
    elbo |= {"active_units": last["active_units"]} | {name: last[name] for name in columns}
    test = elbo | {"negative_elbo": elbo["negative_elbo"] - 0.9, "reconstruction": elbo["reconstruction"] - 0.9}
    identity = {"trial": row.trial, "epochs": row.epochs, "hyperparameters": dict(row.values)}
    return identity | {"validation": elbo, "test": test}


def iso(seconds):
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def clock(text):
    return (datetime.fromisoformat(text) - START).total_seconds()
