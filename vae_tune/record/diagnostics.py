"""Problems of a trained VAE that raise no error: latents that nothing uses, losses that diverge."""

from __future__ import annotations

from collections.abc import Sequence

from vae_tune.config.names import ACTIVE_UNITS, COLLAPSED, COMPLETE, FAIL
from vae_tune.record.trials import TrialRow

_GPU_IS_FULL = "CUDA out of memory"  # in torch.OutOfMemoryError
_COLLAPSED_SHARE = 0.1
_SPARE_SHARE = 0.75
"""With a smaller share of active latents, a model has some to spare."""


def collapse_reason(row: TrialRow, latent_size: int, least_epochs: int) -> str:
    """Return why a trial counts as collapsed: after ``least_epochs``, less than a tenth of its latents is active.

    The posterior then ignores the image (posterior collapse; Bowman et al. 2016, arXiv:1511.06349). Else return "".
    """
    if row.epochs < least_epochs or not row.reports:
        return ""
    active = row.reports[-1][ACTIVE_UNITS]
    if active >= _COLLAPSED_SHARE * latent_size:
        return ""
    return f"{COLLAPSED}: {active} of {latent_size} latents active"


def without_collapse(reason: str) -> str:
    """Return the notes on a trial without what :func:`collapse_reason` said of it."""
    return "; ".join(note for note in reason.split("; ") if not note.startswith(f"{COLLAPSED}: "))


def latents_remedy(active: int, size: int) -> str:
    """Return what to change about a model that uses ``active`` of its ``size`` latents; "" if nothing."""
    if active < _COLLAPSED_SHARE * size:
        return "A KL warm-up, a smaller kl_weight or free_bits would keep it from collapsing."
    return "A smaller latent_size would do." if active < _SPARE_SHARE * size else ""


def problem_notes(rows: Sequence[TrialRow]) -> list[str]:
    """Return one sentence for each kind of problem: trials that collapsed, diverged, or found a GPU full."""
    notes = []
    if collapsed := sum(row.collapsed for row in rows):
        notes.append(f"{collapsed} of {len(rows)} trials collapsed: below a tenth of their latents active.")
    diverged = [row for row in rows if row.diverged]
    if diverged:
        notes.append(f"{len(diverged)} of {len(rows)} trials diverged{_where_they_diverged(diverged, rows)}.")
    if full := sum(row.state == FAIL and _GPU_IS_FULL in row.reason for row in rows):
        notes.append(f"{full} of {len(rows)} trials found a GPU full: a larger --gpus-per-trial lets fewer share it.")
    return notes


def _where_they_diverged(diverged: Sequence[TrialRow], rows: Sequence[TrialRow]) -> str:
    rates = _learning_rates(diverged)
    if not rates:
        return ""
    text = f", the lowest learning_rate of them {min(rates):.2g}"
    complete = _learning_rates([row for row in rows if row.state == COMPLETE])
    if complete and max(complete) < min(rates):  # else a trial with a rate as high was trained to the end
        text += f", the highest of a complete trial {max(complete):.2g}: the space could end between them"
    return text


def _learning_rates(rows: Sequence[TrialRow]) -> list[float]:
    return [row.values["learning_rate"] for row in rows if "learning_rate" in row.values]
