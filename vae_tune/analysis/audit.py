"""Check that a study's record is consistent: derive states, numbers and rung decisions again, and compare."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial

from vae_tune.config import names
from vae_tune.config.csv_tables import unescape
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict
from vae_tune.config.files import read_json
from vae_tune.config.local_copies import local_copy, original_address
from vae_tune.config.metric import Metric, loss_of
from vae_tune.config.names import BEST_FOLDER, COMPLETE, EPOCHS_FILE, ORDER, PRUNED, RUNNING, TRIALS_FILE, VAL_LOSS
from vae_tune.config.settings import SearchConfig, TrialConfig
from vae_tune.config.trial_values import value_of
from vae_tune.record.basis import MODEL_VERSION
from vae_tune.record.metadata import read_metadata, read_space
from vae_tune.record.trials import TrialRow, read_trials, row_from_trial, settled, winner
from vae_tune.search.scheduler_factory import make_scheduler


class Findings(NamedTuple):
    """What a check of a record found, one sentence each."""

    contradictions: list[str]
    notes: list[str]
    """What could not be checked."""


def audit(folder: Path) -> list[str]:
    """Return every contradiction in the record of a study; see :func:`check_record`."""
    return check_record(folder).contradictions


def check_record(folder: Path) -> Findings:
    """Return every contradiction in the record of a study, none if it is consistent; and what could not be checked.

    The Optuna journal is compared with both tables, each trial's state with its reports, each rung decision with the
    reports before it, and ``best/`` with the winner. Nothing is trained, nothing is written.

    Raises:
        UsageError: the folder is not a study, or one of its files cannot be read.
    """
    folder = local_copy(folder)
    metadata = read_metadata(folder)
    config: SearchConfig = from_dict(SearchConfig, metadata["config"])
    max_epochs = metadata["reference"]["max_epochs"]
    try:
        trials = [trial for trial in read_trials(folder) if names.WARM_START not in trial.user_attrs]
        trial_lines, epoch_lines = (_read_table(folder / name) for name in (TRIALS_FILE, EPOCHS_FILE))
    except (OSError, ValueError) as error:
        raise UsageError(f"The record of {original_address(folder)} cannot be read: {error}.") from error
    rows = [row_from_trial(trial) for trial in trials if trial.state.name != "WAITING"]
    ranking = Metric.of(metadata["metric"])
    found = [line for trial in trials for line in _compare_values(trial, ranking)]
    found += [line for row in rows for line in _check_state(row, max_epochs, ranking)]
    found += _check_order(rows)
    scheduler = make_scheduler(config.asha, max_epochs, metadata["reference"]["seed"])
    scheduler.open(read_space(metadata), config.num_samples)
    found += scheduler.verify(rows)
    found += _check_tables(metadata["status"] == "running", rows, trial_lines, epoch_lines, [*ranking.epoch_columns])
    found += _check_count(rows, metadata, config)
    found += _check_best(folder, rows, max_epochs, metadata["metric"]["kind"], ranking)
    return Findings(found, list(_note_other_models(rows)))


def _note_other_models(rows: Sequence[TrialRow]) -> Iterator[str]:
    """Yield how many decisions each other version of the model made, which this one cannot derive again."""
    models = Counter(basis.model for row in rows for basis in row.decisions.values())
    for model in sorted(models.keys() - {MODEL_VERSION}):
        made = f"version {model} of its model made them, this is version {MODEL_VERSION}"
        yield f"{models[model]} decisions of freeze-thaw were not derived again: {made}"


def _compare_values(trial: FrozenTrial, ranking: Metric) -> Iterator[str]:
    row, values = row_from_trial(trial), trial.intermediate_values
    reported = {report[names.EPOCH]: report[ranking.name] for report in row.reports}
    for epoch in sorted({*reported, *values}):
        loss, value = reported.get(epoch), values.get(epoch)
        if loss != value:
            yield f"trial {row.trial} epoch {epoch}: the report says {loss}, Optuna's intermediate value {value}"
    last = row.reports[-1][ranking.name] if row.reports else None
    if row.state in (COMPLETE, PRUNED) and trial.value != last:
        yield f"trial {row.trial}: Optuna's value is {trial.value}, its last report {last}"
    for report in row.reports:
        if loss_of(report) != ranking.loss(report[ranking.name]):
            epoch = report[names.EPOCH]
            yield f"trial {row.trial} epoch {epoch}: it is ranked by {loss_of(report)}, not by its {ranking.name}"


def _check_state(row: TrialRow, max_epochs: int, ranking: Metric) -> Iterator[str]:
    epochs = [report[names.EPOCH] for report in row.reports]
    if epochs != list(range(1, len(epochs) + 1)):
        yield f"trial {row.trial}: its epochs are {epochs}, not each once and in order"
    for name in dict.fromkeys([VAL_LOSS, *ranking.columns]):
        if not all(math.isfinite(report[name]) for report in row.reports):
            yield f"trial {row.trial}: a reported {name} is not finite"
    if row.state == COMPLETE and row.epochs != max_epochs:
        yield f"trial {row.trial} is COMPLETE at epoch {row.epochs}, not {max_epochs}"
    if row.state == PRUNED and not 0 < row.epochs < max_epochs:
        yield f"trial {row.trial} is PRUNED at epoch {row.epochs}"
    if row.state == names.FAIL and not row.reason:
        yield f"trial {row.trial} is FAIL without a reason"


def _check_order(rows: Sequence[TrialRow]) -> Iterator[str]:
    orders = sorted(report[ORDER] for row in rows for report in row.reports)
    if orders != list(range(1, len(orders) + 1)):
        yield "the reports' order has gaps or repeats"
    for row in rows:
        mine = [report[ORDER] for report in row.reports]
        if mine != sorted(mine):
            yield f"trial {row.trial}: its reports are out of order"


def _check_tables(
    live: bool,
    rows: Sequence[TrialRow],
    trials: Sequence[Mapping[str, str]],
    epochs: Sequence[Mapping[str, str]],
    columns: Sequence[str],
) -> Iterator[str]:
    if [line.get(names.TRIAL) for line in trials] != [str(row.trial) for row in rows]:
        yield f"{TRIALS_FILE} does not list the study's trials, each once"
        return
    for row, line in zip(rows, trials, strict=True):
        if live and row.state == RUNNING:  # its line may be a second old
            continue
        for name, value in row.cells().items():
            from_schema_1 = name in (names.AUDITED, names.COLLAPSED, names.DIVERGED) and name not in line
            if not from_schema_1 and _text(value) != unescape(line.get(name, "")):
                yield f"{TRIALS_FILE}: trial {row.trial} has {name}={line.get(name)!r}, the study {_text(value)!r}"
    reports = sorted(((row.trial, report) for row in rows for report in row.reports), key=lambda pair: pair[1][ORDER])
    for number, (line, (trial, report)) in enumerate(zip(epochs, reports, strict=False), start=2):
        known = {names.TRIAL: trial, **report}
        wanted = {name: _text(value) for name, value in known.items() if name in columns}
        if line != wanted:
            name = next(name for name in wanted if line.get(name) != wanted[name])
            yield f"{EPOCHS_FILE}:{number} has {name}={line.get(name)!r}, the study {wanted[name]!r}"
    if len(epochs) != len(reports):
        yield f"{EPOCHS_FILE} has {len(epochs)} rows, the study {len(reports)} reports"


def _check_count(rows: Sequence[TrialRow], metadata: Mapping[str, Any], config: SearchConfig) -> Iterator[str]:
    running = [row.trial for row in rows if row.state == RUNNING]
    rungs = list(config.asha.rungs(metadata["reference"]["max_epochs"]))
    if metadata["rungs"] != rungs:
        yield f"{names.STUDY_FILE} has the rungs {metadata['rungs']}, its settings {rungs}"
    if metadata["status"] == "complete" and (running or len(rows) != config.num_samples):
        yield f"the study is complete with {len(rows)} of {config.num_samples} trials, {len(running)} of them RUNNING"
    if rows and rows[0].trial != names.REFERENCE_TRIAL:
        yield "the first trial is not the reference"


def _check_best(folder: Path, rows: Sequence[TrialRow], max_epochs: int, kind: str, ranking: Metric) -> Iterator[str]:
    best = winner(settled(rows), max_epochs)
    interim = winner(rows, max_epochs)  # an interrupted search may name a trial that has not ended
    path = folder / BEST_FOLDER / names.METRICS_FILE
    if not path.exists():
        if best is not None:
            yield f"{path} is missing, though trial {best.trial} has ended"
        return
    try:
        metrics = read_json(path)
        written = from_dict(TrialConfig, read_json(folder / BEST_FOLDER / names.CONFIG_FILE))
        named, loss = metrics["winner"]["trial"], metrics["winner"]["validation"]["negative_elbo"]
        found = metrics["kind"]
        gains = {
            split: (gain, ranking.improvement(metrics["reference"][split], metrics["winner"][split]))
            for split, gain in metrics.get("improvement", {}).items()
        }
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        yield f"{folder / BEST_FOLDER} is damaged: {error}"
        return
    if found != kind:
        yield f"{path} has numbers of kind {found!r}, the study {kind!r}"
    row = next((row for row in (best, interim) if row is not None and row.trial == named), None)
    if row is None:
        yield f"{path} names trial {named} as the winner, but it is trial {best.trial if best else None}"
        return
    if loss not in {report[VAL_LOSS] for report in row.reports}:
        yield f"{path} gives trial {named} a loss that it never reported"
    for split, (gain, difference) in gains.items():
        if gain != difference:
            yield f"{path} says improvement on {split} {gain}, its numbers {difference}"
    if any(value_of(written, name) != value for name, value in row.values.items()):
        yield f"{folder / BEST_FOLDER / names.CONFIG_FILE} is not the winner's configuration"


def _read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _text(value: Any) -> str:
    return "" if value is None else str(value)
