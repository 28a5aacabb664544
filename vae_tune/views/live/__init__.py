"""Live views of a search: TensorBoard, MLflow, visdom, the study in PostgreSQL.

They listen to the record, not to Ray Tune, whose own loggers know neither a trial's true state nor, after a resume,
its epoch. So they need no Ray, and show the trials that came before as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vae_tune.config.names import TENSORBOARD_FOLDER
from vae_tune.config.settings import UsageError, ViewsConfig
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.channel import Channel, Logger
from vae_tune.views.live.pictures import sketch

_PATIENCE_SECONDS = 10.0


def require_packages(config: ViewsConfig) -> None:
    """Check that what the views need is installed, without importing it.

    Raises:
        UsageError: it is not; names the extra that has it.
    """
    for view, package, extra in (
        ("tensorboard", "tensorboardX", "tensorboard"),
        ("mlflow", "mlflow", "mlflow"),
        ("visdom", "visdom", "visdom"),
        ("study_storage", "psycopg", "postgresql"),
    ):
        if getattr(config, view) and find_spec(package) is None:
            option = view.replace("_", "-")
            raise UsageError(f"--{option} needs the package {package}: pip install 'vae-tune[{extra}]'")


@contextmanager
def live_views(
    config: ViewsConfig, record: StudyRecord, warn: Callable[[str], None], *, hurry: bool = False
) -> Iterator[list[str]]:
    """Show the record's trials, those it has and those to come, in the views asked for; yields their names.

    At the end the views get a moment for what they have not shown yet; one that makes no progress is left behind.
    The moment is short where one is in a ``hurry``.
    """
    views = _views(config, record.folder, record.manifest)
    if not views:
        yield []
        return
    channels = [Channel(name, connect, warn) for name, connect in views.items()]
    listener = _listener(record.place, tuple(record.manifest["data"]["shape"]), channels)
    for row in record.rows:
        listener(row)
    record.listeners.append(listener)
    try:
        yield [channel.name for channel in channels]
    finally:
        close(channels, record.manifest["status"], *((1.0, 2.0) if hurry else ()))


def close(
    channels: Iterable[Channel], status: str, patience_seconds: float = _PATIENCE_SECONDS, limit_seconds: float = 60.0
) -> None:
    """End the views, and wait for them as long as they make progress, though not beyond the limit."""
    alive = list(channels)
    for channel in alive:
        channel.end(status)
    end = time.monotonic() + limit_seconds
    progress = [-1]
    while alive and progress != (progress := [channel.progress for channel in alive]) and time.monotonic() < end:
        round_end = time.monotonic() + patience_seconds
        alive = [channel for channel in alive if not channel.join(max(0.0, round_end - time.monotonic()))]
    for channel in alive:
        channel.abandon()


def _views(config: ViewsConfig, folder: Path, manifest: Mapping[str, Any]) -> dict[str, Callable[[], Logger]]:
    """Return how to connect each view, by the name that messages call it."""
    views: dict[str, Callable[[], Logger]] = {}
    if config.tensorboard:
        path = folder / TENSORBOARD_FOLDER
        views[f"TensorBoard in {path}"] = lambda: _tensorboard(path)
    if (uri := config.mlflow) is not None:
        views[f"MLflow at {uri}"] = lambda: _mlflow(uri, folder, manifest)
    if (url := config.visdom) is not None:
        max_epochs = manifest["reference"]["max_epochs"]
        views[f"visdom at {url}"] = lambda: _visdom(url, folder.name, max_epochs)
    if (database := config.study_storage) is not None:
        views[f"PostgreSQL at {database}"] = lambda: _postgresql(database, folder, manifest)
    return views


def _tensorboard(folder: Path) -> Logger:
    from vae_tune.views.live.tensorboard import TensorBoard

    return TensorBoard(folder)


def _mlflow(uri: str, folder: Path, manifest: Mapping[str, Any]) -> Logger:
    from vae_tune.views.live.mlflow import MLflow

    return MLflow(uri, folder, manifest)


def _visdom(url: str, environment: str, max_epochs: int) -> Logger:
    from vae_tune.views.live.visdom import Visdom

    return Visdom(url, environment, max_epochs)


def _postgresql(url: str, folder: Path, manifest: Mapping[str, Any]) -> Logger:
    from vae_tune.views.live.postgresql import PostgreSQL

    return PostgreSQL(url, folder, manifest)


def _listener(folder: Path, shape: tuple[int, ...], channels: Sequence[Channel]) -> Callable[[TrialRow], None]:
    def show(row: TrialRow) -> None:
        draw = sketch(folder, row, shape)
        for channel in channels:
            channel.put(row, draw)

    return show
