"""What a trained VAE may suffer from without an error: latents that nothing uses, losses that run away."""

from __future__ import annotations

from collections.abc import Sequence

from vae_tune.config.names import ACTIVE_UNITS, COLLAPSED, COMPLETE, FAIL
from vae_tune.record.trials import TrialRow

_GPU_IS_FULL = "CUDA out of memory"  # in torch.OutOfMemoryError
_COLLAPSE_SHARE = 0.1
_SPARE_SHARE = 0.75  # of a model's latents: below this share of active ones some are spare


def collapse(row: TrialRow, latent_size: int, grace_period: int) -> str:
    """Return the reason to name a trial collapsed: below a tenth of its latents active after the grace period.

    Such a posterior ignores its image (posterior collapse; Bowman et al. 2016, arXiv:1511.06349). Else return "".
    """
    if row.epochs < grace_period or not row.reports:
        return ""
    active = row.reports[-1][ACTIVE_UNITS]
    return f"{COLLAPSED}: {active} of {latent_size} latents active" if active < _COLLAPSE_SHARE * latent_size else ""


def remedy(active: int, size: int) -> str:
    """Return what to do about a model of which ``active`` of ``size`` latents are used; "" where that is well."""
    if active < _COLLAPSE_SHARE * size:
        return "A KL warm-up, a smaller kl_weight or free_bits would keep it from collapsing."
    return "A smaller latent_size would do." if active < _SPARE_SHARE * size else ""


def advice(rows: Sequence[TrialRow]) -> list[str]:
    """Return what the end of a search says of trials that collapsed or diverged, one sentence each."""
    found = []
    collapsed = [row for row in rows if row.collapsed]
    if collapsed:
        found.append(f"{len(collapsed)} of {len(rows)} trials collapsed: below a tenth of their latents active.")
    diverged = [row for row in rows if row.diverged]
    if diverged:
        rates = [row.values["learning_rate"] for row in diverged if "learning_rate" in row.values]
        whole = [
            row.values["learning_rate"] for row in rows if row.state == COMPLETE and "learning_rate" in row.values
        ]
        lowest = f", the lowest learning_rate of them {min(rates):.2g}" if rates else ""
        if rates and whole and max(whole) < min(rates):  # else one that is as high ended well
            lowest += ", the highest of a complete trial "
            lowest += f"{max(whole):.2g}: the space could end between them"
        found.append(f"{len(diverged)} of {len(rows)} trials diverged{lowest}.")
    if full := sum(row.state == FAIL and _GPU_IS_FULL in row.reason for row in rows):
        found.append(f"{full} of {len(rows)} trials found a GPU full: a larger --gpus-per-trial lets fewer share it.")
    return found
