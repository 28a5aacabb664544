"""Tables of the trained models: loss parts, active units, the gap to the training images, and size.

Each function takes a study in any condition (empty, running, interrupted, failed) and returns a tidy table, which is
empty if no trial has reported. Losses are nats per image. The numbers of a trial are from its newest report, at epoch
``epochs``.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from vae_tune.analysis.study import Study, rows_to_rank, trial_configs
from vae_tune.config import names
from vae_tune.config.errors import UsageError
from vae_tune.config.names import ACTIVE_UNITS, EPOCHS, GAP, LATENT_SIZE, ON_FRONT, PARAMETERS, STATE, TRIAL, VAL_LOSS
from vae_tune.config.settings import TrialConfig
from vae_tune.record.trials import ranked
from vae_tune.vae.memory_estimate import parameter_count


def loss_parts(study: Study) -> pd.DataFrame:
    """Return the two parts of each trial's loss.

    Returns:
        One row per trial that reported: trial, state, epochs, val_reconstruction, val_kl, val_loss, their sum.
    """
    return _newest(study)[[TRIAL, STATE, EPOCHS, names.VAL_RECONSTRUCTION, names.VAL_KL, VAL_LOSS]]


def active_units(study: Study) -> pd.DataFrame:
    """Return how many latent dimensions the models use (Burda et al. 2016, arXiv:1509.00519, section 5.2).

    Returns:
        One row per trial that reported: trial, state, epochs, latent_size, active_units, share of the latents that are
        active, val_loss.
    """
    table = _newest(study)
    sizes = [config.latent_size for config in trial_configs(study, table[TRIAL])]
    table[LATENT_SIZE] = np.array(sizes, dtype=np.int64)
    table[names.SHARE] = table[ACTIVE_UNITS] / table[LATENT_SIZE]
    return table[[TRIAL, STATE, EPOCHS, LATENT_SIZE, ACTIVE_UNITS, names.SHARE, VAL_LOSS]]


def train_validation_gap(study: Study) -> pd.DataFrame:
    """Return how much worse the models are on validation than on training images.

    The training loss is the mean over the epoch, while the weights still moved, so a negative gap in the
    first epochs means nothing.

    Returns:
        One row per trial that reported: trial, state, epochs, train_loss, val_loss, gap (val_loss - train_loss; NaN
        if the training loss is the importance-weighted bound instead).
    """
    table = _newest(study)
    alike = np.array([config.iwae_samples == 1 for config in trial_configs(study, table[TRIAL])], dtype=bool)
    table[GAP] = (table[VAL_LOSS] - table[names.TRAIN_LOSS]).where(alike)
    return table[[TRIAL, STATE, EPOCHS, names.TRAIN_LOSS, VAL_LOSS, GAP]]


def pareto(study: Study) -> pd.DataFrame:
    """Return the loss and the size of the models.

    Returns:
        One row per trial that reported, except those of a user's class that this process may not run, the smallest
        first: trial, state, epochs, parameters of encoder and decoder, val_loss, or the user's metric that ranks
        trials, on_front (whether no trial of this size or below is as good, among those that can win, see
        :func:`vae_tune.record.trials.ranked`).
    """
    table = _newest(study)
    sizes = np.array([_size(config, study) for config in trial_configs(study, table[TRIAL])], dtype=np.int64)
    table[PARAMETERS], table[names.RANKED_LOSS] = sizes, study.losses(table)
    table = table[sizes > 0]
    table = table.sort_values([PARAMETERS, names.RANKED_LOSS], ignore_index=True)
    candidates = table[TRIAL].isin([row.trial for row in ranked(rows_to_rank(study), study.max_epochs)])
    losses = table[names.RANKED_LOSS].where(candidates)
    smaller = losses.cummin().ffill().shift().fillna(math.inf)
    table[ON_FRONT] = candidates & (losses < smaller)
    return table[[TRIAL, STATE, EPOCHS, PARAMETERS, study.ranking.name, ON_FRONT]]


def _size(config: TrialConfig, study: Study) -> int:
    """Return the number of a model's parameters, 0 where it cannot be known here."""
    try:
        return parameter_count(config, study.image_shape)
    except UsageError:
        return 0


def _newest(study: Study) -> pd.DataFrame:
    """Return the newest report of each trial, with its state."""
    newest = study.epochs.drop_duplicates(TRIAL, keep="last").sort_values(TRIAL, ignore_index=True)
    newest = newest.rename(columns={"epoch": EPOCHS})
    newest[STATE] = study.trials[STATE].reindex(newest[TRIAL]).array
    return newest
