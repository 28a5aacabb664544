"""The last sections of the report: the winner's configuration, and the data, settings and runs of the study."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vae_tune.analysis.hyperparameters import Axis, axes
from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.analysis.study import Study, trial_configs
from vae_tune.config import message_hints
from vae_tune.config.files import address
from vae_tune.config.metric import METRIC
from vae_tune.config.model_options import PREFIX
from vae_tune.config.names import BEST_FOLDER, CONFIG_FILE, DEVICE, FUNCTION, REOPENED, SLURM_JOB, VAL_LOSS
from vae_tune.config.settings import DataConfig, TrialConfig
from vae_tune.record.run_slots import most_slots, slots_of_run, up_to
from vae_tune.views.formatting import format_moment, format_value


def make_configuration(study: Study) -> dict[str, str] | None:
    """Return the winner's ``json``, as in ``best/config.json``, and the ``command`` that trains it; None without."""
    if study.best is None:
        return None
    trial = int(study.metrics["winner"]["trial"]) if study.metrics else int(str(study.best.name))
    config = trial_configs(study, [trial])[0]
    path = study.folder / BEST_FOLDER / CONFIG_FILE
    text = path.read_text() if path.exists() else json.dumps(asdict(config), indent=2)
    searched = [name for name in study.space.active(config.model) if not name.startswith(PREFIX)]
    options = {name: getattr(config, name) for name in searched} | {"epochs": config.max_epochs}
    for given, default in ((config, TrialConfig()), (study.config.data, DataConfig())):
        for name, value in asdict(given).items():
            if name not in {*options, "max_epochs", "model_options"} and value != getattr(default, name):
                options[name] = value
    words = [word for name, value in options.items() for word in (message_hints.option(name), str(value))]
    words += [word for name, value in config.model_options.items() for word in ("--model-option", f"{name}={value}")]
    return {
        "json": text.strip(),
        "command": message_hints.command("train", "--output", f"models/{study.name}", *words),
    }


def make_record(study: Study) -> list[tuple[str, str]]:
    """Return labeled lines: folder, data, metric, space, search settings, devices, versions, each run."""
    metadata, config = study.metadata, study.config
    data, metric = metadata["data"], metadata["metric"]
    devices = [str(device) for device in study.trials[DEVICE].dropna().unique() if device]
    images = ", ".join(f"{data[split]:,} {split}" for split in ("train", "validation", "test"))
    space = [_range(axis) for axis in axes(study).values()]
    space += [f"{name} = {value}" for name, value in metadata["fixed"].items()]
    versions = metadata["runs"][-1]["versions"].items()
    elbo = _metric(study.elbo_unit)
    base, scheduler = study.reference, study.scheduler.describe()
    return [
        ("Folder", address(study.place)),
        ("Data", f"{data['dataset']}: {images}; {' x '.join(map(str, data['shape']))} pixels"),
        ("SHA-256 of the data", data["sha256"]),
        *([("Metric", f"{metric[FUNCTION]}: {metric['kind']}")] if study.ranking.is_users else []),
        ("Validation loss" if study.ranking.is_users else "Metric", f"{VAL_LOSS}: validation negative ELBO, {elbo}"),
        ("Space", "; ".join(space)),
        (
            "Search",
            f"sampler {config.sampler}, seed {base.seed}, {scheduler}, {base.max_epochs} epochs",
        ),
        *([("Made longer", longer)] if (longer := _made_longer(metadata)) else []),
        ("Device", ", ".join(devices) or "unknown: no trial has reported an epoch"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions if version)),
        *((f"Run {number}", _run(run)) for number, run in enumerate(metadata["runs"], 1)),
    ]


def _made_longer(metadata: Mapping[str, Any]) -> str:
    """Return from how many epochs a search was made longer, and when; "" if it was not."""
    before = metadata.get(REOPENED, {}).get("before", [])
    later = [entry["max_epochs"] for entry in before[1:]] + [metadata["reference"]["max_epochs"]]
    steps = [
        f"from {entry['max_epochs']} to {last} epochs ({format_moment(entry['ended'])} UTC)"
        for entry, last in zip(before, later, strict=False)
        if entry["max_epochs"] < last
    ]
    return "; ".join(steps)


def _metric(unit: LossUnit) -> str:
    """Return the unit of the record, and that of the page where it is another."""
    shown = "" if unit.nats == 1 else f"; one {unit.name} is {unit.nats:,.2f} {METRIC.unit}"
    return f"{METRIC.unit}, {unit.kind.words}{shown}"


def _run(run: Mapping[str, Any]) -> str:
    """Return the command of a run with its start, end and slots, and its Slurm job."""
    slots = slots_of_run(run)
    most = most_slots(slots)
    resources = f"; {up_to(slots)}{most.count} x {most.cpus} CPU" if most else ""
    resources += f" and {most.gpus:g} GPU" if most and most.gpus else ""
    resources += f"; Slurm job {run[SLURM_JOB]}" if SLURM_JOB in run else ""
    end = f"{format_moment(run['ended'])} UTC" if "ended" in run else "an unrecorded end"
    return f"{shlex.join(run['command'])} ({format_moment(run['started'])} UTC to {end}{resources})"


def _range(axis: Axis) -> str:
    if axis.scale == "category":
        return f"{axis.name} of {', '.join(map(str, axis.choices))}"
    log = " (log)" if axis.scale == "log" else ""
    return f"{axis.name} {format_value(axis.low)} to {format_value(axis.high)}{log}"
