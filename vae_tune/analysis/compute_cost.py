"""The compute cost of a search: where its hours went, derived from its record alone.

The record holds the length of each epoch, when it was reported, when each trial started and ended, and for each run
of the search its slots over time, its start and its end. :attr:`ComputeCost.notes` names what the record does not
hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from vae_tune.analysis.progress import SearchClock, stopped_trials
from vae_tune.analysis.study import Study, load_study
from vae_tune.config import names
from vae_tune.config.names import CPU_HOURS, ENDED, EPOCHS, FAIL, GPU_HOURS, SECONDS, STARTED, STATE, TIME, TRIAL
from vae_tune.record.lock import is_being_written
from vae_tune.record.run_slots import RunSlots, slots_of_run

_WORDS = {state: names.STATE_WORDS[state] for state in names.STATES}
UNFINISHED, REPEATED, IDLE = _WORDS[names.RUNNING], "repeated", "idle"
_SHARES = {CPU_HOURS: "cpus", GPU_HOURS: "gpus"}


@dataclass(frozen=True)
class ComputeCost:
    """The cost of a search, over all of its runs."""

    entries: pd.DataFrame
    """Indexed by complete, pruned, failed, unfinished, repeated, idle: ``trials``, ``epochs``, ``cpu_hours`` and
    ``gpu_hours``; and by confirmation, if there was one (``--confirm``). The hours add up to slots x wall-clock; idle
    is missing where the slots of a run are not recorded."""
    wall_seconds: float
    """Time from start to end, summed over the runs."""
    saved_epochs: int
    """Epochs that the trials that were stopped early had left to ``max_epochs``."""
    saved_hours: float
    """Their estimated cost in :attr:`unit`: each trial's epochs left times its own mean epoch."""
    notes: tuple[str, ...]
    """One sentence for each cost that the record does not hold."""

    @property
    def unit(self) -> str:
        """``GPU-hours`` if trials had GPUs, else ``core-hours``."""
        return "GPU-hours" if self.entries[GPU_HOURS].sum() > 0 else "core-hours"

    @property
    def hours(self) -> pd.Series[float]:
        """The entries in :attr:`unit`."""
        return self.entries[GPU_HOURS if self.unit == "GPU-hours" else CPU_HOURS]


def cost_unit(hours: float, unit: str) -> tuple[float, str]:
    """Return a factor and the unit for showing costs: minutes if the whole cost, ``hours``, is below one hour."""
    return (1.0, unit) if hours >= 1 else (60.0, unit.replace("hours", "minutes"))


def compute_cost(study: Study) -> ComputeCost:
    """Return the cost of ``study``; it may still be running.

    The cost of an epoch is its length times the CPUs (GPUs) of a slot. *Failed* includes the time from a failed
    trial's last report to its end. *Repeated* was in flight when a run of the search ended, and had to be trained
    again: from an unfinished trial's last report to the end of the run, at most its longest epoch. *Idle* is the rest
    of slots x wall-clock: starting workers, checkpoints, waiting, the evaluation at the end. Where the slots changed
    during a run, each number of slots counts for the time that there were so many.
    """
    trials = study.trials
    states = trials[STATE].astype(object)  # as a category a state without trials would be a group too
    lives = pd.DataFrame({STATE: states, STARTED: _seconds(trials[STARTED]), ENDED: _seconds(trials[ENDED])})
    epochs = study.epochs[[TRIAL, names.EPOCH, SECONDS]].assign(time=_seconds(study.epochs[TIME]))
    clock = SearchClock.of(study)
    runs, notes = _runs(study, clock)
    epochs["run"] = clock.run(study.epochs[TIME])
    epochs["what"] = epochs[TRIAL].map(lives[STATE].map(_WORDS))
    ends = [entry["max_epochs"] for entry in study.metadata.get(names.REOPENED, {}).get("before", [])]
    pauses = [*study.scheduler.pauses, *ends]
    lost = [_unreported(lives, epochs, run, pauses) for run in runs.itertuples()]
    charges = pd.concat([part for part in (epochs[["what", "run", SECONDS]], *lost) if len(part)] or [epochs])
    rates = {kind: charges["run"].map(runs[share]) for kind, share in _SHARES.items()}
    hours = pd.DataFrame({kind: charges[SECONDS] * rate / 3600 for kind, rate in rates.items()})
    entries = hours.groupby(charges["what"]).sum().reindex([*_WORDS.values(), REPEATED, IDLE], fill_value=0.0)
    wall = runs["end"] - runs["start"]
    for kind, share in _SHARES.items():
        whole = float(runs[f"all_{share}"].sum(skipna=False)) / 3600
        entries.loc[IDLE, kind] = whole - min(whole, entries[kind].sum())  # NaN where a run's slots are not known
    counted = trials.groupby(states.map(_WORDS))[EPOCHS].agg(["size", "sum"]).reindex(entries.index, fill_value=0)
    entries = entries.assign(trials=counted["size"].astype(int), epochs=counted["sum"].astype(int))
    inside = [path.parent for path in sorted(study.folder.glob(f"{names.CONFIRMATION_FOLDER}*/{names.STUDY_FILE}"))]
    confirmations = [compute_cost(other) for other in map(load_study, inside) if other.kind == names.CONFIRMATION]
    if confirmations:
        entries.loc[names.CONFIRMATION] = sum(other.entries.sum() for other in confirmations)
        entries = entries.astype({"trials": int, "epochs": int})
    if entries[CPU_HOURS][REPEATED] > 0:
        notes.append("Repeated is an upper bound: from a trial's last report to the end of that run of the search.")
    if runs["all_cpus"].isna().any():
        notes.append("The idle time is unknown: the number of slots of a run is not recorded.")
    stopped = trials.loc[stopped_trials(study).index]
    stopped = stopped[stopped[EPOCHS] > 0]
    left = study.max_epochs - stopped[EPOCHS]
    share = runs["gpus" if entries[GPU_HOURS].sum() > 0 else "cpus"].iloc[-1]
    return ComputeCost(
        entries=entries,
        wall_seconds=float(wall.sum()) + sum(other.wall_seconds for other in confirmations),
        saved_epochs=int(left.sum()),
        saved_hours=float((stopped[SECONDS] / stopped[EPOCHS] * left).sum() * share) / 3600,
        notes=tuple(notes),
    )


def _unreported(lives: pd.DataFrame, epochs: pd.DataFrame, run: Any, pauses: Sequence[int]) -> pd.DataFrame:
    """Return the seconds in ``run`` without a report: in trials that failed, and in flight at its end.

    A trial may pause, without a worker, at each of ``pauses``, also where it was complete before the search was made
    longer: it trained for at most one epoch after that.
    """
    mine = epochs[epochs["run"] == run.Index]
    last, overall = (table.groupby(TRIAL).max().reindex(lives.index) for table in (mine, epochs))
    since = np.fmax(np.fmax(last[TIME], lives[STARTED]), run.start)  # a trial's last event in this run
    failed = (lives[STATE] == FAIL) & lives[ENDED].between(run.start, run.end)
    went_on = lives[STATE].isin([names.RUNNING, FAIL]) | (overall[TIME] > run.end)
    active = last[TIME].notna() | lives[STARTED].between(run.start, run.end)
    waited = last[names.EPOCH].isin(pauses)
    in_flight = active & went_on & ~(lives[ENDED] <= run.end) & ~waited
    seconds = (lives[ENDED] - since).where(failed, run.end - since)
    longest = overall[SECONDS].fillna(epochs[SECONDS].max())
    at_most_an_epoch = waited | (~failed & run.over)
    seconds = seconds.where(~at_most_an_epoch, seconds.clip(upper=longest))
    rows = lives[[]].assign(what=REPEATED if run.over else UNFINISHED, run=run.Index, seconds=seconds.clip(lower=0))
    rows.loc[failed, "what"] = _WORDS[FAIL]
    return pd.DataFrame(rows[failed | in_flight])


def _runs(study: Study, clock: SearchClock) -> tuple[pd.DataFrame, list[str]]:
    """Return one row per run, and notes on them.

    Columns: start and end in seconds since 1970; over; the cpus and, at most, the gpus of a slot; all_cpus and
    all_gpus, the CPU-seconds and GPU-seconds of all slots while they were there, NaN where they are not recorded.
    """
    rows: list[dict[str, Any]] = []
    notes = []
    entries = study.metadata["runs"]
    for number, (entry, last) in enumerate(zip(entries, clock.last_events, strict=True), 1):
        slots = slots_of_run(entry)
        over = number < len(entries) or "ended" in entry or not is_being_written(study.folder)
        end = pd.Timestamp(entry["ended"]) if "ended" in entry else last if over else pd.Timestamp.now("UTC")
        if over and "ended" not in entry:
            notes.append(f"Run {number} of the search was killed: its cost counts up to its last report.")
        start = pd.Timestamp(entry["started"])
        row = {"start": start.timestamp(), "end": end.timestamp(), "over": over}
        row["cpus"] = float(slots[0].cpus if slots else study.config.resources.cpus_per_trial)
        row["gpus"] = float(max((each.gpus for each in slots), default=0))
        row |= {f"all_{share}": _all_seconds(slots, share, end.timestamp()) for share in _SHARES.values()}
        rows.append(row)
    columns = ["start", "end", "over", *_SHARES.values(), *(f"all_{share}" for share in _SHARES.values())]
    return pd.DataFrame(rows, columns=columns), notes


def _all_seconds(slots: Sequence[RunSlots], share: str, end: float) -> float:
    """Return the CPU-seconds or GPU-seconds of all slots of a run up to ``end``, NaN where they are not recorded."""
    moments = [*(min(pd.Timestamp(each.time).timestamp(), end) for each in slots), end]
    seconds = [until - since for since, until in pairwise(moments)]
    each_time = [time * each.count * float(getattr(each, share)) for time, each in zip(seconds, slots, strict=True)]
    return sum(each_time) if slots else math.nan


def _seconds(moments: pd.Series[Any]) -> pd.Series[float]:
    """Return moments in seconds since 1970, NaN for a missing one."""
    seconds: pd.Series[float] = (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return seconds
