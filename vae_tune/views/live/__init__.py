"""Live views of a search: TensorBoard, MLflow, visdom, Weights & Biases, a copy of the study in PostgreSQL.

To add one: write a module here with a :class:`~vae_tune.views.live.view.LiveView`, name it in :data:`VIEWS`, and give
:class:`~vae_tune.config.settings.ViewsConfig` a field of that name. Views listen to the study record, not to Ray Tune,
whose loggers know neither a trial's true state nor, after a resume, its epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from vae_tune.config import message_hints
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import ViewsConfig
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.background_thread import BackgroundView
from vae_tune.views.live.samples import samples_of
from vae_tune.views.live.view import LiveView

VIEWS = {
    "tensorboard": "vae_tune.views.live.tensorboard:TensorBoard",
    "mlflow": "vae_tune.views.live.mlflow:MLflow",
    "visdom": "vae_tune.views.live.visdom:Visdom",
    "wandb": "vae_tune.views.live.wandb:WandB",
    "study_storage": "vae_tune.views.live.postgresql:PostgreSQL",
}
"""The class of each view, by its field in ViewsConfig; imported only if the field is set."""


def require_packages(config: ViewsConfig) -> None:
    """Check that the packages of the chosen views are installed, without importing them.

    Raises:
        UsageError: a package is missing; the message names the extra that installs it.
    """
    for field, view in _chosen(config).items():
        if find_spec(view.package) is None:
            extra, option = view.__module__.rpartition(".")[2], message_hints.option(field)
            raise UsageError(f"{option} needs the package {view.package}: pip install 'vae-tune[{extra}]'")


def open_views(
    config: ViewsConfig, folder: Path, metadata: Mapping[str, Any], warn: Callable[[str], None]
) -> list[BackgroundView]:
    """Start the chosen views of the study in ``folder``, each in a thread of its own."""
    views = []
    for field, view in _chosen(config).items():
        setting = getattr(config, field)
        address = str(folder / field) if setting is True else setting
        views.append(BackgroundView(f"{view.name} at {address}", partial(view, address, folder, metadata), warn))
    return views


def close_views(
    views: Iterable[BackgroundView], status: str, patience_seconds: float = 10.0, limit_seconds: float = 60.0
) -> None:
    """Close the views, and wait for each until it is done, makes no progress, or exceeds the limit."""
    alive = list(views)
    for view in alive:
        view.close(status)
    end = time.monotonic() + limit_seconds
    progress = [-1]
    while alive and progress != (progress := [view.progress for view in alive]) and time.monotonic() < end:
        round_end = time.monotonic() + patience_seconds
        alive = [view for view in alive if not view.join(max(0.0, round_end - time.monotonic()))]
    for view in alive:
        view.abandon()


@contextmanager
def live_views(
    config: ViewsConfig, record: StudyRecord, warn: Callable[[str], None], *, hurry: bool = False
) -> Iterator[list[str]]:
    """Show the record's trials, past and future, in the chosen views; yield the views' names.

    At the end the views have some time to catch up, less in a ``hurry``; see :func:`close_views`.
    """
    views = open_views(config, record.folder, record.metadata, warn)

    def show(row: TrialRow) -> None:
        draw_samples = samples_of(record.place, row)
        for view in views:
            view.put(row, draw_samples)

    if views:
        for row in record.rows:
            show(row)
        record.listeners.append(show)
    try:
        yield [view.name for view in views]
    finally:
        close_views(views, record.metadata["status"], *((1.0, 2.0) if hurry else ()))


def _chosen(config: ViewsConfig) -> dict[str, type[LiveView]]:
    return {field: resolve_name(path) for field, path in VIEWS.items() if getattr(config, field)}
