"""Exploring the latent size: a grid of sizes and seeds, trained on Ray without early stopping, compared on test."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState
from rich.console import Console

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.config import message_hints, names
from vae_tune.config.csv_tables import to_csv
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, atomic
from vae_tune.config.settings import NO_EARLY_STOPPING, SearchConfig
from vae_tune.config.space import Grid, Space
from vae_tune.config.storage import exists
from vae_tune.record.claim import claimed
from vae_tune.record.metadata import read_metadata, refuse_other_metric
from vae_tune.record.remote_sync import uploading
from vae_tune.record.trials import TrialRow, read_trials, row_from_trial
from vae_tune.tasks.search import run_search
from vae_tune.views.console import make_console
from vae_tune.views.terminal import make_view

if TYPE_CHECKING:
    import pandas as pd

_SUMMARIZED = (names.TEST_LOSS, "test_reconstruction", "test_kl", "test_active_units")


def plan(config: SearchConfig, sizes: Sequence[int], repeats: int) -> tuple[SearchConfig, Grid]:
    """Return the search that trains each latent size with ``repeats`` seeds, all sizes with the first seed first.

    The first seed, and all other settings, are those of ``config``.
    """
    first = config.trial.seed
    seeds = range(first, first + repeats)
    space = Space({names.LATENT_SIZE: CategoricalDistribution(sizes), names.SEED: IntDistribution(first, seeds[-1])})
    points = [{names.LATENT_SIZE: size, names.SEED: seed} for seed in seeds for size in sizes]
    exploration = replace(
        config,
        num_samples=len(points),
        study_name=config.study_name or f"explore-{config.data.title}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        keep=len(points),
        sampler="random",  # never asked: every trial is a point of the grid
        asha=NO_EARLY_STOPPING,
        trial=replace(config.trial, latent_size=sizes[0]),  # trial 0, and the first point
    )
    return exploration, Grid(names.EXPLORATION, space, points[1:])


def explore(config: SearchConfig, grid: Grid | None = None, console: Console | None = None) -> pd.DataFrame:
    """Train the search and grid that :func:`plan` returned, or continue one; return one row per latent size.

    Raises:
        UsageError: it cannot run as configured.
        KeyboardInterrupt: it was interrupted; the record holds everything up to then.
    """
    console = console or make_console()
    say = partial(console.print, soft_wrap=True)
    folder = config.resume or config.results_dir / str(config.study_name)
    named = {} if config.metric is None else {"metric": config.metric}
    resume = message_hints.resume(folder, "explore", model=config.trial.model, **named)
    try:
        study = run_search(config, view=make_view(console, with_summary=False), grid=grid)
    except KeyboardInterrupt:
        if exists(folder / names.STUDY_FILE):
            say(f"To continue: {resume}")
        raise
    trials = read_trials(study.folder)
    rows = [row_from_trial(trial) for trial in trials if trial.state != TrialState.WAITING]
    with contextlib.ExitStack() as held:
        claim = held.enter_context(claimed(folder, say))
        if claim is not None:  # held until everything is uploaded; the next write reports its loss
            held.enter_context(uploading(study.folder, folder, claim, say, lambda _: None, resume))
        sizes = _compare(study.folder, folder, [row for row in rows if row.state == names.COMPLETE], config, say)
    for line in failures(rows):
        say(line)
    return sizes


def _compare(
    folder: Path, place: Path, rows: list[TrialRow], config: SearchConfig, say: Callable[[str], None]
) -> pd.DataFrame:
    """Compare the sizes and write the result to ``folder``: the study, or its working copy if ``place`` is remote."""
    from vae_tune.images.datasets import load_images
    from vae_tune.tasks.generate import sample_sheet
    from vae_tune.tasks.repeats import evaluate_trials, load_last_checkpoint, summarize_seeds
    from vae_tune.vae.likelihoods.likelihood import metric_of
    from vae_tune.vae.likelihoods.registry import kind_of
    from vae_tune.vae.user_metric import read_metric
    from vae_tune.views.figures import latent_sizes

    if not rows:
        raise UsageError(f"No trial of {address(place)} was trained to the end.")
    images = load_images(config.data)  # the search has said its notes
    kind = kind_of(config.trial, images.shape[0], images.binarization)
    unit = LossUnit.of(metric_of(kind, images.pixels))
    metric = refuse_other_metric(read_metadata(folder), read_metric(config.metric, maximize=config.maximize))
    own = [f"test_{name}" for name in metric.ranking.columns] if metric else []
    table = evaluate_trials(place, rows, images, say, metric)
    sizes = summarize_seeds(table, [names.LATENT_SIZE], [*_SUMMARIZED, *own])
    for name, frame in ((names.EXPLORED_FILE, table), (names.LATENT_SIZES_FILE, sizes)):
        with atomic(folder / name) as file:
            file.write(to_csv(frame.assign(kind=kind.name)))
    for row in {row.values[names.LATENT_SIZE]: row for row in reversed(rows)}.values():  # the first of each size
        model = load_last_checkpoint(place, row, images, say).state.model
        sample_sheet(model).write_png(folder / f"samples_{row.values[names.LATENT_SIZE]:03d}.png")
    with atomic(folder / names.LATENT_SIZES_PLOT) as file:
        latent_sizes.draw(sizes, unit).savefig(file, format="png", dpi=110)
    show(sizes, unit, config.trial.max_epochs, say, own[:1])
    say(
        f"{address(place)}: {names.LATENT_SIZES_FILE}, {names.LATENT_SIZES_PLOT}, {names.EXPLORED_FILE}, samples_*.png"
    )
    return sizes


def show(
    sizes: pd.DataFrame, unit: LossUnit, epochs: int, say: Callable[[str], None], own: Sequence[str] = ()
) -> None:
    """Print the table as Markdown, ready to paste; ``own`` are columns of a user's metric, shown with intervals."""
    more = "".join(f" {name.replace('_', ' ', 1)} | 95 % interval |" for name in own)
    lines = [
        f"Test negative ELBO by latent size after {epochs} epoch{'s' * (epochs > 1)}, {unit.title}",
        "",
        f"| latent size | trials | mean | sd | 95 % interval | reconstruction | KL | active |{more}",
        f"|---|---|---|---|---|---|---|---|{'---|---|' * len(own)}",
    ]
    for row in sizes.to_dict("records"):
        mean, sd, low, high = (row[f"{names.TEST_LOSS}_{part}"] for part in ("mean", "sd", "low", "high"))
        certain = (unit.text(sd), f"{unit.text(low)} to {unit.text(high)}") if row["trials"] > 1 else ("", "")
        parts = (unit.text(row[f"test_{part}_mean"], digits=unit.digits - 1) for part in ("reconstruction", "kl"))
        active = f"{row['test_active_units_mean']:.1f}"
        cells = [str(row[names.LATENT_SIZE]), str(row["trials"]), unit.text(mean), *certain, *parts, active]
        for name in own:
            spread = f"{row[f'{name}_low']:.4g} to {row[f'{name}_high']:.4g}" if row["trials"] > 1 else ""
            cells += [f"{row[f'{name}_mean']:.4g}", spread]
        lines.append(f"| {' | '.join(cells)} |")
    say("\n".join(lines))


def failures(rows: Sequence[TrialRow]) -> list[str]:
    """Return one line per latent size with failed trials, which the means leave out."""
    trials = Counter(row.values[names.LATENT_SIZE] for row in rows)
    failed = Counter(row.values[names.LATENT_SIZE] for row in rows if row.state == names.FAIL)
    return [
        f"Latent size {size}: {count} of {trials[size]} trials failed and are left out; trials.csv gives the reasons."
        for size, count in failed.items()
    ]
