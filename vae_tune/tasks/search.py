"""A whole search: planned, started, trained, finished."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from vae_tune.analysis.study import Study, load_study
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, named_path
from vae_tune.config.names import ARRAYS
from vae_tune.config.settings import DataConfig, SearchConfig
from vae_tune.config.space import Grid
from vae_tune.images.arrays import Arrays
from vae_tune.record.claim import claimed
from vae_tune.record.metadata import read_search_config
from vae_tune.search.stopping import interruptible
from vae_tune.tasks.notification import notifying
from vae_tune.tasks.search_finish import finish_search
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.search_run import train_trials
from vae_tune.tasks.search_start import make_stopping, running_search
from vae_tune.tasks.study_folder import study_place
from vae_tune.vae.networks.code import is_own
from vae_tune.vae.networks.registry import unnamed
from vae_tune.views.terminal import View, make_view


def run_search(
    config: SearchConfig, *, images: Arrays | None = None, view: View | None = None, grid: Grid | None = None
) -> Study:
    """Run a search, new or resumed, to its end and return the study.

    ``images`` are arrays of uint8, in place of the data set that ``config`` names: ``{"train": ..., "validation": ...,
    "test": ...}``, or one array that is split by its pixels. Each is (n, height, width), (n, height, width, c) or
    (n, c, height, width), with 1 or 3 channels c; all rules for .npz files hold. ``view`` shows the search; by default
    in the terminal, or as plain lines elsewhere. ``grid`` holds the space and the points of a new search, in place of
    the files that ``config`` names.

    Raises:
        UsageError: the search cannot run as configured; nothing was created or changed.
        KeyboardInterrupt: it was interrupted; the record holds all that was computed. SearchPaused: it was paused.
    """
    if images is not None:
        config = _of_arrays(config)
    stopping = make_stopping(config)
    place = study_place(config)
    with claimed(place, view.say if view else partial(print, flush=True)) as claim:
        plan = make_plan(config, grid, place, images)
        with (
            view or make_view() as shown,
            notifying(config.notify, plan.folder, shown.warn),
            running_search(plan, claim, shown, stopping) as search,
        ):
            with interruptible(stopping):
                train_trials(search)
                study = load_study(search.record.folder)
            return finish_search(search, study)


def resume_search(
    folder: str | Path,
    *,
    images: Arrays | None = None,
    view: View | None = None,
    model: str | None = None,
    max_epochs: int | None = None,
    **changes: Any,
) -> Study:
    """Resume the study in ``folder``; ``changes`` are fields of :class:`SearchConfig`.

    Only what leaves the trials comparable may change, for instance ``num_samples`` or ``resources``. A later
    ``max_epochs`` makes the search longer: its trials go on from their checkpoints. ``images`` are as in
    :func:`run_search`; they must have the checksum of the study's. A study of a user's class needs its file as
    ``model``, FILE.py:CLASS, and one of a user's metric its ``metric``: code runs only from a file that the caller
    names.
    """
    config = dataclasses.replace(read_search_config(named_path(folder)), **changes)
    if max_epochs is not None:
        config = dataclasses.replace(config, trial=dataclasses.replace(config.trial, max_epochs=max_epochs))
    if model is not None:
        config = dataclasses.replace(config, trial=dataclasses.replace(config.trial, model=model))
    elif is_own(config.trial.model) and "trial" not in changes:
        raise UsageError(unnamed(config.trial.model, address(named_path(folder))))
    if config.metric is not None and "metric" not in changes:
        raise UsageError(unnamed(config.metric, address(named_path(folder)), "metric"))
    return run_search(config, images=images, view=view)


def _of_arrays(config: SearchConfig) -> SearchConfig:
    """Return ``config`` for images that are given from Python; refuse a new one that also names others."""
    given, usual = config.data, DataConfig()
    for name, value in (("dataset", given.dataset), ("data_dir", given.data_dir)):
        if config.resume is None and value not in (getattr(usual, name), ARRAYS):
            raise UsageError(f"images are given, but {name} is {str(value)!r}: leave one out.")
    return dataclasses.replace(config, data=dataclasses.replace(given, dataset=ARRAYS, data_dir=None))
