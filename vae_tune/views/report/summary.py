"""What the report says in words and figures, as values: status, tiles, sentences, comparison, ledger, provenance."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vae_tune.analysis.advice import Finding, conclusions
from vae_tune.analysis.compute_cost import REPEATED, UNFINISHED, ComputeCost, cost_unit
from vae_tune.analysis.hyperparameters import Axis, axes
from vae_tune.analysis.study import Study, trial_configs
from vae_tune.config import suggestions
from vae_tune.config.csv_tables import read_csv
from vae_tune.config.files import address
from vae_tune.config.names import (
    BEST_FOLDER,
    CONFIG_FILE,
    CONFIRMATION_FILE,
    DEVICE,
    EPOCHS,
    FAILED,
    PRUNED,
    REFERENCE_TRIAL,
    RUNNING,
    STATE,
    STATE_WORDS,
    STATES,
    TEST_LOSS,
    TRIAL,
    TRIALS,
    VAL_LOSS,
)
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.record.journal import is_being_written
from vae_tune.record.metadata import resume_command, status_label
from vae_tune.views.terminal import describe, duration, short

if TYPE_CHECKING:
    import pandas as pd

_LABELS = {"negative_elbo": "negative ELBO", "kl": "KL"}


def make_status(study: Study) -> dict[str, str]:
    """Return how the search stands: ``kind`` (a style), ``label``, and ``detail`` where there is more to say."""
    status = study.manifest.get("status", "")
    asked, ended = study.config.num_samples, int((study.trials[STATE] != RUNNING).sum())
    how_far = f"{ended} of {asked} trials have ended."
    resume = f"To go on: {resume_command(study.kind, study.place)}"
    if status == "complete":
        return {"kind": "complete", "label": "complete", "detail": ""}
    if status == "running" and is_being_written(study.folder):
        return {
            "kind": "running",
            "label": "running",
            "detail": f"The search goes on: {how_far} This is how it stands.",
        }
    label = status_label(status, is_running=False)
    kind = "failed" if status in (FAILED, "running") else "ended"
    return {"kind": kind, "label": label, "detail": f"{how_far} {resume}"}


def make_facts(study: Study, ledger: ComputeCost) -> list[str]:
    """Return the line below the title."""
    data = study.manifest["data"]
    slots = study.manifest["runs"][-1].get("slots")
    side = f" on {slots['count']} slot{'s' if slots['count'] > 1 else ''}" if slots else ""
    return [
        f"{data['dataset']}, {data['train']:,} training images",
        f"{len(study.trials)} trials, {len(study.epochs):,} epochs",
        f"{duration(ledger.wall_seconds)}{side}",
        _moment(study.manifest["runs"][0]["started"]) + " UTC",
    ]


def make_tiles(study: Study, ledger: ComputeCost) -> list[dict[str, str]]:
    """Return the figures that count most, the first of them the winner's."""
    tiles = []
    metrics = study.metrics
    if metrics:
        kind = f"{metrics['unit']}, {metrics['kind']} values"
        splits = [split for split in ("test", "validation") if split in metrics["winner"]]
        for split in splits:
            loss, trial = metrics["winner"][split]["negative_elbo"], metrics["winner"]["trial"]
            tiles.append(_tile(f"{split.title()} loss", f"{loss:.2f}", f"negative ELBO of trial {trial}, {kind}"))
        if "improvement" in metrics:
            gain = metrics["improvement"][splits[0]]
            tiles.append(_tile("Gain", f"{gain:+.2f}", f"{metrics['unit']} on {splits[0]}, over the reference"))
    elif study.best is not None:
        best = study.best
        detail = f"nats per image on validation; trial {best.name}, epoch {best[EPOCHS]}"
        tiles.append(_tile("Best so far", f"{best[VAL_LOSS]:.2f}", detail))
    counts = Counter(study.trials[STATE])
    detail = ", ".join(
        f"{counts[state]} {STATE_WORDS[state]}" for state in STATES if state != RUNNING or counts[state]
    )
    tiles.append(_tile("Trials", str(len(study.trials)), detail))
    number, unit = _cost(ledger.hours.sum(), ledger)
    tiles.append(_tile("Compute", number, f"{unit} in {duration(ledger.wall_seconds)}"))
    if ledger.saved_epochs:
        part = ledger.saved_epochs / (ledger.saved_epochs + len(study.epochs))
        saved = f"of the epochs, about {_priced(ledger.saved_hours, ledger)}, by early stopping"
        tiles.append(_tile("Saved", f"{part:.0%}", saved))
    return tiles


def make_findings(study: Study, importance: pd.DataFrame) -> list[Finding]:
    """Return what the search found: the winner's numbers, and what the study teaches, the certain advice first."""
    findings = sorted(conclusions(study, importance), key=lambda each: (each.topic != "result", not each.certain))
    if not study.metrics:
        return findings
    best = study.metrics["winner"]
    text = f"Trial {best['trial']} wins ({describe(best['hyperparameters'])}): {study.metrics['rule']}."
    if "improvement" in study.metrics:
        split = "test" if "test" in study.metrics["improvement"] else "validation"
        gain = study.metrics["improvement"][split]
        than = "better than" if gain > 0 else "worse than" if gain < 0 else "as good as"
        much = f"{abs(gain):.2f} nats per image " if gain else ""
        text += f" On the {split} images it is {much}{than} the reference, trial {REFERENCE_TRIAL}."
    return [Finding("result", text), *(finding for finding in findings if finding.topic != "result")]


def make_comparison(study: Study) -> dict[str, Any] | None:
    """Return winner and reference as a table: all numbers of ``best/metrics.json``, split by split."""
    metrics = study.metrics
    if not metrics:
        return None
    who = [name for name in ("reference", "winner") if name in metrics]
    rows = []
    for split in ("test", "validation"):
        for name, value in metrics["winner"].get(split, {}).items():
            if isinstance(value, int | float):
                numbers = [metrics[entry].get(split, {}).get(name) for entry in who]
                change = value - numbers[0] if len(who) == 2 and numbers[0] is not None else None
                label = f"{split} {_LABELS.get(name, name.replace('_', ' '))}"
                rows.append({"label": label, "cells": [*map(_cell, numbers), _cell(change, "+")]})
    kind = "a cross-entropy of grey values, which is no likelihood" if metrics["kind"] == "grey" else metrics["kind"]
    title = f"{metrics['unit']}; {kind}; a lower negative ELBO is better"
    columns = [f"{name}, trial\u00a0{metrics[name]['trial']}" for name in who]
    return {"title": title, "columns": [*columns, "change"], "rows": rows}


def make_confirmation(study: Study) -> dict[str, Any] | None:
    """Return what fresh seeds said of the best trials, as a table: see :func:`vae_tune.tasks.confirm.compare`."""
    path = study.folder / CONFIRMATION_FILE
    if not path.exists():
        return None
    rows = [
        {
            "label": f"trial {row[TRIAL]}",
            "cells": [
                _cell(row["searched_val_loss"]),
                _interval(row, VAL_LOSS),
                _cell(row["optimism"], "+"),
                _interval(row, TEST_LOSS),
                f"{row[TRIALS]:.0f}",
            ],
        }
        for row in read_csv(path).to_dict("records")
    ]
    columns = ["in the search", "validation", "optimism", "test", "trainings"]
    return {
        "title": "Mean of fresh trainings with its 95 % interval, nats per image",
        "columns": columns,
        "rows": rows,
    }


def _interval(row: Mapping[Any, Any], name: str) -> str:
    mean, high = row[f"{name}_mean"], row[f"{name}_high"]
    return f"{mean:.2f}" if math.isnan(high) else f"{mean:.2f} ± {high - mean:.2f}"


def make_ledger_words(ledger: ComputeCost, study: Study) -> dict[str, Any]:
    """Return the ledger as rows for people, what early stopping saved, and what is not known."""
    hours, whole = ledger.hours, ledger.hours.sum()
    rows = []
    for what, entry in ledger.entries.to_dict("index").items():
        if what in (UNFINISHED, REPEATED) and not hours[str(what)] and not entry["trials"]:
            continue
        known = not math.isnan(hours[str(what)])
        share = hours[str(what)] / whole if known and whole else None
        rows.append(
            {
                "key": what,
                "trials": int(entry["trials"]) or "",
                "epochs": int(entry["epochs"]) or "",
                "cost": _cost(hours[str(what)], ledger)[0] if known else "not known",
                "share": "" if share is None else f"{share:.1%}",
                "percent": None if share is None else f"{share * 100:.3f}",
            }
        )
    return {
        "unit": _cost(whole, ledger)[1],
        "title": f"{_priced(whole, ledger)} in {duration(ledger.wall_seconds)} of searching.",
        "rows": rows,
        "sentences": [*_savings(ledger, study), *ledger.notes],
    }


def _savings(ledger: ComputeCost, study: Study) -> list[str]:
    if not study.rungs:
        return ["No trial was pruned: each was trained in full."]
    if not ledger.saved_epochs:
        return ["No trial has been pruned yet."]
    spent = len(study.epochs)
    full = spent + ledger.saved_epochs
    pruned = ledger.entries["trials"][STATE_WORDS[PRUNED]]
    return [
        f"{pruned} trials were pruned: {spent:,} epochs were trained instead of {full:,}.",
        f"The other {ledger.saved_epochs:,} would have cost about {_priced(ledger.saved_hours, ledger)}, "
        "at each trial's own pace.",
    ]


def make_configuration(study: Study) -> dict[str, str] | None:
    """Return the winner's configuration: ``json`` as in ``best/config.json``, and the ``command`` that trains it."""
    if study.best is None:
        return None
    trial = int(study.metrics["winner"]["trial"]) if study.metrics else int(str(study.best.name))
    config = trial_configs(study, [trial])[0]
    path = study.folder / BEST_FOLDER / CONFIG_FILE
    text = path.read_text() if path.exists() else json.dumps(asdict(config), indent=2)
    options = {name: getattr(config, name) for name in study.space.distributions} | {"epochs": config.max_epochs}
    for given, default in ((config, TrialConfig()), (study.config.data, DataConfig())):
        for name, value in asdict(given).items():
            if name not in options and name != "max_epochs" and value != getattr(default, name):
                options[name] = value
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return {"json": text.strip(), "command": suggestions.command("train", "--output", f"models/{study.name}", *words)}


def make_record(study: Study) -> list[tuple[str, str]]:
    """Return where everything came from: folder, data, settings, versions, and each run of the search."""
    manifest, config = study.manifest, study.config
    data, metric = manifest["data"], manifest["metric"]
    devices = [device for device in study.trials[DEVICE].dropna().unique() if device]
    images = ", ".join(f"{data[split]:,} {split}" for split in ("train", "validation", "test"))
    space = [_space(axis) for axis in axes(study).values()]
    space += [f"{name} = {value}" for name, value in manifest["fixed"].items()]
    lines = [
        ("Folder", address(study.place)),
        ("Data", f"{data['dataset']}: {images}; {' x '.join(map(str, data['shape']))} pixels"),
        ("SHA-256 of the data", data["sha256"]),
        ("Metric", f"{metric['name']}: validation negative ELBO, {metric['unit']}, {metric['kind']} values"),
        ("Space", "; ".join(space)),
        ("Search", f"sampler {config.sampler}, seed {study.reference.seed}, {_rungs(study)}"),
        ("Device", ", ".join(map(str, devices)) or "no report yet"),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in manifest["runs"][-1]["versions"].items() if version),
        ),
    ]
    for number, run in enumerate(manifest["runs"], 1):
        slots = f"; {run['slots']['count']} x {run['slots']['cpus']} CPU" if "slots" in run else ""
        gpus = f" and {run['slots']['gpus']:g} GPU" if run.get("slots", {}).get("gpus") else ""
        until = f"{_moment(run['ended'])} UTC" if "ended" in run else "an end that is not recorded"
        when = f"{_moment(run['started'])} UTC to {until}{slots}{gpus}"
        lines.append((f"Run {number}", f"{shlex.join(run['command'])} ({when})"))
    return lines


def _moment(text: str) -> str:
    return text[:19].replace("T", " ")


def _space(axis: Axis) -> str:
    if axis.scale == "category":
        return f"{axis.name} of {', '.join(map(str, axis.choices))}"
    return f"{axis.name} {short(axis.low)} to {short(axis.high)}{' (log)' if axis.scale == 'log' else ''}"


def _rungs(study: Study) -> str:
    last = f"{study.max_epochs} epochs"
    if not study.rungs:
        return f"no early stopping, {last}"
    factor = study.config.asha.reduction_factor
    return f"ASHA with rungs at {', '.join(map(str, study.rungs))} and reduction factor {factor}, {last}"


def _tile(label: str, value: str, detail: str) -> dict[str, str]:
    return {"label": label, "value": value, "detail": detail}


def _cell(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}d}" if isinstance(value, int) else f"{value:{sign}.2f}"


def _cost(hours: float, ledger: ComputeCost) -> tuple[str, str]:
    """Return a number and its unit: that in which the cost of the whole search is read."""
    units, unit = cost_unit(ledger.hours.sum(), ledger.unit)
    number = hours * units
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}", unit


def _priced(hours: float, ledger: ComputeCost) -> str:
    return " ".join(_cost(hours, ledger))
