"""Training one configuration without Ray, into a folder of its own: checkpoints, metrics, model and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.config import message_hints
from vae_tune.config.errors import SearchError, UsageError, telling_line
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.files import atomic, read_json, write_json
from vae_tune.config.machine_limits import available_memory
from vae_tune.config.metric import Metric
from vae_tune.config.names import (
    CHECKPOINTS_FOLDER,
    CODE,
    EPOCH,
    EPOCH_METRICS_FILE,
    FUNCTION,
    METRIC,
    METRICS,
    SHA256,
    TRAINING_FILE,
)
from vae_tune.config.settings import DataConfig, TrialConfig, ViewsConfig
from vae_tune.images.datasets import Images, is_named, load_images
from vae_tune.tasks.generate import write_sheets
from vae_tune.tasks.model_code import probe_models, signature_of_named, with_options
from vae_tune.vae.checkpoint import newest_checkpoint, write_checkpoint, write_model
from vae_tune.vae.image_defaults import SETTINGS, with_image_defaults
from vae_tune.vae.likelihoods.likelihood import metric_of
from vae_tune.vae.likelihoods.registry import kind_of
from vae_tune.vae.memory_estimate import gpu_bytes, refuse_too_much, training_bytes
from vae_tune.vae.networks.code import is_own
from vae_tune.vae.networks.registry import admit_again, admitted_code
from vae_tune.vae.schedule import depends_on_end
from vae_tune.vae.threads import cpu_threads
from vae_tune.vae.training import Diverged, EpochReport, TrainingState, fit, new_state
from vae_tune.vae.user_metric import MetricFailed, UserMetric, probe_metric, read_metric
from vae_tune.views.console import make_console
from vae_tune.views.preparation import shown_preparation

_NUMBERS = {
    spec.name: {"int": int, "float": float}[str(spec.type)] for spec in fields(EpochReport) if spec.name != METRICS
}


def train(
    config: TrialConfig,
    data: DataConfig,
    *,
    output: Path | None = None,
    resume: Path | None = None,
    visdom: str | None = None,
    threads: int = 1,
    metric: str | None = None,
    console: Console | None = None,
) -> Path:
    """Train a configuration, or continue its training, and return the folder of the training.

    ``output`` is a new folder, by default one in ``models/``; ``resume`` is that of a training to continue, which may
    differ in ``max_epochs``, the place of the images, and the files of a user's class and of a metric; ``visdom`` is
    the URL of a server that shows the loss curves; ``metric`` is a function of a user's that is computed after each
    epoch, FILE.py:FUNCTION or MODULE:FUNCTION.

    Raises:
        UsageError: it cannot be trained as configured; nothing was created or changed.
        SearchError: it diverged, or its folder cannot be written.
        KeyboardInterrupt: it was interrupted; at most the current epoch is lost.
    """
    console = console or make_console()
    say = partial(console.print, soft_wrap=True)
    named = config.model
    config, own = with_options(_with_admitted_model(config, resume)), _read_metric(metric, resume)
    if resume is not None:
        _refuse_changes(read_settings(resume), (config, data))
    folder = resume or _new_folder(output, data)
    with shown_preparation(console) as progress:
        images = load_images(data, say, progress)
    if resume is not None:
        _refuse_changes(read_settings(resume), (config, data), images.shape[0])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _refuse_too_large(config, images, device)
    if resume is None:
        probe_models(config, None, images.shape)
        own = own and probe_metric(own, config, images.shape, images.validation)
    state, reports = _open(folder, config, data, images, device, own, is_new=resume is None)
    losses = metric_of(kind_of(config, images.shape[0], images.binarization), images.pixels)
    unit = LossUnit.of(losses)
    say(f"{folder}: {data.dataset}, {unit.kind.words}, on {device.type}")
    columns = TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=config.max_epochs, completed=state.epoch)
    try:
        with cpu_threads(threads), _live_curves(visdom, folder, config, losses, say) as show, bar:
            for report in fit(config, images, device, state, metric=own):
                reports.append({name: getattr(report, name) for name in _NUMBERS} | dict(report.metrics))
                _write_reports(folder / EPOCH_METRICS_FILE, reports)
                write_checkpoint(folder / CHECKPOINTS_FOLDER, config, state, report)
                show(reports)
                bar.update(task, completed=report.epoch)
                say(_line(report, config, unit))
        model = state.model.cpu()
        write_sheets(folder, model, images.validation)
        write_model(folder, model, config, data, images.sha256(), own.code if own else None)
    except Diverged as diverged:
        raise SearchError(f"{diverged}. Try a lower --learning-rate than {config.learning_rate:g}.") from diverged
    except MetricFailed as failed:
        raise SearchError(
            f"The metric fails in epoch {state.epoch + 1}: {failed}. Mend it, and train again with another --output."
        ) from failed
    except OSError as error:
        reason = error.strerror or error
        raise SearchError(
            f"{folder} cannot be written: {reason}. {_how_to_continue(folder, named, metric)}"
        ) from error
    except KeyboardInterrupt:
        say(_how_to_continue(folder, named, metric))
        raise
    say(f"{folder}: model.safetensors, config.json, metrics.csv, samples.png, reconstructions.png")
    code, function = ("--model", named) if is_own(named) else (), () if metric is None else ("--metric", metric)
    evaluate = message_hints.command("evaluate", folder, *code, *function)
    say(f"Next: {evaluate}, {message_hints.command('generate', folder, *code)}")
    return folder


def read_settings(folder: Path) -> tuple[TrialConfig, DataConfig]:
    """Return the configuration and the data of the training in ``folder``.

    Raises:
        UsageError: the folder holds no training.
    """
    try:
        settings = read_json(folder / TRAINING_FILE)
        return from_dict(TrialConfig, settings["trial"]), from_dict(DataConfig, settings["data"])
    except FileNotFoundError as error:
        raise UsageError(f"{folder} is no training: {TRAINING_FILE} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise UsageError(f"{folder} is no training: {TRAINING_FILE} is damaged ({telling_line(error)}).") from error


def read_metric_name(folder: Path) -> str | None:
    """Return the user's metric of the training in ``folder`` as it was named, None without; after the settings."""
    name: str | None = read_json(folder / TRAINING_FILE).get(METRIC, {}).get(FUNCTION)
    return name


@contextmanager
def _live_curves(
    url: str | None, folder: Path, config: TrialConfig, metric: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """Yield a function that shows reports on a visdom server; it does nothing without ``url``.

    A server that is down does not harm the training.
    """
    if url is None:
        yield lambda _: None
        return
    from vae_tune.record.trials import TrialRow, now
    from vae_tune.views.live import close_views, open_views, require_packages

    views, started = ViewsConfig(visdom=url), now()
    require_packages(views)
    metadata = {"reference": {"max_epochs": config.max_epochs}, "metric": metric}
    (view,) = open_views(views, folder, metadata, say)
    try:
        yield lambda reports: view.put(TrialRow(0, {}, started, reports=tuple(reports)))
    finally:
        close_views([view], "complete")


def _read_metric(function: str | None, resume: Path | None) -> UserMetric | None:
    """Return a user's metric that a new training takes, or that of the training to resume.

    Raises:
        UsageError: there is no such function, or it is not that of the training.
    """
    metric = read_metric(function)
    if resume is None:
        return metric
    recorded = read_json(resume / TRAINING_FILE).get(METRIC, {})
    if (metric.code.digest if metric else None) == recorded.get(SHA256):
        return metric and replace(metric, ranking=Metric.of(recorded))
    before = f"computes {recorded[FUNCTION]}" if recorded else "computes no metric"
    now = "none" if metric is None else metric.code.model + (" with other code" if recorded else "")
    way = "Name the function as it was" if recorded else "Leave out --metric"
    raise UsageError(
        f"The training {resume} {before}, but got {now}.\n{way}, or train from the start with another --output."
    )


def _open(
    folder: Path,
    config: TrialConfig,
    data: DataConfig,
    images: Images,
    device: torch.device,
    metric: UserMetric | None,
    *,
    is_new: bool,
) -> tuple[TrainingState, list[dict[str, Any]]]:
    """Create or reopen the folder; return the state to start from, and the reports of the epochs before it."""
    settings = {"trial": to_dict(config), "data": to_dict(data), "sha256": images.sha256()}
    if (code := admitted_code(config.model)) is not None:
        settings[CODE] = code.digest
    if metric is not None:
        settings[METRIC] = metric.describe()
    if not is_new and read_json(folder / TRAINING_FILE).get("sha256") != settings["sha256"]:
        raise UsageError(f"The images of {data.dataset} are not those that {folder} was trained on.")
    newest = newest_checkpoint(folder / CHECKPOINTS_FOLDER, device)
    state = new_state(config, images.shape, device) if newest is None else newest.state
    if state.epoch > config.max_epochs:
        raise UsageError(f"max_epochs must be >= {state.epoch}, trained already, but got {config.max_epochs}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TRAINING_FILE, settings)
    except OSError as error:
        raise UsageError(f"output {folder} cannot be written: {error.strerror or error}.") from error
    columns = metric.ranking.columns if metric else ()
    return state, _read_reports(folder / EPOCH_METRICS_FILE, state.epoch, columns)


def _refuse_too_large(config: TrialConfig, images: Images, device: torch.device) -> None:
    """Refuse a configuration that does not fit into memory."""
    size = config, images.shape, len(images.validation)
    remedy = "Choose a smaller --latent-size, --hidden-width or --batch-size."
    if device.type == "cuda":
        refuse_too_much("This training on the GPU", gpu_bytes(*size), torch.cuda.mem_get_info()[0], remedy)
    refuse_too_much("This training", training_bytes(*size, on_gpu=device.type == "cuda"), available_memory(), remedy)


def _new_folder(output: Path | None, data: DataConfig) -> Path:
    folder = output or Path("models") / f"{data.title}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if (folder / TRAINING_FILE).exists():
        continued = _how_to_continue(folder, read_settings(folder)[0].model, read_metric_name(folder))
        raise UsageError(f"The training {folder} exists already.\n{continued}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already and is no training.\nChoose another --output.")
    return folder


def _with_admitted_model(config: TrialConfig, resume: Path | None) -> TrialConfig:
    """Admit the model of ``config``; return ``config`` with the name that the training to resume has for its class.

    Raises:
        UsageError: the model is none, or its code is not that of the training.
    """
    recorded = config.model if resume is None else read_settings(resume)[0].model
    if resume is None or not is_own(recorded) or config.model.rpartition(":")[2] != recorded.rpartition(":")[2]:
        signature_of_named(config.model)
        return config  # of a training to resume, another model is refused with the other changes
    admit_again([recorded], {recorded: read_json(resume / TRAINING_FILE).get(CODE)}, [config.model], str(resume))
    return replace(config, model=recorded)


def _refuse_changes(
    before: tuple[TrialConfig, DataConfig], now: tuple[TrialConfig, DataConfig], channels: int | None = None
) -> None:
    """Refuse settings that differ from those before; what is left to the images needs their ``channels``."""
    if channels is not None:
        before, now = ((with_image_defaults(trial, channels), data) for trial, data in (before, now))
    may_change = {"data_dir"} if depends_on_end(before[0]) else {"data_dir", "max_epochs"}
    if not (is_named(before[1].dataset) and is_named(now[1].dataset)):
        may_change.add("dataset")  # the images may have moved: their checksum decides
    for old, new in zip(map(to_dict, before), map(to_dict, now), strict=True):
        for name in old:
            left = name in SETTINGS and None in (old[name], new[name])  # to the images, which are not read yet
            if name not in may_change and not left and old[name] != new[name]:
                option = message_hints.option("epochs" if name == "max_epochs" else name)
                raise UsageError(
                    f"{name} is {old[name]!r} in this training, but got {new[name]!r}.\n"
                    f"Leave out {option} to continue, or train from the start with another --output."
                )


def _write_reports(path: Path, reports: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(reports[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(reports)
    with atomic(path) as file:
        file.write(text.getvalue().encode())


def _read_reports(path: Path, epochs: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the first ``epochs`` epochs; a crash may have left one more than was checkpointed.

    ``columns`` are those of a user's metric.
    """
    types = _NUMBERS | dict.fromkeys(columns, float)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: types[name](text) for name, text in row.items()} for row in csv.DictReader(file)]
        return [row for row in rows if row[EPOCH] <= epochs]
    except (FileNotFoundError, KeyError, ValueError):
        return []  # deleted or damaged by hand: start a new table


def _line(report: EpochReport, config: TrialConfig, unit: LossUnit) -> str:
    width, text = len(str(config.max_epochs)), unit.text
    name = f" {unit.name}" if unit.nats != 1 else ""
    own = "".join(f"  {column} {value:.4g}" for column, value in report.metrics.items())
    return (
        f"epoch {report.epoch:{width}d}/{config.max_epochs}  train {text(report.train_loss):>7}"
        f"  validation {text(report.val_loss):>7} = {text(report.val_reconstruction)} + KL {text(report.val_kl)}{name}"
        f"{own}  active {report.active_units}/{config.latent_size}  {report.seconds:.1f} s"
    )


def _how_to_continue(folder: Path, model: str, metric: str | None) -> str:
    own = {} if metric is None else {METRIC: metric}
    return f"To continue: {message_hints.resume(folder, 'train', model=model, **own)}"
