"""The top of the report: the search's status, key numbers, findings, winner against reference, fresh seeds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from vae_tune.analysis.advice import Finding, conclusions
from vae_tune.analysis.compute_cost import ComputeCost
from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.analysis.study import Study
from vae_tune.config import names
from vae_tune.config.csv_tables import read_csv
from vae_tune.config.names import CONFIRMATION_FILE, EPOCHS, FAILED, REFERENCE_TRIAL, RUNNING, STATE, STATE_WORDS
from vae_tune.record.lock import is_being_written
from vae_tune.record.metadata import resume_command, status_label
from vae_tune.record.run_slots import most_slots, slots_of_run, up_to
from vae_tune.views.formatting import (
    code_length_table,
    confirmation_table,
    format_duration,
    format_moment,
    format_values,
)
from vae_tune.views.report.compute import format_cost, number_and_unit

_LABELS = {"negative_elbo": "negative ELBO", "kl": "KL"}


def make_status(study: Study) -> dict[str, str]:
    """Return the search's status: ``kind`` (a CSS class), ``label``, and ``detail`` unless it is complete."""
    status = study.metadata.get("status", "")
    if status == "complete":
        return {"kind": "complete", "label": "complete", "detail": ""}
    ended = f"{int((study.trials[STATE] != RUNNING).sum())} of {study.config.num_samples} trials have ended."
    if status == "running" and is_being_written(study.folder):
        return {"kind": "running", "label": "running", "detail": f"The search is still running: {ended}"}
    return {
        "kind": "failed" if status in (FAILED, "running") else "ended",
        "label": status_label(status, is_running=False),
        "detail": f"{ended} To resume: {resume_command(study.metadata, study.place)}",
    }


def make_facts(study: Study, cost: ComputeCost) -> list[str]:
    """Return the line below the title: images, trials, time and slots, start."""
    data, runs = study.metadata["data"], study.metadata["runs"]
    slots = [each for run in runs for each in slots_of_run(run)]
    most = most_slots(slots)
    on_slots = f" on {up_to(slots)}{most.count} slot{'s' if most.count > 1 else ''}" if most else ""
    return [
        f"{data['dataset']}, {data['train']:,} training images",
        f"{len(study.trials)} trials, {len(study.epochs):,} epochs",
        f"{format_duration(cost.wall_seconds)}{on_slots}",
        f"{format_moment(runs[0]['started'])} UTC",
    ]


def make_tiles(study: Study, cost: ComputeCost) -> list[tuple[str, str, str]]:
    """Return the key numbers, the winner's loss first: the label, the value and the detail of each."""
    tiles, unit = [], study.loss_unit
    if metrics := study.metrics:
        splits = [split for split in ("test", "validation") if split in metrics["winner"]]
        for split in splits:
            loss, trial = metrics["winner"][split].get(unit.ranking.key), metrics["winner"]["trial"]
            what = "" if unit.ranking.is_users else "negative ELBO of "
            text = "unknown" if loss is None else unit.text(loss)
            tiles.append((f"{split.title()} {unit.noun}", text, f"{what}trial {trial}, {unit.title}"))
        if metrics.get("improvement"):
            split = next(split for split in splits if split in metrics["improvement"])
            gain = unit.text(metrics["improvement"][split], "+")
            tiles.append(("Gain", gain, f"{unit.name} on {split}, over the reference"))
    elif (best := study.best) is not None:
        detail = f"{unit.name} on validation; trial {best.name}, epoch {best[EPOCHS]}"
        tiles.append(("Best so far", unit.text(best[study.ranking.name]), detail))
    counts = Counter(study.trials[STATE])
    states = [state for state in names.STATES if state != RUNNING or counts[state]]
    words = ", ".join(f"{counts[state]} {STATE_WORDS[state]}" for state in states)
    tiles.append(("Trials", str(len(study.trials)), words))
    number, cost_unit = number_and_unit(cost.hours.sum(), cost)
    tiles.append(("Compute", number, f"{cost_unit} in {format_duration(cost.wall_seconds)}"))
    if cost.saved_epochs:
        share = cost.saved_epochs / (cost.saved_epochs + len(study.epochs))
        saved = f"of the epochs, about {format_cost(cost.saved_hours, cost)}, by early stopping"
        tiles.append(("Saved", f"{share:.0%}", saved))
    return tiles


def make_findings(study: Study, importance: pd.DataFrame) -> list[Finding]:
    """Return the winner's result, then what else the study shows, well-supported advice first."""
    findings = sorted(conclusions(study, importance), key=lambda each: (each.topic != "result", not each.certain))
    if not study.metrics:
        return findings
    best = study.metrics["winner"]
    text = f"Trial {best['trial']} wins ({format_values(best['hyperparameters'])}): {study.metrics['rule']}."
    if study.metrics.get("improvement"):
        split = "test" if "test" in study.metrics["improvement"] else "validation"
        gain = study.metrics["improvement"][split]
        compared = "better than" if gain > 0 else "worse than" if gain < 0 else "as good as"
        unit = study.loss_unit
        much = f"{unit.text(abs(gain))} {unit.name} " if gain else ""
        text += f" On the {split} images it is {much}{compared} the reference, trial {REFERENCE_TRIAL}."
    return [Finding("result", text), *(finding for finding in findings if finding.topic != "result")]


def make_comparison(study: Study) -> dict[str, Any] | None:
    """Return reference and winner as a table of all numbers in ``best/metrics.json``; None if there is no winner."""
    if not (metrics := study.metrics):
        return None
    unit, who = study.elbo_unit, [name for name in ("reference", "winner") if name in metrics]
    rows = []
    for split in ("test", "validation"):
        for name, value in metrics["winner"].get(split, {}).items():
            if isinstance(value, int | float):
                numbers = [metrics[entry].get(split, {}).get(name) for entry in who]
                change = value - numbers[0] if len(who) == 2 and numbers[0] is not None else None
                shown = study.loss_unit if name in study.ranking.columns else unit
                label = f"{split} {_LABELS.get(name, name.replace('_', ' '))}"
                cells = [*(_cell(number, shown) for number in numbers), _cell(change, shown, "+")]
                rows.append({"label": label, "cells": cells})
    known = unit.kind
    kind = known.words if known.is_likelihood else f"a cross-entropy of {known.words}, which is no likelihood"
    columns = [f"{name}, trial\u00a0{metrics[name]['trial']}" for name in who]
    title = f"{unit.name}; {kind}; a lower negative ELBO is better"
    if study.ranking.is_users:
        title = f"{study.loss_unit.kind.words}; other numbers: {title}"
    return {"title": title, "columns": [*columns, "change"], "rows": rows}


def make_code_length(study: Study) -> dict[str, Any] | None:
    """Return the code length of the test images as a table; None where pixels are no levels, or before the end."""
    return code_length_table(study.metrics or {}, study.elbo_unit)


def make_confirmation(study: Study) -> dict[str, Any] | None:
    """Return the results of ``--confirm`` as a table; None without, or if its trials have been trained on since."""
    path = study.folder / CONFIRMATION_FILE
    if not path.exists():
        return None
    results = read_csv(path).to_dict("records")
    name = study.ranking.name
    now = [study.trials[name].get(result[names.TRIAL]) for result in results]
    if names.REOPENED in study.metadata and now != [result[f"{names.SEARCHED}{name}"] for result in results]:
        return None
    return confirmation_table(results, "±", study.loss_unit)


def _cell(value: float | None, unit: LossUnit, sign: str = "") -> str:
    """Return a count, or a loss in ``unit``."""
    return "" if value is None else f"{value:{sign}d}" if isinstance(value, int) else unit.text(value, sign)
