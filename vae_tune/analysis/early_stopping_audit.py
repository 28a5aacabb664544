"""How often early stopping erred, judged by audited trials: stopped, but trained on (``--audit-fraction``).

The audited trials are a random sample of the trials that a rung stops, so each represents its share of them. Losses
are nats per image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betaincinv, ndtr

from vae_tune.analysis.progress import stopped_trials
from vae_tune.analysis.study import Study, audited_trials, complete_trials
from vae_tune.config.names import EPOCH, PRUNED, STATE, TRIAL

Array = npt.NDArray[np.float64]
_FEWEST = 3  # trials with a final loss that a correlation or a line through them needs
_LEAST_SPREAD = 1e-3  # nats: of losses that are mostly equal
_WELL_ABOVE = 0.1  # of the spread: a lowest loss nearer to 0 than this is not well above it


@dataclass(frozen=True)
class RungAudit:
    """The errors of one rung, measured by the audited trials."""

    epoch: int
    stopped: int  # trials that the rung stopped, or would have: with the audited
    audited: int  # those of them that were trained to max_epochs
    spearman: float  # rank correlation of the losses here with the final ones, see weighted_spearman
    false_stops: int  # audited trials that ended in the better half of those that early stopping let through
    share: float  # of false stops among the audited
    low: float
    high: float  # ends of its 95 % interval
    winner_stopped: float  # probability, see probability_that_best_was_stopped


def stopping_audit(study: Study) -> pd.DataFrame:
    """Return one row per rung, with the columns of :class:`RungAudit`; no rows if no trial was audited."""
    return pd.DataFrame([*_rung_audits(study)], columns=[field.name for field in fields(RungAudit)])


def _rung_audits(study: Study) -> Iterator[RungAudit]:
    audits = audited_trials(study)
    if audits.empty:
        return
    losses = study.ranking.loss(study.epochs.pivot_table(index=TRIAL, columns=EPOCH, values=study.ranking.name))
    whole = study.losses(complete_trials(study))
    passed = whole[~whole.index.isin(audits.index)]
    audits_done = audits[audits.index.isin(whole.index)]
    cut_short = audits[study.trials[STATE].reindex(audits.index) == PRUNED]  # as the search was made longer
    stopped_at = pd.concat([stopped_trials(study), audits_done, cut_short])
    weights = pd.Series(1.0, index=whole.index)
    for epoch, group in audits_done.groupby(audits_done):
        weights[group.index] = (stopped_at == epoch).sum() / len(group)
    for epoch in study.rungs:
        if epoch not in losses.columns:
            continue
        audited = whole[audits_done.index[audits_done == epoch]]
        judged = whole.index.difference(audits.index[audits < epoch]).intersection(losses[epoch].dropna().index)
        false_stops = int((audited <= passed.median()).sum())
        low, high = proportion_interval(false_stops, len(audited))
        stopped = losses.loc[stopped_at.index[stopped_at == epoch].difference(whole.index), epoch]
        columns = (*(column[judged] for column in (losses[epoch], whole, weights)), audited, stopped)
        known, final, weight, audited_losses, stopped_losses = (np.asarray(column, np.float64) for column in columns)
        yield RungAudit(
            epoch=epoch,
            stopped=int((stopped_at == epoch).sum()),
            audited=len(audited),
            spearman=weighted_spearman(known, final, weight),
            false_stops=false_stops,
            share=false_stops / len(audited) if len(audited) else math.nan,
            low=low,
            high=high,
            winner_stopped=probability_that_best_was_stopped(
                known, final, weight, audited_losses, stopped_losses, float(passed.min())
            ),
        )


def probability_that_best_was_stopped(
    known: Array, final: Array, weights: Array, audited: Array, stopped: Array, best: float
) -> float:
    """Return the estimated probability that a rung stopped a trial better than the best that it let through.

    It is 1 if an audited trial was better. Else the final loss of each stopped trial is predicted by a line through
    the logarithms of loss at the rung and final loss, with independent normal errors as large as the line's own. Both
    are taken above :func:`log_base`. It is NaN if fewer than 3 trials have both losses, or none was audited.

    Args:
        known: losses at the rung of trials with a final loss.
        final: their final losses.
        weights: how many trials each of them represents.
        audited: final losses of the audited trials.
        stopped: losses at the rung of the trials that were stopped there.
        best: the lowest final loss of a trial that early stopping let through.
    """
    if (audited < best).any():
        return 1.0
    if len(known) < _FEWEST or not len(audited):
        return math.nan
    early_base, final_base = log_base(np.concatenate([known, stopped])), log_base(np.append(final, best))
    x, y = np.log(known - early_base), np.log(final - final_base)
    slope, offset = np.polyfit(x, y, 1, w=np.sqrt(weights))
    squares = weights * (y - slope * x - offset) ** 2
    deviation = math.sqrt(squares.sum() / weights.sum() * len(x) / (len(x) - 2))
    distance = math.log(best - final_base) - slope * np.log(stopped - early_base) - offset
    chances = ndtr(distance / deviation) if deviation > 0 else (distance > 0).astype(float)
    return float(1 - np.prod(1 - chances))


def log_base(losses: Array) -> float:
    """Return the number to subtract from losses before their logarithm is taken; infinite ones and NaN do not count.

    It is 0 where all losses lie well above 0, as those of a likelihood do. Densities give losses of any sign: there it
    lies below the lowest loss, by the distance of the median from it.
    """
    known = losses[np.isfinite(losses)]
    lowest = float(known.min(initial=math.inf))
    spread = max(float(np.median(known)) - lowest, _LEAST_SPREAD) if len(known) else _LEAST_SPREAD
    return 0.0 if lowest > _WELL_ABOVE * spread else lowest - spread


def proportion_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a proportion (Clopper and Pearson 1934); 0 to 1 if ``count`` is 0."""
    low = float(betaincinv(hits, count - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 0.975)) if hits < count else 1.0
    return low, high


def weighted_spearman(x: Array, y: Array, weights: Array) -> float:
    """Return the rank correlation of x and y, each pair repeated as often as its weight; NaN below 3 pairs."""
    if len(x) < _FEWEST:
        return math.nan
    ranks = np.stack([_mid_ranks(values, weights) for values in (x, y)])
    covariance = np.cov(ranks, aweights=weights, bias=True)
    scale = math.sqrt(covariance[0, 0] * covariance[1, 1])
    return float(covariance[0, 1] / scale) if scale > 0 else math.nan


def sentences(study: Study) -> list[str]:
    """Return what the audit shows, in a few sentences per rung with audited trials."""
    texts = []
    for rung in _rung_audits(study):
        text = (
            f"Rung at epoch {rung.epoch}: {rung.audited} of the {rung.stopped} trials that it stopped were audited; "
            f"{rung.false_stops} of these ended in the better half ({rung.share:.0%}, 95 % interval {rung.low:.0%} to "
            f"{rung.high:.0%})."
        )
        if not math.isnan(rung.spearman):
            text += f" Rank correlation with the final losses: {rung.spearman:.2f}."
        if not math.isnan(rung.winner_stopped):
            chance = f"{rung.winner_stopped:.0%}"
            text += f" Probability that it stopped a better trial than any that it let through: {chance}."
        texts += [text] if rung.audited else []
    return texts


def _mid_ranks(values: Array, weights: Array) -> Array:
    """Return for each value the weight below it, and half of the weight at it."""
    below = values[None, :] < values[:, None]
    on = values[None, :] == values[:, None]
    return np.asarray((below + on / 2) @ weights)
