"""The table of trials in the report: its columns, their order, titles and number formats, and its first sorting."""

from __future__ import annotations

from typing import Any

import pandas as pd

from vae_tune.analysis.study import Study
from vae_tune.config import names
from vae_tune.config.metric import METRIC
from vae_tune.config.names import EPOCHS, REASON, SECONDS, STARTED, STATE, TRIAL, VAL_KL, VAL_LOSS, VAL_RECONSTRUCTION
from vae_tune.views.json_values import plain

_TITLES = {
    TRIAL: "trial number; 0 is the reference",
    STATE: "COMPLETE: trained to max_epochs; PRUNED: stopped at a rung; FAIL: diverged or broke; RUNNING: unfinished",
    EPOCHS: "epochs trained",
    VAL_LOSS: f"validation negative ELBO, {METRIC.unit}",
    VAL_RECONSTRUCTION: METRIC.unit,
    VAL_KL: METRIC.unit,
    SECONDS: "training time",
    STARTED: "UTC",
}
_DIGITS = {VAL_LOSS: 2, VAL_RECONSTRUCTION: 2, VAL_KL: 2, SECONDS: 1}


def make_table(study: Study) -> dict[str, Any]:
    """Return the trials of ``study`` as the page's script reads them: columns, rows, sorting, words for states.

    Node and device are columns only if the study has more than one of them, and the reason only if a trial has one.
    """
    searched = list(study.space.distributions)
    trials = study.trials.reset_index()
    trials[STARTED] = trials[STARTED].dt.strftime("%Y-%m-%d %H:%M:%S")
    own = list(study.ranking.columns)
    shown = [TRIAL, STATE, EPOCHS, *own, VAL_LOSS, VAL_RECONSTRUCTION, VAL_KL, *searched, SECONDS, STARTED]
    shown += [name for name in (names.NODE, names.DEVICE) if len({*trials[name].dropna()} - {""}) > 1]
    shown += [REASON] if (trials[REASON] != "").any() else []
    columns = [
        {"name": name, "title": _TITLES.get(name, name), "kind": _css_class(trials[name])}
        | ({"digits": _DIGITS[name]} if name in _DIGITS else {})
        for name in shown
    ]
    return {
        "columns": columns,
        "rows": [plain(row) for row in trials[shown].itertuples(index=False)],
        "sort": {"column": shown.index(TRIAL), "descending": False},
        "hyperparameters": searched,
        "states": names.STATE_WORDS,
    }


def _css_class(values: pd.Series[Any]) -> str:
    return "text note" if values.name == REASON else "number" if values.dtype.kind in "iuf" else "text"
