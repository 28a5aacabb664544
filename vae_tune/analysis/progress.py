"""Tables of the course of a search: the incumbent, learning curves, rungs, and the timeline of the workers.

Each function takes a study in any condition (empty, running, interrupted, failed) and returns a tidy table, which is
empty if the study has no data for it. Losses are nats per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from vae_tune.analysis.study import Studies, Study, audited_trials, paused_trials, reports_before_audit
from vae_tune.config import names
from vae_tune.config.names import END, ENDED, EPOCH, EPOCHS, NODE, START, STARTED, STATE, TIME, TRIAL, VAL_LOSS, WORKER

_OVERLAP = 0.5  # s: a report has the time of its arrival, so trials of one worker may appear to overlap by that
_PAUSE = 1.0  # s: a longer gap between two epochs means that the trial was paused
_RUN, _PART = "run", "part"
_MIN_PAIRS = 3  # trials that a rank correlation needs


def best_so_far(study: Study) -> pd.DataFrame:
    """Return the incumbent each time a trial ended.

    Returns:
        One row per ended trial, in the order they ended: trial; state; order (1 ended first); finished, the epochs
        that all trials together had trained by then; hours of searching by then, without pauses before a resume;
        val_loss, its last; best, the lowest val_loss of a trial trained to ``max_epochs`` so far (NaN before the
        first). Where a user's metric ranks trials, that metric in place of val_loss.
    """
    ranking = study.ranking
    ended = study.trials[study.trials[STATE] != names.RUNNING]
    moments = _ends(study).reindex(ended.index).sort_values(kind="stable")
    ended = ended.loc[moments.index]
    whole = (ended[STATE] == names.COMPLETE) & (ended[EPOCHS] == study.max_epochs)
    reports = np.sort(study.epochs[TIME].to_numpy())
    return pd.DataFrame(
        {
            TRIAL: ended.index,
            STATE: ended[STATE].array,
            names.ORDER: np.arange(1, len(ended) + 1),
            names.FINISHED: np.searchsorted(reports, moments.to_numpy(), side="right"),
            names.HOURS: SearchClock.of(study).hours(moments).to_numpy(),
            ranking.name: ended[ranking.name].to_numpy(),
            names.BEST: ranking.loss(study.losses(ended).where(whole).cummin().ffill()).to_numpy(),
        }
    )


def best_so_far_by_study(studies: Studies) -> pd.DataFrame:
    """Return :func:`best_so_far` of each study, stacked, with a column ``study`` in front."""
    tables = pd.concat([best_so_far(study) for study in studies.studies], keys=studies.names, names=[names.STUDY])
    return tables.reset_index(names.STUDY).reset_index(drop=True)


def learning_curves(study: Study) -> pd.DataFrame:
    """Return each trial's losses by epoch.

    Returns:
        One row per report, by trial and epoch: trial, epoch, val_loss (where a user's metric ranks trials, also each
        of its values), state of the trial, rung (whether this epoch is one).
    """
    columns = [TRIAL, EPOCH, VAL_LOSS, *study.ranking.columns]
    reports = study.epochs[columns].sort_values([TRIAL, EPOCH], ignore_index=True)
    reports[STATE] = study.trials[STATE].reindex(reports[TRIAL]).array
    reports[names.RUNG] = reports[EPOCH].isin(study.rungs)
    return reports


def stopped_trials(study: Study) -> pd.Series[int]:
    """Return, by number of each trial that was stopped early, its last epoch.

    A trial that was complete before the search was made longer, and then had no checkpoint to go on from, is PRUNED
    too, but nothing stopped it early.
    """
    pruned = study.trials[study.trials[STATE] == names.PRUNED]
    for entry in study.metadata.get(names.REOPENED, {}).get("before", []):
        was_complete = (pruned[EPOCHS] == entry["max_epochs"]) & (pruned[ENDED] <= pd.Timestamp(entry["ended"]))
        pruned = pruned[~was_complete]
    stopped: pd.Series[int] = pruned[EPOCHS]
    return stopped


def rung_survival(study: Study) -> pd.DataFrame:
    """Return how many trials each rung stopped.

    Returns:
        One row per rung, and a last one for ``max_epochs``: epoch, reached (trials that reported it), stopped (trials
        that were stopped there), share (of those that reached it, the part that was not stopped). An audited
        trial counts as stopped at the rung that would have stopped it.
    """
    reached = reports_before_audit(study).groupby(EPOCH)[TRIAL].nunique()
    stopped = pd.concat([stopped_trials(study), audited_trials(study)]).value_counts()
    epochs = [epoch for epoch in (*study.rungs, study.max_epochs) if epoch in reached.index]
    table = pd.DataFrame(
        {
            EPOCH: np.array(epochs, dtype=np.int64),
            names.REACHED: reached.reindex(epochs).to_numpy(np.int64),
            names.STOPPED: stopped.reindex(epochs, fill_value=0).to_numpy(np.int64),
        }
    )
    table[names.SHARE] = 1 - table[names.STOPPED] / table[names.REACHED]
    return table


def rung_correlation(study: Study) -> pd.DataFrame:
    """Return how well the order of trials at one rung predicts their order at a later one.

    Only trials that passed the earlier rung are in both. They are the better ones, which usually lowers the
    correlation: among all trials it would be higher (restriction of range).

    Returns:
        One row per pair of rungs, ``max_epochs`` taken as the last rung: epoch_a < epoch_b, trials that reached both,
        spearman (rank correlation of their losses, NaN for fewer than 3 trials or where all losses are equal).
    """
    losses = study.epochs.pivot_table(index=TRIAL, columns=EPOCH, values=study.ranking.name)
    epochs = [epoch for epoch in (*study.rungs, study.max_epochs) if epoch in losses.columns]
    rows = []
    for first, second in combinations(epochs, 2):
        both = losses[[first, second]].dropna()
        differ = len(both) >= _MIN_PAIRS and (both.nunique() > 1).all()
        spearman = both.rank().corr().iloc[0, 1] if differ else np.nan
        rows.append((first, second, len(both), spearman))
    columns = dict.fromkeys((names.EPOCH_A, names.EPOCH_B, names.TRIALS), "int64") | {names.SPEARMAN: "float64"}
    return pd.DataFrame(rows, columns=[*columns]).astype(columns)


@dataclass(frozen=True)
class SearchClock:
    """Time since the start of a search, without the pauses before each resume."""

    origin: pd.Timestamp
    last_events: tuple[pd.Timestamp, ...]  # of each run; of a run without events its start
    pauses: tuple[tuple[pd.Timestamp, pd.Timestamp], ...]
    """Each from the last event of a run to the start of the next run."""

    @classmethod
    def of(cls, study: Study) -> SearchClock:
        """Return the clock of a study."""
        events = pd.concat([study.trials[STARTED], study.trials[ENDED], study.epochs[TIME]]).dropna().sort_values()
        runs = [pd.Timestamp(run[STARTED]) for run in study.metadata.get("runs", ())]
        origin = min([*runs[:1], *events[:1]], default=pd.Timestamp(0, tz="UTC"))
        ends = [*runs[1:], pd.Timestamp.max.tz_localize("UTC")]
        lasts = [max([run, *events[events < end][-1:]]) for run, end in zip(runs, ends, strict=False)]
        return cls(origin, tuple(lasts), tuple(zip(lasts, runs[1:], strict=False)))

    def hours(self, moments: pd.Series[Any]) -> pd.Series[Any]:
        """Return the hours of searching by each of ``moments``."""
        seconds = (moments - self.origin).dt.total_seconds()
        for begin, end in self.pauses:
            seconds -= (moments - begin).dt.total_seconds().clip(0, (end - begin).total_seconds())
        return seconds / 3600

    def run(self, moments: pd.Series[Any]) -> pd.Series[Any]:
        """Return the number of the run (0 is the first, 1 the first resume) that each of ``moments`` falls into."""
        number = pd.Series(0, moments.index)
        for _, again in self.pauses:
            number += moments >= again
        return number


def timeline(study: Study) -> pd.DataFrame:
    """Return which worker trained which trial when, and when it was idle.

    The record has a trial's node, not its worker: trials of a node that overlap are assigned to different workers. A
    trial that a resume continued has one row per run. A trial that never reported has an unknown node, and no row if
    there are several nodes. A worker is idle between its trials of a run, before the first one (the start of Ray
    included), and after the last one until the last trial of the run ends; pauses between runs are not idle time.

    Returns:
        One row per stretch, by worker and time: worker (node and number), trial (missing for idle ones), state (IDLE
        or the trial's), start and end (UTC), start_hours and end_hours (hours of searching, see :func:`best_so_far`).
    """
    clock = SearchClock.of(study)
    stretches = _stretches(study, clock)
    ends: dict[str, dict[int, pd.Timestamp]] = {}
    workers = []
    for node, start, end in zip(stretches[NODE], stretches[START], stretches[END], strict=True):
        slots = ends.setdefault(node, {})
        free = [slot for slot, busy in slots.items() if busy <= start] or [
            slot for slot, busy in slots.items() if busy <= start + pd.Timedelta(seconds=_OVERLAP)
        ]
        slot = max(free, key=slots.__getitem__) if free else len(slots) + 1  # the worker that became free last
        slots[slot] = end
        workers.append(f"{node} {slot}")
    stretches[WORKER] = np.array(workers, dtype="str")
    idle = _idle(stretches, clock)
    table = pd.concat([stretches, idle]) if len(idle) else stretches
    table = table.sort_values([WORKER, START], ignore_index=True)
    for column in (START, END):
        table[column] = table[column].dt.as_unit("ms")
    table[names.START_HOURS], table[names.END_HOURS] = clock.hours(table[START]), clock.hours(table[END])
    return table[[WORKER, TRIAL, STATE, START, END, names.START_HOURS, names.END_HOURS]]


def _ends(study: Study) -> pd.Series[Any]:
    """Return when each trial ended, was paused or last reported, by trial."""
    reported = study.epochs.groupby(TRIAL)[TIME].max().reindex(study.trials.index)
    ended: pd.Series[Any] = study.trials[ENDED].mask(paused_trials(study) & reported.notna(), reported)
    return ended.fillna(reported).fillna(study.trials[STARTED])


def _stretches(study: Study, clock: SearchClock) -> pd.DataFrame:
    """Return when each trial trained, by run and start; an unfinished trial trains until the run's last report.

    A trial that was paused and later resumed has one row per stretch of training.
    """
    reports = study.epochs[[TRIAL, TIME]].rename(columns={TIME: END})
    reports[START] = reports[END] - pd.to_timedelta(study.epochs[names.SECONDS], unit="s")
    unreported = study.trials[~study.trials.index.isin(reports[TRIAL])]
    if len(unreported):
        begun = unreported[[STARTED]].set_axis([START], axis=1).assign(**{END: _ends(study)})
        reports = pd.concat([reports, begun.reset_index()], ignore_index=True)
    reports[_RUN] = clock.run(reports[END])
    started = study.trials[STARTED].reindex(reports[TRIAL]).reset_index(drop=True)
    reports[START] = reports[START].where(reports[START] > started, started)
    reports = reports.sort_values([TRIAL, END], ignore_index=True)
    gaps = reports[START] - reports.groupby(TRIAL)[END].shift()
    reports[_PART] = (
        (bool(study.scheduler.pauses) & (gaps > pd.Timedelta(seconds=_PAUSE))).groupby(reports[TRIAL]).cumsum()
    )
    table = reports.groupby([TRIAL, _RUN, _PART], as_index=False).agg({START: "min", END: "max"})
    table[STATE] = study.trials[STATE].astype("str").reindex(table[TRIAL]).array
    table[NODE] = study.trials[NODE].reindex(table[TRIAL]).array
    ends = _ends(study).where(study.trials[ENDED].notna() | paused_trials(study))
    ends = ends.reindex(table[TRIAL]).reset_index(drop=True)
    ends = ends.fillna(reports.groupby(_RUN)[END].max().reindex(table[_RUN]).reset_index(drop=True))
    ended_here = ~table.duplicated(TRIAL, keep="last") & (clock.run(ends) == table[_RUN])
    table[END] = table[END].mask(ended_here, ends)
    nodes = table.loc[table[NODE] != "", NODE].unique()
    if len(nodes) > 1:
        table = table[table[NODE] != ""]
    table[NODE] = table[NODE].replace("", nodes[0] if len(nodes) else "worker")
    return table.astype({TRIAL: "Int64"}).sort_values(START, ignore_index=True)


def _idle(busy: pd.DataFrame, clock: SearchClock) -> pd.DataFrame:
    """Return the gaps between the stretches of each worker, run by run."""
    begins = [clock.origin, *(end for _, end in clock.pauses)]
    gaps = []
    for run, begin in enumerate(begins):
        of_run = busy[busy[_RUN] == run]
        for worker, own in of_run.groupby(WORKER):
            free, taken = [begin, *own[END].cummax()], [*own[START], of_run[END].max()]
            gaps += [(worker, names.IDLE, start, end) for start, end in zip(free, taken, strict=True) if start < end]
    return pd.DataFrame(gaps, columns=[WORKER, STATE, START, END])
