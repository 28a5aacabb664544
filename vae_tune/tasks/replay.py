"""Replaying searches on recorded curves: the result as tables, a figure and a page."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.config import names
from vae_tune.config.csv_tables import to_csv
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, atomic, is_remote
from vae_tune.config.metric import METRIC
from vae_tune.replay.curves import Curves, Source, Tabular, load_curves
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import ReplayedTrial, UnknownEpoch, simulate
from vae_tune.replay.surrogate import ERROR, ERROR_OF_BEST, FEWEST, LOWEST_CORRELATION, Surrogate, is_poor
from vae_tune.replay.tables import NEAR, REGRET, SETTING, lowest, regret_table, summary_table
from vae_tune.search.sampler import refuse_conditions
from vae_tune.views.console import make_console

_NEAR_WORDS = "Epochs to: median, and share of the searches that reach that regret. "


def replay(
    source: Path,
    settings: Sequence[Setting],
    *,
    num_samples: int = 50,
    seeds: Sequence[int] = range(50),
    curves: str = "surrogate",
    output: Path | None = None,
    force: bool = False,
    console: Console | None = None,
) -> pd.DataFrame:
    """Replay searches on recorded curves, print and write the result, and return the summary.

    ``source`` is a study, or a recorded curve table. Each setting and seed gets a search of ``num_samples`` trials.
    ``curves`` is ``surrogate``, or ``tabular`` for the recorded curves alone; ``force`` goes on with a poor surrogate.
    ``output`` is by default ``replay/`` in the study, else in the working folder.

    Raises:
        UsageError: the source cannot be replayed, its surrogate is poor, or ``output`` cannot be written.
    """
    console = console or make_console()
    folder = output or _default_output(source)
    _refuse_output(folder)
    recorded = load_curves(source)
    model = _make_source(source, recorded, curves, force=force, console=console)
    for setting in settings:
        refuse_conditions(setting.sampler, recorded.space)
        if recorded.space.conditions and setting.bridge == "stock":
            raise UsageError("--bridge stock cannot search options that only some models have. Use ours or pruned.")
        if setting.asha.has_rungs and setting.asha.grace_period > recorded.max_epochs:
            epochs = f"the {recorded.max_epochs} epochs of these curves"
            raise UsageError(f"grace_period must be at most {epochs}, but got {setting.asha.grace_period}.")
    began = time.perf_counter()
    searches = {setting: [_search(model, setting, num_samples, seed) for seed in seeds] for setting in settings}
    count = len(searches) * len(seeds)
    seconds = time.perf_counter() - began
    best = lowest(searches, model.best)
    summary, regret = summary_table(searches, best, recorded.size_factor), regret_table(searches, best)
    legend = _legend(best, model)
    _show(summary, recorded, legend, console)
    _write(folder, summary, regret, model, legend)
    each = f", {seconds / count:.2f} s each" if count > 1 else ""
    console.print(f"{_searches(count)} in {seconds:.1f} s{each}.")
    files = (names.REPLAY_SUMMARY_FILE, names.REPLAY_REGRET_FILE, names.REPLAY_PLOT_FILE, names.REPLAY_PAGE_FILE)
    console.print(f"{folder}: {', '.join(files)}", soft_wrap=True)
    return summary


def _refuse_output(folder: Path) -> None:
    """Refuse a folder that cannot be written, before the searches take hours."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"output {folder} cannot be written: {there} is no writable folder.")


def _make_source(place: Path, curves: Curves, kind: str, *, force: bool, console: Console) -> Tabular | Surrogate:
    """Return the source of simulated reports, after printing how good it is."""
    whole = f"{len(curves.values)} configurations, {curves.whole.sum()} of them to epoch {curves.max_epochs}"
    console.print(f"{address(place)}: {whole}; {curves.unit.kind.words}.", soft_wrap=True)
    if kind == "tabular":
        return Tabular(curves)
    surrogate = Surrogate(curves)
    validated = [surrogate.validate(ahead=ahead) for ahead in ((False,) if curves.whole.all() else (True, False))]
    for rows in validated:
        what = "stopped curves continued an epoch" if rows is not validated[-1] else "the surrogate"
        _show_errors(rows, what, curves.unit, console)
    console.print(f"Duration of an epoch: median error {surrogate.pace_error():.0%}.")
    if any(map(is_poor, validated)) and not force:
        alone = ", replay the recorded curves alone with --curves tabular" if curves.can_be_replayed_alone else ""
        raise UsageError(
            f"the surrogate of {address(place)} is poor: a rank correlation is below {LOWEST_CORRELATION}.\n"
            f"Record more curves{alone}, or go on with --force."
        )
    return surrogate


def _show_errors(validated: pd.DataFrame, what: str, unit: LossUnit, console: Console) -> None:
    title = f"Cross-validated, {what}: median error in {unit.short}, and of the best quarter"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for name in (names.EPOCH, names.TRIALS, names.SPEARMAN, ERROR, "error of best"):
        table.add_column(name, justify="right")
    for row in validated.to_dict("records"):
        form = ".3g" if unit.ranking.is_users else _difference_form(unit)
        errors = (f"{row[name] / unit.nats:{form}}" for name in (ERROR, ERROR_OF_BEST))
        correlation = f"{row[names.SPEARMAN]:{'.3g' if unit.ranking.is_users else '.2f'}}"
        table.add_row(str(row[names.EPOCH]), str(row[names.TRIALS]), correlation, *errors)
    console.print(table)


def _search(source: Source, setting: Setting, num_samples: int, seed: int) -> list[ReplayedTrial]:
    try:
        return simulate(source, setting, num_samples, seed)
    except UnknownEpoch as error:
        use = "Use --curves surrogate, or" if source.curves.whole.sum() >= FEWEST else "Use"
        raise UsageError(
            f"{setting}, seed {seed}: a trial continues past its recorded curve: {error}.\n"
            f"{use} a study whose trials were not stopped, recorded with --scheduler none."
        ) from error


def _default_output(source: Path) -> Path:
    own = not is_remote(source) and not (source / names.CURVES_FILE).exists()
    return source / names.REPLAY_FOLDER if own else Path(names.REPLAY_FOLDER)


def _difference_form(unit: LossUnit) -> str:
    """Return the format of a difference of losses: 0.0001 bits/dim is 0.2 nats for a 32 x 32 color image."""
    return ".2f" if unit.nats == 1 else ".4f"


def _rows(summary: pd.DataFrame, curves: Curves) -> list[list[str]]:
    """Return the summary as text cells: a header, then one row per setting. A metric's scale has no known targets."""
    unit = curves.unit
    header = ["setting", "epochs", "hours", "regret", "at equal epochs"]
    near = [] if unit.ranking.is_users else NEAR
    targets = [f"{nats * curves.size_factor / unit.nats:.2g}" for nats in near]
    header += [f"epochs to {target} {'nat' if target == '1' else unit.short}" for target in targets] + ["best stopped"]
    rows = [header]
    for row in summary.to_dict("records"):
        form = ".4g" if unit.ranking.is_users else _difference_form(unit)
        cells = [str(row[SETTING]), f"{row[names.EPOCHS]:.0f}", f"{row[names.HOURS]:.3g}"]
        cells += [_interval(row, name, form, unit.nats) for name in (REGRET, f"fair_{REGRET}")]
        for nats in near:
            cells.append(f"{_interval(row, f'epochs_to_{nats:g}', '.0f')}, {row[f'reached_{nats:g}']:.0%}")
        rows.append([*cells, _interval(row, "best_stopped", ".0%")])
    return rows


def _interval(row: Any, name: str, form: str, nats: float = 1.0) -> str:
    value, low, high = (row[key] / nats for key in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(value):
        return "not known"
    if low == float("inf"):
        return "never"
    if pd.isna(low):  # one search has no interval
        return _number(value, form)
    return f"{_number(value, form)} ({_number(low, form)} to {_number(high, form)})"


def _searches(count: int) -> str:
    return "1 search" if count == 1 else f"{count} searches"


def _number(value: float, form: str) -> str:
    return "never" if value == float("inf") else f"{value:{form}}"


def _show(summary: pd.DataFrame, curves: Curves, legend: str, console: Console) -> None:
    runs = summary[["repeats", "trials"]].iloc[0]
    header, *rows = _rows(summary, curves)
    more = " each, with 95 % intervals" if runs["repeats"] > 1 else ""
    lines = [f"{_searches(runs['repeats'])} of {runs['trials']} trials{more}", ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
    console.print("\n".join([*lines, ""]), soft_wrap=True)  # Markdown, ready to paste
    console.print(legend, soft_wrap=True)


def _legend(best: float, source: Source) -> str:
    unit = source.curves.unit
    in_nats = "" if unit.nats == 1 else f" (one {unit.name} is {unit.nats:,.2f} {METRIC.unit})"
    above, near = f"{unit.name} above {unit.text(best)}{in_nats}, the lowest loss", _NEAR_WORDS
    if unit.ranking.is_users:
        side = "below" if unit.ranking.maximize else "above"
        above, near = f"{unit.name} {side} {unit.level(best)}, the {unit.ranking.best}", ""
    return (
        f"Regret: {above} of these curves at epoch "
        f"{source.curves.max_epochs}. At equal epochs: regret when the setting with the fewest epochs ends. "
        f"{near}Best stopped: share of the searches that stopped their best trial early."
    )


def _write(folder: Path, summary: pd.DataFrame, regret: pd.DataFrame, source: Source, legend: str) -> None:
    from vae_tune.views.figures import regret as regret_figure

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in ((names.REPLAY_SUMMARY_FILE, summary), (names.REPLAY_REGRET_FILE, regret)):
            with atomic(folder / name) as file:
                file.write(to_csv(table, float_format="%.6g"))
        with atomic(folder / names.REPLAY_PLOT_FILE) as file:
            regret_figure.draw(regret, source.curves.unit).savefig(file, format="png", dpi=110)
        with atomic(folder / names.REPLAY_PAGE_FILE) as file:
            file.write(_page(folder, summary, source.curves, legend).encode())
    except OSError as error:
        raise UsageError(f"output {folder} cannot be written: {error.strerror or error}.") from error


def _page(folder: Path, summary: pd.DataFrame, curves: Curves, legend: str) -> str:
    """Return the figure and the summary as a self-contained page."""
    import jinja2

    picture = base64.b64encode((folder / names.REPLAY_PLOT_FILE).read_bytes()).decode()
    header, *rows = _rows(summary, curves)
    template = jinja2.Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"), autoescape=True)
    page: str = template.render(name=curves.name, picture=picture, header=header, rows=rows, legend=legend)
    return page + "\n"
