"""The summary that a search prints at its end: best trials, winner, fresh seeds, advice, next steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_tune.analysis.loss_unit import NATS, LossUnit
from vae_tune.config import message_hints
from vae_tune.config.files import address, is_remote
from vae_tune.config.metric import METRIC
from vae_tune.config.model_options import PREFIX
from vae_tune.config.names import COMPLETE, FAIL, OPTIMISM, PRUNED, REFERENCE_TRIAL, REPORT_FILE, RUNNING, TRIAL
from vae_tune.record.diagnostics import problem_notes
from vae_tune.record.trials import TrialRow
from vae_tune.views.console import STATE_COLORS
from vae_tune.views.formatting import code_length_table, confirmation_table, format_value, format_values

_OTHER_COLUMNS_WIDTH, _COLUMN_WIDTH = 46, 11  # characters of all columns but the hyperparameters; of one of these


def print_summary(
    console: Console,
    rows: Sequence[TrialRow],
    num_samples: int,
    max_epochs: int,
    metrics: Mapping[str, Any] | None,
    folder: Path,
    advice: Sequence[str] = (),
    unit: LossUnit = NATS,
    resume: str = "",
) -> None:
    """Print the result of a search, the sentences of ``advice`` and the next steps.

    ``metrics`` is the content of ``best/metrics.json``, with the rows of ``--confirm`` as ``confirmation``.
    ``resume`` is the command that resumes the search, which is shown if trials are missing or unfinished.
    """
    _print_best_trials(console, rows, unit)
    counts = Counter(row.state for row in rows)
    console.print(
        f"{counts[COMPLETE]} trained to epoch {max_epochs}, {counts[PRUNED]} pruned, {counts[FAIL]} failed; "
        f"{sum(row.epochs for row in rows)} epochs instead of {len(rows) * max_epochs}.",
    )
    if metrics is None:
        console.print("There is no winner: no trial reported a loss.", style="red")
    else:
        _print_winner(console, metrics, unit)
        if lengths := code_length_table(metrics, unit):
            _print_shared(console, lengths["title"], lengths)
            console.print(lengths["note"], soft_wrap=True)
        if confirmation := metrics.get("confirmation"):
            _print_confirmation(console, confirmation, unit)
    for line in [*problem_notes(rows), *advice]:
        console.print(line, soft_wrap=True)
    unfinished = len(rows) < num_samples or counts[RUNNING] > 0
    _print_next_steps(console, folder, resume if unfinished else "")


def _print_best_trials(console: Console, rows: Sequence[TrialRow], unit: LossUnit) -> None:
    with_loss = (row for row in rows if row.loss is not None and row.state != FAIL)
    best = sorted(with_loss, key=lambda row: (-row.epochs, row.loss))[:10]
    if not best:
        return
    searched = dict.fromkeys(name for row in rows for name in row.values)
    names = list(searched)[: max(1, (console.width - _OTHER_COLUMNS_WIDTH) // _COLUMN_WIDTH)]
    loss = unit.ranking.name if unit.nats == 1 else unit.name.replace("/", "/_")
    columns = [name.replace(PREFIX, f"{PREFIX}_") for name in ("trial", "state", "epochs", loss, *names, "seconds")]
    table = _table(
        f"The best of {message_hints.quantity(len(rows), 'trial')}",
        *(name.replace("_", "\n") for name in columns),
        left="state",
    )
    for row in best:
        table.add_row(
            f"ref. {row.trial}" if row.trial == REFERENCE_TRIAL else str(row.trial),
            Text(row.state, style=STATE_COLORS[row.state]),
            str(row.epochs),
            unit.level(row.loss or 0.0),
            *(format_value(row.values.get(name, "")) for name in names),
            f"{row.seconds:.0f}",
        )
    console.print(table)


def _print_winner(console: Console, metrics: Mapping[str, Any], unit: LossUnit) -> None:
    best = metrics["winner"]
    words = f"Winner: trial {best['trial']} ({format_values(best['hyperparameters'])}), {metrics['rule']}."
    console.print(words, soft_wrap=True)
    splits = [split for split in ("validation", "test") if split in best]
    parts = ["test reconstruction", "test KL"] if "test" in best and not unit.ranking.is_users else []
    title = f"{unit.name}: {unit.title}" if unit.ranking.is_users else f"Negative ELBO, {unit.title}"
    table = _table(title, "", *splits, *parts, left="")
    for who in ("reference", "winner"):
        if who in metrics:
            test = metrics[who].get("test", {})
            numbers = [metrics[who][split].get(unit.ranking.key) for split in splits]
            numbers += [test[part] for part in ("reconstruction", "kl") if part in test][: len(parts)]
            table.add_row(who, *("" if number is None else unit.text(number) for number in numbers))
    if gains := metrics.get("improvement"):
        table.add_row("gain", *(unit.text(gains[split]) if split in gains else "" for split in splits), style="bold")
    console.print(table)
    if unit.nats != 1:
        console.print(f"One {unit.name} is {unit.nats:,.2f} {METRIC.unit}, the unit of the recorded tables.")


def _print_confirmation(console: Console, results: Sequence[Mapping[str, Any]], unit: LossUnit) -> None:
    """Print the means over fresh seeds, the winner's first."""
    table = confirmation_table(results, "+-", unit)
    _print_shared(console, f"Confirmed with fresh seeds: {table['title']}", table)
    trial, optimism = results[0][TRIAL], results[0][OPTIMISM]
    compared = f"{unit.with_name(optimism)} better than" if optimism > 0 else "no better than"
    console.print(f"In the search, trial {trial} was {compared} the mean of its fresh seeds.")


def _print_shared(console: Console, title: str, table: Mapping[str, Any]) -> None:
    """Print a table that the report has too."""
    drawn = _table(title, "", *table["columns"], left="")
    drawn.min_width = len(title)  # else the title of a narrow table is wrapped
    for row in table["rows"]:
        drawn.add_row(row["label"], *row["cells"])
    console.print(drawn)


def _print_next_steps(console: Console, folder: Path, resume: str) -> None:
    study = address(folder)
    if is_remote(folder) or (folder / REPORT_FILE).is_file():
        console.print(f"Report: {address(folder / REPORT_FILE)}", soft_wrap=True)
    files = "best/, trials.csv, epochs.csv, optuna.journal, study.json"
    console.print(f"Record: {study}   ({files})", soft_wrap=True)
    console.print("Resume, or explore the study:" if resume else "Explore the study:")
    code = f"from vae_tune import load_study; print(load_study({json.dumps(study)}).trials)"
    for command in (*filter(None, [resume]), message_hints.python(code), message_hints.command("dashboard", folder)):
        console.print(f"  {command}", soft_wrap=True)


def _table(title: str, *columns: str, left: str | None = None) -> Table:
    """Return an empty table; its columns are right-aligned but for ``left``."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column == left else "right", overflow="fold")
    return table
