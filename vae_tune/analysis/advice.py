"""What a study teaches: which hyperparameters matter, whether its space and budget suit, what to search next.

Everything is computed from the study's tables by rules that the docstrings state. A finding is a sentence for a
person, with the numbers it rests on; where there are too few trials for one, none is made up. ``docs/advice.md`` tells
how often each kind of sentence is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from vae_tune.analysis.hyperparameters import FANOVA, MIN_TRIALS, PED_ANOVA, importance
from vae_tune.analysis.models import active_units
from vae_tune.analysis.progress import best_so_far, rung_correlation, rung_survival
from vae_tune.analysis.range_edges import LATE, edges, slope
from vae_tune.analysis.study import Study, audited_trials, judged_reports
from vae_tune.config.files import read_json
from vae_tune.config.names import (
    ACTIVE_UNITS,
    BEST,
    COLLAPSED,
    COMPLETE,
    CROWDED,
    EDGE,
    EPOCH,
    EPOCH_A,
    EPOCH_B,
    EPOCHS,
    FAIL,
    FALL,
    FORECAST_FILE,
    HIGH,
    HYPERPARAMETER,
    IMPORTANCE,
    LATENT_SIZE,
    LEAST,
    LOW,
    LUCKY,
    LUCKY_GOOD,
    METHOD,
    MOST,
    ORDER,
    QUOTA,
    REACHED,
    REASON,
    REFERENCE_TRIAL,
    SEARCH,
    SEED,
    SPEARMAN,
    STATE,
    STOPPED,
    TRIAL,
    TRIALS,
    VAL_LOSS,
    WINNER_RANK,
)
from vae_tune.record.diagnostics import remedy

_SURE = 30
"""Trials that a statement about which hyperparameter matters most needs."""
_LEAD = (
    0.4  # by which the first hyperparameter's share of the variance exceeds the second's, to be said to matter most
)
_FALLING = 0.2  # nats an epoch: where training longer is said to pay
_TRUSTED = 0.5  # rank correlation above which a rung is said to be trustworthy
_TOLD = 5  # hyperparameters whose importance is told
_FEW = 3  # trials from which on their fate says something
_SIZES = {LATENT_SIZE, "hidden_width", "hidden_layers"}
_LAST = 4  # epochs at least that a slope at the end of a curve rests on, where it has so many

Topic = Literal["result", "importance", "edges", "stopping", "trials", "replay", "epochs", "latents", "failures"]


@dataclass(frozen=True)
class Finding:
    """Something that a study shows."""

    topic: Topic
    text: str
    """One or two sentences, with the numbers."""
    advice: str = ""
    """What to do about it, a sentence; empty where nothing is to be done."""
    certain: bool = False
    """Whether complete trials support the advice beyond a 95 % interval: the report prints it in bold."""

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
        lambda study: _importance(importance(study) if shares is None else shares, LATE * study.max_epochs),
        _edges,
        _stopping,
        _trials,
        lambda study: iter(read_forecast(study)),
        _epochs,
        _latents,
        _collapsed,
        _failures,
    )
    told = [maker for maker in makers if study.kind == SEARCH or maker not in (_edges, _trials)]
    return [finding for maker in told for finding in maker(study)]


def final_findings(study: Study) -> list[Finding]:
    """Return what is told at the end: of idle latents; of a search, also edges and what a replay foretold."""
    idle = [finding for finding in _latents(study) if finding.advice]
    return [*idle, *(_edges(study) if study.kind == SEARCH else ()), *read_forecast(study)]


def read_forecast(study: Study) -> list[Finding]:
    """Return what a replay foretold at the end of the search, if no trial was begun since.

    See :func:`vae_tune.replay.forecast.write_forecast`.
    """
    try:
        recorded = read_json(study.folder / FORECAST_FILE)
        findings = [Finding(**finding) for finding in recorded["findings"]]
        return findings if recorded["trials"] == len(study.trials) else []
    except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one: the study is complete without it
        return []


def about(findings: Iterable[Finding], topic: Topic) -> str:
    """Return the findings on one topic, one line each; or that there are too few trials."""
    lines = [str(finding) for finding in findings if finding.topic == topic]
    return "\n".join(lines) or "Too few trials to tell."


def stopping(study: Study) -> pd.DataFrame:
    """Return whether ASHA stopped the right trials, as far as the others can tell.

    A rung decides with what it has seen so far, so early trials pass that the whole rung would have stopped. They show
    what became of such trials: where they ended well, the rung stops good ones too.

    Returns:
        One row per rung: epoch; reached; stopped; spearman (rank correlation of its losses with those at
        ``max_epochs``, among the ``trials`` there); winner_rank at the rung, 1 for the best; quota (ranks that pass
        when all have come); lucky (trials trained to the end whose rank is beyond the quota, the reference and the
        audited apart); lucky_good (of them, those in the better half of all trials trained to the end).
    """
    losses = judged_reports(study).pivot_table(index=TRIAL, columns=EPOCH, values=VAL_LOSS)
    whole = study.trials[(study.trials[STATE] == COMPLETE) & (study.trials[EPOCHS] == study.max_epochs)][VAL_LOSS]
    good = set(whole[whole <= whole.median()].index)
    pairs = rung_correlation(study)
    agreement = pairs[pairs[EPOCH_B] == study.max_epochs].set_index(EPOCH_A)
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
                SPEARMAN: agreement[SPEARMAN].get(row[EPOCH], np.nan),
                TRIALS: agreement[TRIALS].get(row[EPOCH], 0),
                WINNER_RANK: int(ranks[study.best_trial]) if study.best_trial in ranks.index else pd.NA,
                QUOTA: quota,
                LUCKY: len(lucky),
                LUCKY_GOOD: len(lucky & good),
            }
        )
    columns = [EPOCH, REACHED, STOPPED, SPEARMAN, TRIALS, WINNER_RANK, QUOTA, LUCKY, LUCKY_GOOD]
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


def _importance(table: pd.DataFrame, late: float) -> Iterator[Finding]:
    """Tell each hyperparameter's share, and which matters most: see ``docs/advice.md`` for when that is clear."""
    shares = table.pivot_table(index=HYPERPARAMETER, columns=METHOD, values=IMPORTANCE)
    if len(shares) < 2:
        return
    shares = shares.loc[[*shares.mean(axis=1).sort_values(ascending=False).index]]
    trials, epoch = table[TRIALS].iloc[0], table[EPOCH].iloc[0]
    first = shares.index[0]
    ahead = trials >= _SURE and epoch >= late and (shares.loc[first] - shares.drop(first).max() >= _LEAD).all()
    said = f"{first} matters most" if ahead else "Which hyperparameter matters most is not clear"
    told = ", ".join(f"{name} {row[PED_ANOVA]:.0%} / {row[FANOVA]:.0%}" for name, row in shares.head(_TOLD).iterrows())
    told += f", the other {len(shares) - _TOLD} less" if len(shares) > _TOLD else ""
    yield Finding("importance", f"{said}: {told} (PED-ANOVA / fANOVA, {trials} trials at epoch {epoch}).")


def _edges(study: Study) -> Iterator[Finding]:
    table = edges(study)
    table = table[table[HYPERPARAMETER] != SEED]
    narrow = table[table[EDGE] != ""]
    for row in narrow.to_dict("records"):
        ends, winner = f"{row[LOW]:.4g} to {row[HIGH]:.4g}", study.trials[row[HYPERPARAMETER]][study.best_trial]
        whole = bool(row[EPOCH] == study.max_epochs)
        yield Finding(
            "edges",
            f"Good values of {row[HYPERPARAMETER]} lie at the {row[EDGE]} end of its range {ends}, where the loss of "
            f"{row[TRIALS]} trials at epoch {row[EPOCH]} still falls by {row[FALL]:.2f} nats for a tenth of the range "
            f"(95 % interval {row[LEAST]:.2f} to {row[MOST]:.2f}); the winner has {winner:.4g}.",
            f"Search {'below' if row[EDGE] == LOW else 'above'} {row[row[EDGE]]:.4g} too.",
            whole,
        )
    trials, epoch = (table[TRIALS].iloc[0], table[EPOCH].iloc[0]) if len(table) else (0, 0)
    if epoch >= LATE * study.max_epochs and trials and (table[CROWDED] == "").all():
        yield Finding("edges", f"The best of {trials} trials at epoch {epoch} lie at neither end of any range.")


def _stopping(study: Study) -> Iterator[Finding]:
    replayed = any(finding.topic == "stopping" for finding in read_forecast(study))  # it knows better
    for row in stopping(study).to_dict("records"):
        if pd.isna(row[SPEARMAN]) or not row[STOPPED]:
            continue
        text = (
            f"The rung at epoch {row[EPOCH]} stopped {row[STOPPED]} of {row[REACHED]} trials. Among the others its "
            f"order agrees with the final one by {row[SPEARMAN]:.2f} (rank correlation of {row[TRIALS]} trials)"
        )
        nearly_lost = pd.notna(row[WINNER_RANK]) and row[WINNER_RANK] > row[QUOTA]
        if pd.notna(row[WINNER_RANK]):
            text += f", and the winner was number {row[WINNER_RANK]} there, where {row[QUOTA]} would pass"
        if row[LUCKY] >= _FEW:
            text += f". Of {row[LUCKY]} that passed only for coming early, {row[LUCKY_GOOD]} ended in the better half"
        unfair = row[LUCKY] >= _FEW and row[LUCKY_GOOD] > row[LUCKY] / 2
        unlike = row[SPEARMAN] < _TRUSTED and row[TRIALS] >= MIN_TRIALS
        doubtful = (unlike or nearly_lost or unfair) and not replayed
        advice = "It may stop good trials: raise --grace-period or lower --reduction-factor." if doubtful else ""
        yield Finding("stopping", f"{text}.", advice)


def _trials(study: Study) -> Iterator[Finding]:
    """Tell which trial brought the last improvement. It foretells nothing of more trials: see ``docs/advice.md``."""
    table = best_so_far(study)
    gains = table[table[BEST].diff() < 0]
    whole = table.dropna(subset=[BEST])
    if len(table) < MIN_TRIALS or whole.empty:
        return
    if gains.empty:
        first = f"trial {whole[TRIAL].iloc[0]}, the first to end in full"
        yield Finding("trials", f"None of the {len(table)} trials that ended was better than {first}.")
        return
    nats = -table[BEST].diff()[gains.index[-1]]
    last = _ordinal(gains[ORDER].iloc[-1])
    text = f"The last improvement, {nats:.2f} nats, came from the {last} of the {len(table)} trials that ended."
    yield Finding("trials", text)


def _epochs(study: Study) -> Iterator[Finding]:
    """Tell whether the winner had learnt all it could, from the slope of the last quarter of its curve (4 epochs).

    The slope over the last tenth (2 epochs) must say the same.
    """
    if study.best is None or study.best[STATE] != COMPLETE:  # one that is still trained, or was stopped
        return
    curve = study.epochs[study.epochs[TRIAL] == study.best_trial].set_index(EPOCH)[VAL_LOSS].sort_index()
    window, last = max(2, len(curve) // 10), min(len(curve), max(_LAST, len(curve) // 4))
    if last < _FEW:
        return
    mean, half = slope(np.arange(last, dtype=np.float64), curve.to_numpy(np.float64)[-last:])
    end = (curve.iloc[-1] - curve.iloc[-1 - window]) / window
    lowest = int(curve.argmin()) + 1
    interval = f"95 % interval {mean - half:+.2f} to {mean + half:+.2f}"
    told = f"{mean:+.2f} nats an epoch over its last {last} epochs ({interval})"
    if mean + half < 0 and end < -_FALLING:
        text = f"The winner's loss was still falling at the end: {told}."
        yield Finding("epochs", text, f"Train longer than {study.max_epochs} epochs.", certain=True)
    elif mean - half > 0 and lowest < len(curve) - window:
        lost = curve.iloc[-1] - curve.min()
        text = f"The winner was best at epoch {lowest} and has lost {lost:.2f} nats since: {told}."
        less = "fewer epochs or more images" if _larger(study) else "fewer epochs, a smaller model or more images"
        todo = f"It overfits: {less} would help."
        yield Finding("epochs", text, todo, certain=True)
    elif abs(mean) < _FALLING and half < _FALLING:
        yield Finding("epochs", f"The winner had settled: {told}.")
    else:
        yield Finding("epochs", f"Whether the winner had settled is not clear: {told}.")


def _larger(study: Study) -> set[str]:
    """Return the hyperparameters that set the model's size and whose ranges end too soon above."""
    table = edges(study)
    return {*table[HYPERPARAMETER][table[EDGE] == HIGH]} & _SIZES


def _latents(study: Study) -> Iterator[Finding]:
    table = active_units(study)
    for row in table[table[TRIAL] == study.best_trial].to_dict("records"):
        active, size = row[ACTIVE_UNITS], row[LATENT_SIZE]
        todo = "" if LATENT_SIZE in _larger(study) else remedy(active, size)  # the losses ask for more
        yield Finding("latents", f"{active} of the winner's {size} latents are active.", todo)


def _collapsed(study: Study) -> Iterator[Finding]:
    count = study.trials[COLLAPSED].sum()
    if count:
        text = f"{count} of {len(study.trials)} trials collapsed: below a tenth of their latents active."
        yield Finding("latents", text)


def _failures(study: Study) -> Iterator[Finding]:
    failed = study.trials[study.trials[STATE] == FAIL]
    if len(failed):
        kinds = failed[REASON].str.replace(r"\d+", "N", regex=True).value_counts()
        often = "" if len(kinds) == 1 else f"; the most frequent reason, {kinds.iloc[0]} times"
        text = f"{len(failed)} of {len(study.trials)} trials failed{often}: {kinds.index[0]}."
        yield Finding("failures", text, "trials.csv has each reason.")
    elif len(study.trials):
        yield Finding("failures", "No trial failed.")


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
