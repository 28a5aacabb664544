"""Words, colors and the unit of time that all figures and the report share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vae_tune.config.names import COMPLETE, FAIL, IDLE, PRUNED, RUNNING, STATE_WORDS

if TYPE_CHECKING:
    from vae_tune.analysis.study import Study

WINNER, REFERENCE = "winner", "reference"

COLORS = {
    STATE_WORDS[COMPLETE]: "#0072B2",
    STATE_WORDS[PRUNED]: "#8A8A8A",
    STATE_WORDS[FAIL]: "#D55E00",
    STATE_WORDS[RUNNING]: "#009E73",
    STATE_WORDS[IDLE]: "#DFE3EA",
    WINNER: "#E69F00",
    REFERENCE: "#CC79A7",
    "best": "#222222",
    **{f"scale-{step}": color for step, color in enumerate(("#0B3C8C", "#2F74CF", "#7FB0E6", "#C4DBF4", "#EAF1FA"))},
}
"""Colors by name: of the figures, and of the report in a light theme (``page.css`` has those of the dark one).

The colors of trials are from Okabe and Ito and can be told apart with any color vision. ``scale`` is for losses: the
lower the loss, the darker the color.
"""


def loss_title(study: Study) -> str:
    """Return the title of an axis of what ranks the trials of :attr:`vae_tune.analysis.study.Study.shown`."""
    ranking = study.ranking
    return f"{ranking.name} (validation)" if ranking.is_users else elbo_title(study)


def elbo_title(study: Study) -> str:
    """Return the title of an axis of validation losses of :attr:`vae_tune.analysis.study.Study.shown`."""
    return f"validation loss ({study.elbo_unit.name})"


def time_unit(hours: float) -> tuple[float, str]:
    """Return the unit that suits a span of time: how many of it are in an hour, and its name."""
    if hours > 3:
        return 1.0, "hours"
    return (60.0, "minutes") if hours * 60 > 3 else (3600.0, "seconds")
