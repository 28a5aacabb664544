"""The compute section of the report: what the search cost, by trial state, and what early stopping saved."""

from __future__ import annotations

import math
from typing import Any

from vae_tune.analysis.compute_cost import REPEATED, UNFINISHED, ComputeCost, cost_unit
from vae_tune.analysis.progress import stopped_trials
from vae_tune.analysis.study import Study
from vae_tune.views.formatting import format_duration


def make_compute(study: Study, cost: ComputeCost) -> dict[str, Any]:
    """Return the cost table, the sentences on early stopping, and the notes on what the record does not hold."""
    hours, total = cost.hours, cost.hours.sum()
    rows = []
    for key, entry in cost.entries.to_dict("index").items():
        spent = hours[str(key)]
        if key in (UNFINISHED, REPEATED) and not spent and not entry["trials"]:
            continue
        row = {"key": key, "trials": int(entry["trials"]) or "", "epochs": int(entry["epochs"]) or ""}
        row["cost"] = "unknown" if math.isnan(spent) else number_and_unit(spent, cost)[0]
        if total and not math.isnan(spent):
            row |= {"share": f"{spent / total:.1%}", "percent": f"{spent / total * 100:.3f}"}
        rows.append({"share": "", "percent": None} | row)
    return {
        "unit": number_and_unit(total, cost)[1],
        "title": f"{format_cost(total, cost)} in {format_duration(cost.wall_seconds)} of searching.",
        "rows": rows,
        "sentences": [*_savings(cost, study), *cost.notes],
    }


def number_and_unit(hours: float, cost: ComputeCost) -> tuple[str, str]:
    """Return a cost as a number and a unit; all costs of a study share the unit that fits its total."""
    units, unit = cost_unit(cost.hours.sum(), cost.unit)
    number = hours * units
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}", unit


def format_cost(hours: float, cost: ComputeCost) -> str:
    """Return a cost with its unit, such as ``12.3 core-hours``."""
    return " ".join(number_and_unit(hours, cost))


def _savings(cost: ComputeCost, study: Study) -> list[str]:
    if not study.rungs:
        return ["Early stopping was off: every trial trained to the end."]
    if not cost.saved_epochs:
        return ["No trial has been pruned yet."]
    spent, full = len(study.epochs), len(study.epochs) + cost.saved_epochs
    return [
        f"{len(stopped_trials(study))} trials were pruned: the search trained {spent:,} epochs instead of {full:,}.",
        f"At each trial's own pace, the other {cost.saved_epochs:,} epochs would have cost about "
        f"{format_cost(cost.saved_hours, cost)}.",
    ]
