"""Conclusions from a study: which hyperparameters matter, whether its space and budget suit, what to search next.

Everything is computed from the study's tables by rules that the docstrings state. A finding is a sentence with the
numbers that support it; where there are too few trials, there is no finding. ``docs/advice.md`` reports how often each
kind of sentence is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from vae_tune.analysis.hyperparameters import FANOVA, MIN_TRIALS, PED_ANOVA, importance
from vae_tune.analysis.models import active_units
from vae_tune.analysis.progress import best_so_far, rung_correlation, rung_survival
from vae_tune.analysis.range_edges import LATE, RangeEdge, range_edges, slope
from vae_tune.analysis.study import Study, audited_trials, complete_trials, reports_before_audit
from vae_tune.config import names
from vae_tune.config.files import read_json
from vae_tune.config.names import BEST, COMPLETE, EPOCH, EPOCHS, LATENT_SIZE, REFERENCE_TRIAL, STATE, TRIAL
from vae_tune.config.trial_values import MODEL
from vae_tune.record.diagnostics import latents_remedy
from vae_tune.vae.schedule import depends_on_end

_SURE = 30  # trials that the statement about the most important hyperparameter needs
_LEAD = 0.4  # of the variance: by which the most important hyperparameter exceeds the second
_FALLING = 0.2  # nats per epoch, see Study.threshold: a fall that makes longer training worthwhile
_TRUSTED = 0.5  # rank correlation above which a rung is trustworthy
_NAMED = 5  # hyperparameters whose importance is given
_FEW = 3  # trials that support a statement about their fate
_SIZES = {LATENT_SIZE, "hidden_width", "hidden_layers"}
_LAST = 4  # epochs at least for the slope at the end of a curve, if it has so many

Topic = Literal["result", "importance", "edges", "stopping", "trials", "replay", "epochs", "latents", "failures"]


@dataclass(frozen=True)
class Finding:
    """A conclusion from a study."""

    topic: Topic
    text: str
    """One or more sentences, with the numbers."""
    advice: str = ""
    """A sentence: the action to take; empty for none."""
    certain: bool = False
    """Whether complete trials support the advice beyond a 95 % interval: the report prints it in bold."""

    def __str__(self) -> str:
        """Return text and advice."""
        return f"{self.text} {self.advice}".rstrip()


@dataclass(frozen=True)
class RungReview:
    """The decisions of one rung, judged by the trials that were trained to the end.

    A rung decides on the trials that have reached it so far, so early trials pass that would fail among all. Their
    final losses show whether the rung stops good trials too.
    """

    epoch: int
    reached: int  # trials that reported this epoch
    stopped: int
    spearman: float  # rank correlation of the losses here with those at max_epochs; NaN if it is not known
    trials: int  # that have both losses
    winner_rank: int | None  # of the winner at the rung, 1 for the best
    quota: int  # ranks that pass when all trials have come
    lucky: int  # complete trials beyond the quota, without the reference and the audited
    lucky_good: int  # those of them in the better half of all complete trials


def conclusions(study: Study, shares: pd.DataFrame | None = None) -> list[Finding]:
    """Return the conclusions from ``study``; from a new study, that there are no results yet.

    For a study whose configurations were given there are none about ranges and about more trials. ``shares`` is the
    result of :func:`vae_tune.plots.importance`, which is computed if it is not given.
    """
    makers: tuple[Callable[[Study], Iterable[Finding]], ...] = (
        _result,
        lambda study: _importance(importance(study) if shares is None else shares, LATE * study.max_epochs),
        _edges,
        _stopping,
        _trials,
        read_forecast,
        _epochs,
        _latents,
        _failures,
    )
    chosen = [maker for maker in makers if study.kind == names.SEARCH or maker not in (_edges, _trials)]
    return [finding for maker in chosen for finding in maker(study)]


def final_findings(study: Study) -> list[Finding]:
    """Return the findings for the end of a search: idle latents, ranges and the forecast."""
    idle = [finding for finding in _latents(study) if finding.advice]
    return [*idle, *(_edges(study) if study.kind == names.SEARCH else ()), *read_forecast(study)]


def read_forecast(study: Study) -> list[Finding]:
    """Return the forecast that the search wrote at its end; none if more was trained since.

    See :func:`vae_tune.replay.forecast.write_forecast`.
    """
    try:
        recorded = read_json(study.folder / names.FORECAST_FILE)
        findings = [Finding(**finding) for finding in recorded["findings"]]
        known = recorded["trials"], recorded.get("epochs", len(study.epochs))
        return findings if known == (len(study.trials), len(study.epochs)) else []
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: the study is complete without it
        return []


def about(findings: Iterable[Finding], topic: Topic) -> str:
    """Return the findings on one topic, one per line; or that there are too few trials."""
    lines = [str(finding) for finding in findings if finding.topic == topic]
    return "\n".join(lines) or "Too few trials to tell."


def edges(study: Study) -> pd.DataFrame:
    """Return where the best trials lie: one row per range, with the columns of :class:`RangeEdge`."""
    return pd.DataFrame(range_edges(study), columns=[field.name for field in fields(RangeEdge)])


def stopping(study: Study) -> pd.DataFrame:
    """Return how well early stopping agrees with the final losses: one row per rung, as :class:`RungReview`."""
    table = pd.DataFrame([*_rung_reviews(study)], columns=[field.name for field in fields(RungReview)])
    return table.astype({"winner_rank": "Int64"})


def _rung_reviews(study: Study) -> Iterator[RungReview]:
    values = reports_before_audit(study).pivot_table(index=TRIAL, columns=EPOCH, values=study.ranking.name)
    losses, whole = study.ranking.loss(values), study.losses(complete_trials(study))
    good = set(whole[whole <= whole.median()].index)
    spared = {REFERENCE_TRIAL, *audited_trials(study).index}
    pairs = rung_correlation(study)
    pairs = pairs[pairs[names.EPOCH_B] == study.max_epochs].set_index(names.EPOCH_A)
    for rung in rung_survival(study).to_dict("records"):
        epoch = rung[EPOCH]
        if epoch == study.max_epochs:
            continue
        ranks = losses[epoch].dropna().rank(method="min")
        quota = study.scheduler.quota(len(ranks))
        lucky = set(ranks[ranks > quota].index) & set(whole.index) - spared
        yield RungReview(
            epoch=epoch,
            reached=rung[names.REACHED],
            stopped=rung[names.STOPPED],
            spearman=pairs[names.SPEARMAN].get(epoch, np.nan),
            trials=pairs[names.TRIALS].get(epoch, 0),
            winner_rank=int(ranks[study.best_trial]) if study.best_trial in ranks.index else None,
            quota=quota,
            lucky=len(lucky),
            lucky_good=len(lucky & good),
        )


def _result(study: Study) -> Iterator[Finding]:
    best = study.best
    if best is None:
        failed = len(study.trials) and (study.trials[STATE] == names.FAIL).all()
        text = "No trial has succeeded yet." if len(study.epochs) else "No trial has reported an epoch yet."
        yield Finding("result", "No trial has succeeded." if failed else text)
        return
    unit = study.loss_unit
    losses = study.losses(study.trials)
    loss = f"{unit.level(losses[study.best_trial or 0])} {unit.name}"
    text = f"The best is trial {best.name}: {loss} on validation at epoch {best[EPOCHS]}"
    if best.name == REFERENCE_TRIAL:
        text += ". It is the reference"
    elif (reference := study.trials.loc[REFERENCE_TRIAL])[EPOCHS] == best[EPOCHS] and reference[STATE] == COMPLETE:
        side = "above" if study.ranking.maximize else "below"
        text += f", {unit.text(losses[REFERENCE_TRIAL] - losses[study.best_trial or 0])} {side} the reference"
    whole = best[STATE] == COMPLETE
    yield Finding("result", text + ".", "" if whole else "No trial has been trained to the end yet.")


def _importance(table: pd.DataFrame, late: float) -> Iterator[Finding]:
    """Report the share of each hyperparameter, and which matters most if ``docs/advice.md`` calls that clear."""
    if MODEL in table:
        for model in table[MODEL].drop_duplicates():
            part = table[table[MODEL] == model]
            where = f"Among the trials of {model}: " if model else ""
            if part[names.IMPORTANCE].isna().any():
                known = part[names.TRIALS].iloc[0]
                why = (
                    f"{known} trials, needs {MIN_TRIALS}"
                    if known < MIN_TRIALS
                    else f"its {known} trials do not differ"
                )
                yield Finding("importance", f"{where}importance is unknown: {why}.")
            for finding in _importance(part.drop(columns=MODEL), late):
                yield replace(finding, text=f"{where}{finding.text}")
        return
    shares = table.pivot_table(index=names.HYPERPARAMETER, columns=names.METHOD, values=names.IMPORTANCE)
    if len(shares) < 2:
        return
    shares = shares.loc[[*shares.mean(axis=1).sort_values(ascending=False).index]]
    trials, epoch = table[names.TRIALS].iloc[0], table[EPOCH].iloc[0]
    first = shares.index[0]
    ahead = trials >= _SURE and epoch >= late and (shares.loc[first] - shares.drop(first).max() >= _LEAD).all()
    which = f"{first} matters most" if ahead else "Which hyperparameter matters most is not clear"
    each = [f"{name} {row[PED_ANOVA]:.0%} / {row[FANOVA]:.0%}" for name, row in shares.head(_NAMED).iterrows()]
    if len(shares) > _NAMED:
        each.append(f"the other {len(shares) - _NAMED} less")
    yield Finding("importance", f"{which}: {', '.join(each)} (PED-ANOVA / fANOVA, {trials} trials at epoch {epoch}).")


def _edges(study: Study) -> Iterator[Finding]:
    unit, found = study.loss_unit, [edge for edge in range_edges(study) if edge.hyperparameter != names.SEED]
    for edge in found:
        if edge.edge and study.best is not None:
            name = edge.hyperparameter
            beyond = f"below {edge.low:.4g}" if edge.edge == names.LOW else f"above {edge.high:.4g}"
            yield Finding(
                "edges",
                f"The best values of {name} lie at the {edge.edge} end of its range {edge.low:.4g} to {edge.high:.4g}."
                f" The loss still falls there by {unit.with_name(edge.fall)} per tenth of the range (95 % interval "
                f"{unit.text(edge.fall_low)} to {unit.text(edge.fall_high)}, {edge.trials} trials at epoch "
                f"{edge.epoch}). {_winners(study, name)}",
                f"Search {beyond} too.",
                certain=edge.epoch == study.max_epochs,
            )
    if found and found[0].epoch >= LATE * study.max_epochs and not any(edge.crowded for edge in found):
        text = f"The best of {found[0].trials} trials at epoch {found[0].epoch} lie at neither end of any range."
        yield Finding("edges", text)


def _winners(study: Study, name: str) -> str:
    """Return what the winner has; a winner of another model does not have the hyperparameter."""
    value: Any = None if study.best is None else study.best[name]
    return "The winner is of another model." if value is None or pd.isna(value) else f"The winner has {value:.4g}."


def _stopping(study: Study) -> Iterator[Finding]:
    replayed = any(finding.topic == "stopping" for finding in read_forecast(study))  # it gives better advice
    for rung in _rung_reviews(study):
        if np.isnan(rung.spearman) or not rung.stopped:
            continue
        text = (
            f"The rung at epoch {rung.epoch} stopped {rung.stopped} of {rung.reached} trials. For the {rung.trials} "
            "trials trained to the end, the rank correlation of their losses at the rung with their final losses is "
            f"{rung.spearman:.2f}."
        )
        if rung.winner_rank is not None:
            text += f" The winner ranked {rung.winner_rank} at the rung, where the best {rung.quota} pass."
        if rung.lucky >= _FEW:
            text += f" {rung.lucky} trials passed only because they came early; {rung.lucky_good} of them ended in "
            text += "the better half."
        nearly_lost = rung.winner_rank is not None and rung.winner_rank > rung.quota
        unfair = rung.lucky >= _FEW and rung.lucky_good > rung.lucky / 2
        unlike = rung.spearman < _TRUSTED and rung.trials >= MIN_TRIALS
        doubtful = (unlike or nearly_lost or unfair) and not replayed
        advice = "It may stop good trials: raise --grace-period or lower --reduction-factor." if doubtful else ""
        yield Finding("stopping", text, advice)


def _trials(study: Study) -> Iterator[Finding]:
    """Report which trial brought the last improvement. That predicts nothing about more trials: ``docs/advice.md``."""
    table = best_so_far(study)
    falls = -study.ranking.loss(table[BEST]).diff()
    gains = table[falls > 0]
    whole = table.dropna(subset=[BEST])
    if len(table) < MIN_TRIALS or whole.empty:
        return
    if gains.empty:
        first = whole[TRIAL].iloc[0]
        text = f"None of the {len(table)} trials that ended was better than trial {first}, the first complete one."
    else:
        gain = study.loss_unit.with_name(falls[gains.index[-1]])
        last = _ordinal(gains[names.ORDER].iloc[-1])
        text = f"The last improvement, {gain}, came from the {last} of the {len(table)} trials that ended."
    yield Finding("trials", text)


def _epochs(study: Study) -> Iterator[Finding]:
    """Report whether the winner had converged, by the slope of the last quarter of its curve (at least 4 epochs).

    The slope over the last tenth (at least 2 epochs) must agree.
    """
    if study.best is None or study.best[STATE] != COMPLETE:
        return
    curve = study.losses(study.epochs[study.epochs[TRIAL] == study.best_trial].set_index(EPOCH)).sort_index()
    window, last = max(2, len(curve) // 10), min(len(curve), max(_LAST, len(curve) // 4))
    if last < _FEW:
        return
    mean, half = slope(np.arange(last, dtype=np.float64), np.asarray(curve, np.float64)[-last:])
    end = (curve.iloc[-1] - curve.iloc[-1 - window]) / window
    lowest = int(curve.argmin()) + 1
    unit, falling = study.loss_unit, study.threshold(_FALLING)
    interval = f"95 % interval {unit.text(mean - half, '+')} to {unit.text(mean + half, '+')}"
    trend = f"{unit.text(mean, '+')} {unit.short} per epoch over its last {last} epochs ({interval})"
    if mean + half < 0 and end < -falling:
        text = f"The winner's loss was still falling at the end: {trend}."
        yield Finding("epochs", text, f"Train longer than {study.max_epochs} epochs{_how(study)}", certain=True)
    elif mean - half > 0 and lowest < len(curve) - window:
        rise = curve.iloc[-1] - curve.min()
        text = f"The winner was best at epoch {lowest}; its loss has risen by {unit.with_name(rise)} since: {trend}."
        remedies = "fewer epochs or more images" if _larger(study) else "fewer epochs, a smaller model or more images"
        yield Finding("epochs", text, f"It overfits: {remedies} would help.", certain=True)
    elif abs(mean) < falling and half < falling:
        yield Finding("epochs", f"The winner had converged: {trend}.")
    else:
        yield Finding("epochs", f"Whether the winner had converged is not clear: {trend}.")


def _how(study: Study) -> str:
    """Return the options that make a search longer, and a full stop; that alone where they would be refused."""
    schedules = getattr(study.space.distributions.get("lr_schedule"), "choices", [study.reference.lr_schedule])
    ending = any(depends_on_end(replace(study.reference, lr_schedule=name)) for name in schedules)
    if study.kind != names.SEARCH or ending or names.MAX_EPOCHS in study.space.fixed:
        return "."
    return f": a resume with --max-epochs {3 * study.max_epochs} lets its trials go on."


def _larger(study: Study) -> set[str]:
    """Return the hyperparameters of the model's size whose ranges are too narrow above."""
    return {edge.hyperparameter for edge in range_edges(study) if edge.edge == names.HIGH} & _SIZES


def _latents(study: Study) -> Iterator[Finding]:
    table = active_units(study)
    for row in table[table[TRIAL] == study.best_trial].to_dict("records"):
        active, size = row[names.ACTIVE_UNITS], row[LATENT_SIZE]
        advice = "" if LATENT_SIZE in _larger(study) else latents_remedy(active, size)  # losses ask for more latents
        yield Finding("latents", f"{active} of the winner's {size} latents are active.", advice)
    if count := study.trials[names.COLLAPSED].sum():
        text = f"{count} of {len(study.trials)} trials collapsed: below a tenth of their latents active."
        yield Finding("latents", text)


def _failures(study: Study) -> Iterator[Finding]:
    failed = study.trials[study.trials[STATE] == names.FAIL]
    if len(failed):
        kinds = failed[names.REASON].str.replace(r"\d+", "N", regex=True).value_counts()
        often = "" if len(kinds) == 1 else f"; the most frequent reason, {kinds.iloc[0]} times"
        text = f"{len(failed)} of {len(study.trials)} trials failed{often}: {kinds.index[0]}."
        yield Finding("failures", text, "See trials.csv for each reason.")
    elif len(study.trials):
        yield Finding("failures", "No trial failed.")


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
