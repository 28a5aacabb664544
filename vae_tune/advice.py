"""What a study teaches: which hyperparameters matter, whether its space and budget suit, what to search next.

Everything is computed from the study's tables by rules that the docstrings state. A finding is a sentence for a
person, with the numbers it rests on; where there are too few trials for one, none is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from vae_tune.config import UsageError
from vae_tune.files import read_json
from vae_tune.guards import remedy
from vae_tune.names import (
    ACTIVE_UNITS,
    BEST,
    COLLAPSED,
    COMPLETE,
    EDGE,
    EPOCH,
    EPOCH_A,
    EPOCH_B,
    EPOCHS,
    FAIL,
    FORECAST_FILE,
    FROM,
    HIGH,
    HYPERPARAMETER,
    IMPORTANCE,
    LATENT_SIZE,
    LOW,
    LUCKY,
    LUCKY_GOOD,
    METHOD,
    ORDER,
    PLACE,
    QUOTA,
    REACHED,
    REASON,
    REFERENCE_TRIAL,
    SEARCH,
    SEED,
    SPEARMAN,
    STATE,
    STOPPED,
    TO,
    TRIAL,
    TRIALS,
    VAL_LOSS,
    WINNER_RANK,
)
from vae_tune.plots import active_units, best_so_far, importance, rung_correlation, rung_survival
from vae_tune.plots.hyperparameters import FANOVA, MIN_TRIALS, PED_ANOVA, Axis, axes, comparable
from vae_tune.study import Study, audited_trials, judged_reports

SURE = 30
"""Trials below which a finding calls itself a hint."""
_OUTER = 0.1  # of a range: where a winner is said to be at the edge
_CROWDED = 0.2  # of a range: where half of the best trials are said to crowd at the edge
_CLOSE = 0.05  # of a range: no room left beyond the best trials
_FLAT = 0.5  # of the trials without any gain: where a search is said to have levelled off
_FALLING = 0.2  # nats an epoch: where training longer is said to pay
_TRUSTED = 0.5  # rank correlation above which a rung is said to be trustworthy
_TOLD = 5  # hyperparameters whose importance is told
_FEW = 3  # trials from which on their fate says something

Topic = Literal["result", "importance", "edges", "stopping", "trials", "replay", "epochs", "latents", "failures"]


@dataclass(frozen=True)
class Finding:
    """Something that a study shows."""

    topic: Topic
    text: str
    """One or two sentences, with the numbers."""
    advice: str = ""
    """What to do about it, a sentence; empty where nothing is to be done."""

    def __str__(self) -> str:
        """Return all of it."""
        return f"{self.text} {self.advice}".rstrip()


def conclusions(study: Study, shares: pd.DataFrame | None = None) -> list[Finding]:
    """Return what ``study`` teaches, in the order in which it is told; at least what is missing.

    Where its configurations were given, nothing is said of the space's edges and of more trials.

    ``shares`` spares the search for what matters: what :func:`vae_tune.plots.importance` returned.
    """
    makers: tuple[Callable[[Study], Iterator[Finding]], ...] = (
        _result,
        lambda study: _importance(importance(study) if shares is None else shares),
        _edges,
        _stopping,
        _trials,
        lambda study: iter(foretold(study)),
        _epochs,
        _latents,
        _collapsed,
        _failures,
    )
    told = [maker for maker in makers if study.kind == SEARCH or maker not in (_edges, _trials)]
    return [finding for maker in told for finding in maker(study)]


def closing(study: Study) -> list[Finding]:
    """Return what the end of a search tells at once: edges, and what a replay foretold."""
    return [*_edges(study), *foretold(study)]


def foretold(study: Study) -> list[Finding]:
    """Return what a replay foretold at the end of the search, if no trial was begun since.

    See :func:`vae_tune.replay.forecast.write_forecast`.
    """
    try:
        recorded = read_json(study.folder / FORECAST_FILE)
        findings = [Finding(**finding) for finding in recorded["findings"]]
        return findings if recorded["trials"] == len(study.trials) else []
    except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one: it can be done without
        return []


def about(findings: Iterable[Finding], topic: Topic) -> str:
    """Return the findings on one topic, a line each; or that there are too few trials for any."""
    lines = [str(finding) for finding in findings if finding.topic == topic]
    return "\n".join(lines) or "Too few trials to tell."


def best_trials(study: Study) -> pd.DataFrame:
    """Return the best quarter of the trials that can be compared (at least 5 of them), the best first.

    See :func:`vae_tune.plots.hyperparameters.comparable` for which these are and for the columns.
    """
    trials = comparable(study).sort_values(VAL_LOSS, ignore_index=True)
    return trials.head(max(5, len(trials) // 4))


def edges(study: Study) -> pd.DataFrame:
    """Return where in each range the best trials are.

    Places are shares of the range, on its own scale: 0 is its lower end, 1 its upper end. A range is too narrow at an
    end where the best trial lies in the outer tenth, or at least half of the best trials in the outer fifth; but not
    where there is room left beyond all of them (a twentieth of the range) in which 3 or more trials were tried, nor
    where no trial can lie beyond, such as below one layer.

    Returns:
        A row a hyperparameter with a range: hyperparameter, low and high (of the range), best (the best trial's
        value), place (the best trial's), from and to (places of the lowest and the highest of the best trials), edge
        (low or high where it is too narrow, else empty), trials (how many best trials). No rows where fewer than 10
        trials can be compared.
    """
    top, rows = best_trials(study), []
    for axis in axes(study).values():
        if axis.scale == "category" or top.empty:
            continue
        values = top[axis.name].to_numpy(np.float64)
        places, tried = axis.place(values), axis.place(study.trials[axis.name].dropna())
        ends = {LOW: (places, tried), HIGH: (1 - places, 1 - tried)}
        narrow = [end for end in ends if _ends_too_soon(*ends[end]) and _goes_on(study, axis, end)]
        edge = min(narrow, key=lambda end: ends[end][0][0], default="")
        rows.append((axis.name, axis.low, axis.high, values[0], places[0], places.min(), places.max(), edge, len(top)))
    columns = [HYPERPARAMETER, LOW, HIGH, BEST, PLACE, FROM, TO, EDGE, TRIALS]
    return pd.DataFrame(rows, columns=columns)


def stopping(study: Study) -> pd.DataFrame:
    """Return whether ASHA stopped the right trials, as far as the others can tell.

    A rung decides with what it has seen so far, so early trials pass that the whole rung would have stopped. They show
    what became of such trials: where they ended well, the rung stops good ones too.

    Returns:
        A row a rung: epoch; reached; stopped; spearman (rank correlation of its losses with those at ``max_epochs``,
        among the trials there); winner_rank at the rung, 1 for the best; quota (ranks that pass when all have come);
        lucky (trials trained to the end whose rank is beyond the quota, the reference and the audited apart);
        lucky_good (of them, those in the better half of all trials trained to the end).
    """
    losses = judged_reports(study).pivot_table(index=TRIAL, columns=EPOCH, values=VAL_LOSS)
    whole = study.trials[(study.trials[STATE] == COMPLETE) & (study.trials[EPOCHS] == study.max_epochs)][VAL_LOSS]
    good = set(whole[whole <= whole.median()].index)
    pairs = rung_correlation(study)
    agreement = pairs[pairs[EPOCH_B] == study.max_epochs].set_index(EPOCH_A)[SPEARMAN]
    rows = []
    for row in rung_survival(study).to_dict("records"):
        if row[EPOCH] == study.max_epochs:
            continue
        ranks = losses[row[EPOCH]].dropna().rank(method="min")
        quota = max(1, len(ranks) // study.config.asha.reduction_factor)
        lucky = set(ranks[ranks > quota].index) & set(whole.index) - {REFERENCE_TRIAL, *audited_trials(study).index}
        rows.append(
            {
                **{name: row[name] for name in (EPOCH, REACHED, STOPPED)},
                SPEARMAN: agreement.get(row[EPOCH], np.nan),
                WINNER_RANK: int(ranks[study.best_trial]) if study.best_trial in ranks.index else pd.NA,
                QUOTA: quota,
                LUCKY: len(lucky),
                LUCKY_GOOD: len(lucky & good),
            }
        )
    columns = [EPOCH, REACHED, STOPPED, SPEARMAN, WINNER_RANK, QUOTA, LUCKY, LUCKY_GOOD]
    return pd.DataFrame(rows, columns=columns).astype({WINNER_RANK: "Int64"})


def _result(study: Study) -> Iterator[Finding]:
    best = study.best
    if best is None:
        failed = len(study.trials) and (study.trials[STATE] == FAIL).all()
        text = "No trial has succeeded yet." if len(study.epochs) else "No trial has reported an epoch yet."
        yield Finding("result", "No trial has succeeded." if failed else text)
        return
    text = f"The best is trial {best.name}: {best[VAL_LOSS]:.2f} nats per image on validation at epoch {best[EPOCHS]}"
    if best.name == REFERENCE_TRIAL:
        text += "; it is the reference itself"
    elif (reference := study.trials.loc[REFERENCE_TRIAL])[EPOCHS] == best[EPOCHS] and reference[STATE] == COMPLETE:
        text += f", {reference[VAL_LOSS] - best[VAL_LOSS]:.2f} below the reference"
    whole = best[STATE] == COMPLETE
    yield Finding("result", text + ".", "" if whole else "No trial has been trained to the end yet.")


def _importance(table: pd.DataFrame) -> Iterator[Finding]:
    shares = table.pivot_table(index=HYPERPARAMETER, columns=METHOD, values=IMPORTANCE)
    if len(shares) < 2:
        return
    shares = shares.loc[[*shares.mean(axis=1).sort_values(ascending=False).index]]
    firsts = sorted({str(shares[method].idxmax()) for method in shares})
    said = f"{firsts[0]} matters most" if len(firsts) == 1 else f"{' or '.join(firsts)} matters most, by the method"
    told = ", ".join(f"{name} {row[PED_ANOVA]:.0%} / {row[FANOVA]:.0%}" for name, row in shares.head(_TOLD).iterrows())
    told += f", the other {len(shares) - _TOLD} less" if len(shares) > _TOLD else ""
    trials, epoch = table[TRIALS].iloc[0], table[EPOCH].iloc[0]
    hint = "" if trials >= SURE else ", so a hint only"
    text = f"{said}: {told} (PED-ANOVA / fANOVA, {trials} trials at epoch {epoch}{hint})."
    yield Finding("importance", text)


def _edges(study: Study) -> Iterator[Finding]:
    table = edges(study)
    narrow = table[(table[EDGE] != "") & (table[HYPERPARAMETER] != SEED)]
    for row in narrow.to_dict("records"):
        ends, winner = f"{row[LOW]:.4g} to {row[HIGH]:.4g}", study.trials[row[HYPERPARAMETER]][study.best_trial]
        yield Finding(
            "edges",
            f"Good values of {row[HYPERPARAMETER]} lie at the {row[EDGE]} end of its range {ends}; "
            f"the winner has {winner:.4g}.",
            f"Search {'below' if row[EDGE] == LOW else 'above'} {row[row[EDGE]]:.4g} too.",
        )
    if len(table) and narrow.empty:
        yield Finding("edges", "No range is too narrow for the best trials.")


def _stopping(study: Study) -> Iterator[Finding]:
    for row in stopping(study).to_dict("records"):
        if pd.isna(row[SPEARMAN]) or not row[STOPPED]:
            continue
        text = (
            f"The rung at epoch {row[EPOCH]} stopped {row[STOPPED]} of {row[REACHED]} trials. Among the others its "
            f"order agrees with the final one by {row[SPEARMAN]:.2f} (rank correlation)"
        )
        nearly_lost = pd.notna(row[WINNER_RANK]) and row[WINNER_RANK] > row[QUOTA]
        if pd.notna(row[WINNER_RANK]):
            text += f", and the winner was number {row[WINNER_RANK]} there, where {row[QUOTA]} would pass"
        if row[LUCKY] >= _FEW:
            text += f". Of {row[LUCKY]} that passed only for coming early, {row[LUCKY_GOOD]} ended in the better half"
        unfair = row[LUCKY] >= _FEW and row[LUCKY_GOOD] > row[LUCKY] / 2
        doubtful = row[SPEARMAN] < _TRUSTED or nearly_lost or unfair
        advice = "It may stop good trials: raise --grace-period or lower --reduction-factor." if doubtful else ""
        yield Finding("stopping", f"{text}.", advice)


def _trials(study: Study) -> Iterator[Finding]:
    table = best_so_far(study)
    gains = table[table[BEST].diff() < 0]
    whole = table.dropna(subset=[BEST])
    if len(table) < MIN_TRIALS or whole.empty:
        return
    known = any(finding.topic == "trials" for finding in foretold(study))  # which knows better what more would bring
    advice = "" if known else "More trials in this space promise little."
    if gains.empty:
        text = f"Of {len(table)} trials that ended none was better than trial {whole[TRIAL].iloc[0]}, the first to end"
        yield Finding("trials", f"{text} in full.", advice)
        return
    last = gains[ORDER].iloc[-1]
    text = f"Of {len(table)} trials that ended the {_ordinal(last)} brought the last gain"
    if last < _FLAT * len(table):
        yield Finding("trials", f"{text}: the search has levelled off.", advice)
        return
    nats = -table[BEST].diff()[gains.index[-1]]
    advice = "" if known else "More trials may find better ones: --resume with a higher --num-samples."
    yield Finding("trials", f"{text}, {nats:.2f} nats.", advice)


def _epochs(study: Study) -> Iterator[Finding]:
    """Tell whether the winner had learnt all it could, from the last tenth of its epochs (two at least)."""
    if study.best is None or study.best[STATE] != COMPLETE:  # one that is still trained, or was stopped
        return
    curve = study.epochs[study.epochs[TRIAL] == study.best_trial].set_index(EPOCH)[VAL_LOSS].sort_index()
    window = max(2, len(curve) // 10)
    if len(curve) <= window:
        return
    slope = (curve.iloc[-1] - curve.iloc[-1 - window]) / window
    lowest = int(curve.argmin()) + 1
    if slope < -_FALLING:
        text = f"The winner's loss was still falling by {-slope:.2f} nats an epoch at the end."
        yield Finding("epochs", text, f"Train longer than {study.max_epochs} epochs.")
    elif lowest < len(curve) - window:
        text = f"The winner was best at epoch {lowest} and has lost {curve.iloc[-1] - curve.min():.2f} nats since."
        yield Finding("epochs", text, "It overfits: fewer epochs, a smaller model or more images would do.")
    else:
        yield Finding("epochs", f"The winner had settled: {slope:+.2f} nats an epoch at the end.")


def _latents(study: Study) -> Iterator[Finding]:
    table = active_units(study)
    for row in table[table[TRIAL] == study.best_trial].to_dict("records"):
        active, size = row[ACTIVE_UNITS], row[LATENT_SIZE]
        yield Finding("latents", f"{active} of the winner's {size} latents are active.", remedy(active, size))


def _collapsed(study: Study) -> Iterator[Finding]:
    count = study.trials[COLLAPSED].sum()
    if count:
        text = f"{count} of {len(study.trials)} trials collapsed: below a tenth of their latents active."
        yield Finding("latents", text)


def _failures(study: Study) -> Iterator[Finding]:
    failed = study.trials[study.trials[STATE] == FAIL]
    if len(failed):
        kinds = failed[REASON].str.replace(r"\d+", "N", regex=True).value_counts()
        often = "" if len(kinds) == 1 else f", {kinds.iloc[0]} of them"
        text = f"{len(failed)} of {len(study.trials)} trials failed{often}: {kinds.index[0]}."
        yield Finding("failures", text, "trials.csv has each reason.")
    elif len(study.trials):
        yield Finding("failures", "No trial failed.")


def _ends_too_soon(best: Any, tried: Any) -> bool:
    """Tell whether a range ends too soon, from the best trials' and all trials' distances to its end."""
    crowded = best[0] < _OUTER or np.mean(best < _CROWDED) >= 0.5
    beyond = (tried < best.min()).sum()
    return bool(crowded and (best.min() < _CLOSE or beyond < _FEW))


def _goes_on(study: Study, axis: Axis, end: str) -> bool:
    """Tell whether there is anything beyond an end of a range."""
    step = 1 if axis.whole else 0.01 * (axis.low if axis.scale == "log" else axis.high - axis.low)
    beyond: Any = axis.low - step if end == LOW else axis.high + step
    try:
        replace(study.reference, **{axis.name: beyond})
    except UsageError:
        return False
    return True


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
