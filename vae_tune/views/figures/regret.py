"""The figure of a replay: how far each setting was from the best loss, and when."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from vae_tune.analysis.loss_unit import NATS, LossUnit
from vae_tune.config.names import EPOCHS, HIGH, HOURS, LOW
from vae_tune.replay.tables import AT, AXIS, REGRET, SETTING

_AXES = {EPOCHS: "epochs trained", HOURS: "simulated hours"}


def draw(regret: pd.DataFrame, unit: LossUnit = NATS) -> Figure:
    """Draw mean regret with its interval against epochs and against simulated time, one line per setting.

    ``regret`` is in nats per image, and the axis in ``unit``.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    least = 1e-6 if unit.ranking.is_users else 1e-3
    shown = regret.assign(**{name: regret[name].clip(lower=least) / unit.nats for name in (REGRET, LOW, HIGH)})
    for place, (axis, label) in zip(figure.subplots(1, 2, sharey=True), _AXES.items(), strict=True):
        for number, (setting, line) in enumerate(shown[shown[AXIS] == axis].groupby(SETTING, sort=False)):
            style = ("-", "--", ":", "-.")[number // 10 % 4]
            how = {"where": "post", "label": setting, "color": f"C{number}"}
            place.step(line[AT], line[REGRET], style, **how)
            place.fill_between(line[AT], line[LOW], line[HIGH], step="post", alpha=0.15, color=f"C{number}")
        place.set(xlabel=label, yscale="log")
        place.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"regret, {unit.name} (log)")
    if len(regret):
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure
