"""Exploring the latent size: a grid of sizes and seeds, trained by Ray without early stopping, compared on test."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState
from rich.console import Console

from vae_tune.config import suggestions
from vae_tune.config.csv_tables import to_csv
from vae_tune.config.files import address, atomic
from vae_tune.config.names import (
    COMPLETE,
    EXPLORATION,
    EXPLORED_FILE,
    FAIL,
    LATENT_SIZE,
    LATENT_SIZES_FILE,
    LATENT_SIZES_PLOT,
    SEED,
    STUDY_FILE,
    TEST_LOSS,
)
from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig, UsageError, from_dict, to_dict
from vae_tune.config.space import Grid, Space
from vae_tune.config.storage import exists
from vae_tune.record.claim import claimed
from vae_tune.record.metadata import read_config
from vae_tune.record.remote_sync import mirrored
from vae_tune.record.trials import TrialRow, read_trials, row_from_trial
from vae_tune.tasks.options import ExploreOptions
from vae_tune.tasks.search import run_search
from vae_tune.views.console import make_console
from vae_tune.views.terminal import make_view

if TYPE_CHECKING:
    import pandas as pd

_SUMMARISED = (TEST_LOSS, "test_reconstruction", "test_kl", "test_active_units")


def explore(options: ExploreOptions, console: Console | None = None) -> pd.DataFrame:
    """Train the grid, or the rest of it, and return a row for each latent size.

    Raises:
        UsageError: it cannot run as configured, or ``resume`` names no exploration.
        KeyboardInterrupt: it was interrupted; the record holds all that was computed.
    """
    console = console or make_console()
    config, grid = plan(options) if options.resume is None else (_resumed(options, options.resume), None)
    folder = config.resume or config.results_dir / str(config.study_name)
    try:
        study = run_search(config, view=make_view(console, with_summary=False), grid=grid)
    except KeyboardInterrupt:
        if exists(folder / STUDY_FILE):
            say(console, f"Go on: {suggestions.resume(folder, 'explore')}")
        raise
    begun = [trial for trial in read_trials(study.folder) if trial.state != TrialState.WAITING]
    rows = [row_from_trial(trial) for trial in begun]
    tell = partial(say, console)
    with contextlib.ExitStack() as held:
        claim = held.enter_context(claimed(folder, tell))
        if claim is not None:  # kept until all is uploaded; that it is lost, the next write tells
            held.enter_context(mirrored(study.folder, folder, claim, tell, lambda _: None, EXPLORATION))
        sizes = _compare(study.folder, folder, [row for row in rows if row.state == COMPLETE], config, console)
    for line in failures(rows):
        say(console, line)
    return sizes


def plan(options: ExploreOptions) -> tuple[SearchConfig, Grid]:
    """Return the search that trains the grid: every size once with one seed, then with the next."""
    first = options.trial.seed
    trial: TrialConfig = from_dict(TrialConfig, to_dict(options.trial))
    space = Space(
        {
            LATENT_SIZE: CategoricalDistribution(options.sizes),
            SEED: IntDistribution(first, first + options.repeats - 1),
        }
    )
    points = [{LATENT_SIZE: size, SEED: first + n} for n in range(options.repeats) for size in options.sizes]
    name = options.study_name or f"explore-{options.data.dataset}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    config = SearchConfig(
        num_samples=len(points),
        study_name=name,
        results_dir=options.results_dir,
        keep=len(points),
        sampler="random",  # it is never asked: every trial is a point of the grid
        asha=AshaConfig(scheduler="none"),
        resources=options.resources,
        data=options.data,
        trial=replace(trial, latent_size=options.sizes[0]),  # trial 0, and the first point
    )
    return config, Grid(EXPLORATION, space, points[1:])


def _resumed(options: ExploreOptions, folder: Path) -> SearchConfig:
    """Return the search that goes on with the exploration in ``folder``, perhaps on other resources."""
    config = read_config(folder, EXPLORATION)
    if options != ExploreOptions(resume=folder, resources=options.resources):
        raise UsageError("--resume takes no other option than those of resources: the exploration's settings hold.")
    return replace(config, resources=options.resources, time_budget=None, target_loss=None)


def _compare(folder: Path, place: Path, rows: list[TrialRow], config: SearchConfig, console: Console) -> pd.DataFrame:
    """Compare the sizes into ``folder``, which is a working copy where the study's ``place`` is on object storage."""
    from vae_tune.images.datasets import load_images
    from vae_tune.tasks.generate import sample_sheet
    from vae_tune.tasks.repeats import last_checkpoint, summarise, test_numbers

    if not rows:
        raise UsageError(f"No trial of {address(place)} was trained to the end.")
    images = load_images(config.data)
    table = test_numbers(place, rows, images, partial(say, console))
    sizes = summarise(table, [LATENT_SIZE], _SUMMARISED)
    for name, frame in ((EXPLORED_FILE, table), (LATENT_SIZES_FILE, sizes)):
        with atomic(folder / name) as file:
            file.write(to_csv(frame.assign(kind=images.binarization)))
    for row in {row.values[LATENT_SIZE]: row for row in reversed(rows)}.values():  # the first of each size
        model = last_checkpoint(place, row, images, partial(say, console)).state.model
        picture = folder / f"samples_{row.values[LATENT_SIZE]:03d}.png"
        sample_sheet(model).write_png(picture)
    draw(sizes, images.binarization, folder / LATENT_SIZES_PLOT)
    show(sizes, images.binarization, config.trial.max_epochs, console)
    say(console, f"{address(place)}: {LATENT_SIZES_FILE}, {LATENT_SIZES_PLOT}, {EXPLORED_FILE}, samples_*.png")
    return sizes


def show(sizes: pd.DataFrame, kind: str, epochs: int, console: Console) -> None:
    """Print the table as Markdown, so that it can be pasted."""
    lines = [
        f"Test negative ELBO by latent size after {epochs} epoch{'s' * (epochs > 1)}, nats per image, {kind} values",
        "",
        "| latent size | trials | mean | sd | 95 % interval | reconstruction | KL | active |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sizes.to_dict("records"):
        mean, sd, low, high = (row[f"{TEST_LOSS}_{part}"] for part in ("mean", "sd", "low", "high"))
        certain = (f"{sd:.2f}", f"{low:.2f} to {high:.2f}") if row["trials"] > 1 else ("", "")
        parts = (f"{row[f'test_{part}_mean']:.1f}" for part in ("reconstruction", "kl", "active_units"))
        cells = (str(row[LATENT_SIZE]), str(row["trials"]), f"{mean:.2f}", *certain, *parts)
        lines.append(f"| {' | '.join(cells)} |")
    say(console, "\n".join(lines))


def failures(rows: Sequence[TrialRow]) -> list[str]:
    """Return a line for each latent size of which trainings failed: the means are without them."""
    sizes: dict[int, list[TrialRow]] = {}
    for row in rows:
        sizes.setdefault(row.values[LATENT_SIZE], []).append(row)
    counts = {size: sum(row.state == FAIL for row in mine) for size, mine in sizes.items()}
    return [
        f"Of latent size {size}, {counts[size]} of {len(mine)} trainings failed and are left out: trials.csv says why."
        for size, mine in sizes.items()
        if counts[size]
    ]


def say(console: Console, text: str) -> None:
    """Print a text as it is."""
    console.print(text, soft_wrap=True)


def draw(sizes: pd.DataFrame, kind: str, path: Path) -> None:
    """Draw mean and 95 % interval over the latent sizes, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    mean, high = sizes[f"{TEST_LOSS}_mean"], sizes[f"{TEST_LOSS}_high"]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(sizes[LATENT_SIZE], mean, yerr=(high - mean).fillna(0), marker="o", markersize=4, capsize=4)
    axes.set_xscale("log")
    axes.set_xticks(sizes[LATENT_SIZE].tolist())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set(xlabel="latent size (log)", ylabel=f"test negative ELBO, nats per image ({kind})")
    axes.set_title("Mean over seeds, with its 95 % interval")
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=110)
