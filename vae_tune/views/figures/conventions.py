"""What all drawings share, in figures and in the report: one word and one colour for one thing, one unit of time."""

from __future__ import annotations

from vae_tune.config.names import COMPLETE, FAIL, IDLE, PRUNED, RUNNING, STATE_WORDS

WINNER, REFERENCE, BEST_SO_FAR = "winner", "reference", "best so far"
WENT_ON, STOPPED_HERE = "went on", "stopped here"
LOSS = "validation loss (nats per image)"
KL, RECONSTRUCTION = "KL (nats per image)", "reconstruction (nats per image)"
GAP = "validation - training loss (nats per image)"
ACTIVE, SHARE = "active latents", "share of the importance"
METHODS = {"ped-anova": "PED-ANOVA: what sets the best apart", "fanova": "fANOVA: what explains the loss"}
"""Words for what :mod:`vae_tune.analysis.hyperparameters` computes an importance with."""

COLOURS = {
    STATE_WORDS[COMPLETE]: "#0072B2",
    STATE_WORDS[PRUNED]: "#8A8A8A",
    STATE_WORDS[FAIL]: "#D55E00",
    STATE_WORDS[RUNNING]: "#009E73",
    STATE_WORDS[IDLE]: "#DFE3EA",
    WINNER: "#E69F00",
    REFERENCE: "#CC79A7",
    "best": "#222222",
    "scale-0": "#0B3C8C",
    "scale-1": "#2F74CF",
    "scale-2": "#7FB0E6",
    "scale-3": "#C4DBF4",
    "scale-4": "#EAF1FA",
}
"""By name: of figures, and of the report in a light theme, whose ``page.css`` has those of a dark one.

Those of trials are Okabe and Ito's, which people tell apart however they see colours. ``scale`` is that of losses: the
lower, the darker.
"""


def time_unit(hours: float) -> tuple[float, str]:
    """Return the unit that suits a span: how many are in an hour, and its name."""
    if hours > 3:
        return 1.0, "hours"
    return (60.0, "minutes") if hours * 60 > 3 else (3600.0, "seconds")
