"""How often early stopping erred, told by the trials that it condemned and that were trained on: ``--audit-fraction``.

What is known of trials that were stopped rests on the audited ones, a random sample of them: each stands for as many
as its rung condemned for one audited. Losses are nats per image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betaincinv, ndtr

from vae_tune.analysis.study import Study, audited_trials
from vae_tune.config.names import (
    AUDITED,
    COMPLETE,
    CONDEMNED,
    EPOCH,
    EPOCHS,
    FALSE_STOPS,
    HIGH,
    LOW,
    PRUNED,
    SHARE,
    SPEARMAN,
    STATE,
    TRIAL,
    VAL_LOSS,
    WINNER_STOPPED,
)

Array = npt.NDArray[np.float64]
_FEWEST = 3
"""Trials with a final loss that a correlation or a line through them needs."""


def stopping_audit(study: Study) -> pd.DataFrame:
    """Return what the audited trials say of each rung.

    Returns:
        One row per rung: epoch; condemned (trials that it stopped, or would have, the audited among them); audited
        (those of them that were trained to ``max_epochs``); spearman (rank correlation of the losses there with the
        final ones, of all that the rung judged, the audited standing for the stopped; NaN below 3); false_stops
        (audited trials that ended in the better half of those that early stopping let through); share of the audited,
        with low and high of its 95 % interval (Clopper and Pearson 1934); winner_stopped, see
        :func:`chance_of_a_better`. No rows where no trial was audited.
    """
    condemned = audited_trials(study)
    if condemned.empty:
        return pd.DataFrame(columns=_COLUMNS)
    losses = study.epochs.pivot_table(index=TRIAL, columns=EPOCH, values=VAL_LOSS)
    whole = study.trials[(study.trials[STATE] == COMPLETE) & (study.trials[EPOCHS] == study.max_epochs)][VAL_LOSS]
    passed = whole[~whole.index.isin(condemned.index)]
    pruned = study.trials.loc[study.trials[STATE] == PRUNED, EPOCHS]
    stopped_at = pd.concat([pruned, condemned[condemned.index.isin(whole.index)]])
    weights = pd.Series(1.0, index=whole.index)
    for epoch, group in condemned[condemned.index.isin(whole.index)].groupby(condemned):
        weights[group.index] = (stopped_at == epoch).sum() / len(group)
    rows = []
    for epoch in study.rungs:
        if epoch not in losses.columns:
            continue
        audited = whole[whole.index.isin(condemned.index[condemned == epoch])]
        judged = whole.index.difference(condemned.index[condemned < epoch]).intersection(losses[epoch].dropna().index)
        false = int((audited <= passed.median()).sum())
        low, high = proportion_interval(false, len(audited))
        stopped = losses.loc[stopped_at.index[stopped_at == epoch].difference(whole.index), epoch]
        known, final, weight = (_numbers(column[judged]) for column in (losses[epoch], whole, weights))
        rows.append(
            {
                EPOCH: epoch,
                CONDEMNED: int((stopped_at == epoch).sum()),
                AUDITED: len(audited),
                SPEARMAN: weighted_spearman(known, final, weight),
                FALSE_STOPS: false,
                SHARE: false / len(audited) if len(audited) else math.nan,
                LOW: low,
                HIGH: high,
                WINNER_STOPPED: chance_of_a_better(
                    known, final, weight, _numbers(audited), _numbers(stopped), float(passed.min())
                ),
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = [EPOCH, CONDEMNED, AUDITED, SPEARMAN, FALSE_STOPS, SHARE, LOW, HIGH, WINNER_STOPPED]


def chance_of_a_better(
    known: Array, final: Array, weights: Array, audited: Array, stopped: Array, best: float
) -> float:
    """Return the estimated chance that a rung condemned a trial that would have beaten the best that it let through.

    It is 1 where an audited one did. Else each stopped trial's final loss is predicted by a line through the
    logarithms of loss at the rung and final loss, with normal errors as large as the line's own, and the trials count
    as independent.

    Args:
        known: losses at the rung of trials with a final loss.
        final: their final losses.
        weights: how many trials each of them stands for.
        audited: final losses of the audited.
        stopped: losses at the rung of those that were stopped there.
        best: the lowest final loss of a trial that was not condemned.

    Returns:
        NaN where fewer than 3 trials have both losses, or none was audited.
    """
    if (audited < best).any():
        return 1.0
    if len(known) < _FEWEST or not len(audited):
        return math.nan
    x, y = np.log(known), np.log(final)
    slope, offset = np.polyfit(x, y, 1, w=np.sqrt(weights))
    squares = weights * (y - slope * x - offset) ** 2
    deviation = math.sqrt(squares.sum() / weights.sum() * len(x) / (len(x) - 2))
    distance = math.log(best) - slope * np.log(stopped) - offset
    chances = ndtr(distance / deviation) if deviation > 0 else (distance > 0).astype(float)
    return float(1 - np.prod(1 - chances))


def proportion_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a proportion (Clopper and Pearson 1934); 0 to 1 for nothing seen."""
    low = float(betaincinv(hits, count - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 0.975)) if hits < count else 1.0
    return low, high


def weighted_spearman(x: Array, y: Array, weights: Array) -> float:
    """Return the rank correlation of x and y where each pair stands for as many as its weight; NaN below 3 pairs."""
    if len(x) < _FEWEST:
        return math.nan
    ranks = np.stack([_mid_ranks(values, weights) for values in (x, y)])
    covariance = np.cov(ranks, aweights=weights, bias=True)
    scale = math.sqrt(covariance[0, 0] * covariance[1, 1])
    return float(covariance[0, 1] / scale) if scale > 0 else math.nan


def sentences(study: Study) -> list[str]:
    """Return what the audit says, a sentence or two for each rung; none where nothing was audited."""
    told = []
    for row in stopping_audit(study).to_dict("records"):
        if not row[AUDITED]:
            continue
        agreement = (
            "" if math.isnan(row[SPEARMAN]) else f" Its order agrees with the final one by {row[SPEARMAN]:.2f}."
        )
        chance = row[WINNER_STOPPED]
        told_chance = f" The chance that it stopped a better trial than any that it let through: {chance:.0%}."
        lost = "" if math.isnan(chance) else told_chance
        told.append(
            f"Rung at epoch {row[EPOCH]}: of {row[CONDEMNED]} trials that it condemned {row[AUDITED]} were audited; "
            f"{row[FALSE_STOPS]} of these ended in the better half ({row[SHARE]:.0%}, 95 % interval {row[LOW]:.0%} to "
            f"{row[HIGH]:.0%}).{agreement}{lost}"
        )
    return told


def _numbers(values: pd.Series[Any]) -> Array:
    return values.to_numpy(np.float64)


def _mid_ranks(values: Array, weights: Array) -> Array:
    """Return how much weight lies below each value, and half of what lies on it."""
    below = values[None, :] < values[:, None]
    on = values[None, :] == values[:, None]
    return np.asarray((below + on / 2) @ weights)
