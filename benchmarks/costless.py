"""Shared by ``scale``, ``slots`` and ``loading``: searches whose trials cost nothing, by this code or an older one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import in_checkout

EPOCHS = 5


def run_worker(script: str, checkout: Path, *arguments: object) -> dict[str, Any]:
    """Run a benchmark's script with ``--worker`` in a process of its own, on the code of a checkout."""
    command = [sys.executable, script, "--worker", *map(str, arguments)]
    how = in_checkout(checkout)
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **how).stdout
    return dict(json.loads(output.splitlines()[-1]))


def search_config(sampler: str, trials: int, **settings: Any) -> Any:
    """Return the configuration of a search of ``trials`` in all."""
    from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig

    base = TrialConfig(max_epochs=EPOCHS)
    known: Any = sampler
    return SearchConfig(num_samples=trials, sampler=known, trial=base, asha=AshaConfig(scheduler="none"), **settings)


def metadata_of(folder: Path, config: Any) -> dict[str, Any]:
    """Return the content of the ``study.json`` of a search in ``folder``."""
    import numpy as np

    from vae_tune.config.space import DEFAULT_SPACE
    from vae_tune.images.datasets import Images
    from vae_tune.record.metadata import new_metadata

    image = np.zeros((1, 1, 2, 2), np.uint8)
    return new_metadata(folder.name, config, config.trial, DEFAULT_SPACE, Images(image, image, image))


def report(values: Mapping[str, Any], epoch: int) -> dict[str, Any]:
    """Return what a worker reports of an epoch."""
    loss = 100 + abs(math.log(values["learning_rate"] / 1e-3)) + 10 / epoch
    parts = {"train_loss": loss, "val_reconstruction": loss, "val_kl": 0.0, "active_units": 1}
    return {"epoch": epoch, "val_loss": loss, **parts, "seconds": 0.0, "images_per_second": 1.0, "device": "cpu"}


def write_history(folder: Path, trials: int) -> None:
    """Write a study of ``trials`` random trials, all complete, which a search can continue."""
    from vae_tune.config.optuna_logging import silence_optuna
    from vae_tune.config.space import DEFAULT_SPACE
    from vae_tune.record.study_record import StudyRecord
    from vae_tune.search.searcher import StudySearcher
    from vae_tune.search.stopping import Stopping

    config = search_config("random", trials)
    with silence_optuna():
        record = StudyRecord.create(folder, metadata_of(folder, config))
        searcher = StudySearcher(record, DEFAULT_SPACE, config.trial, "random", Stopping(), num_samples=trials)
        for first in range(0, trials, 500):
            with record.transaction():  # one time to the disk
                for number in range(first, min(first + 500, trials)):
                    given: Any = searcher.suggest(str(number))
                    for epoch in range(1, EPOCHS + 1):
                        searcher.trials.report(str(number), {**report(given["values"], epoch), "hostname": "host"})
        record.close()


def listen(record: Any, stopping: Any, *more: Callable[[Any], None]) -> None:
    """Let a record tell what a search lets it tell: what ends it, the keeper of the best trials, a view, and ``more``.

    The keeper writes no model, since there is none.
    """
    import io

    from vae_tune.tasks.winner import WinnerKeeper
    from vae_tune.views.console import make_console
    from vae_tune.views.terminal import make_view

    class Keeper(WinnerKeeper):
        def _write(self, best: Any) -> None:
            self._folder.mkdir(exist_ok=True)
            self._write_metrics(best, test=False)

    view = make_view(make_console(file=io.StringIO()))
    view.begin(record.metadata["config"]["num_samples"], EPOCHS, record.rows)
    ending = record.watchers if hasattr(record, "watchers") else record.listeners  # an older checkout has no watchers
    ending.append(stopping.listen)
    record.listeners += [Keeper(record, None, EPOCHS, 1, print), view, *more]  # type: ignore[arg-type]
