"""Texts and tables that the terminal and the report share: hyperparameters, time spans, results of fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from vae_tune.analysis.loss_unit import LossUnit
from vae_tune.config.names import CODE_LENGTH, OPTIMISM, SEARCHED, TRIAL, TRIALS


def format_values(values: Mapping[str, Any]) -> str:
    """Return hyperparameters on one line: ``latent_size=20 learning_rate=0.001``."""
    return " ".join(f"{name}={format_value(value)}" for name, value in values.items())


def format_value(value: Any) -> str:
    """Return a hyperparameter; floats have three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_duration(seconds: float) -> str:
    """Return a time span such as 42s, 3m10s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def format_moment(text: str) -> str:
    """Return a recorded UTC moment to the second."""
    return text[:19].replace("T", " ")


def confirmation_table(results: Iterable[Mapping[Any, Any]], plus_minus: str, unit: LossUnit) -> dict[str, Any]:
    """Return the results of ``--confirm`` as ``title``, ``columns`` and ``rows`` of a ``label`` and ``cells``.

    ``plus_minus`` stands between a mean and half the width of its 95 % interval.
    """

    def interval(row: Mapping[Any, Any], name: str) -> str:
        mean, high = row[f"{name}_mean"], row[f"{name}_high"]
        return unit.text(mean) if math.isnan(high) else f"{unit.text(mean)} {plus_minus} {unit.text(high - mean)}"

    rows, ranking = [], unit.ranking
    for row in results:
        searched, optimism = unit.text(row[f"{SEARCHED}{ranking.name}"]), unit.text(row[OPTIMISM], "+")
        cells = [searched, interval(row, ranking.name), optimism, interval(row, ranking.test_name)]
        cells.append(f"{row[TRIALS]:.0f}")
        rows.append({"label": f"trial {row[TRIAL]}", "cells": cells})
    columns = ["in the search", "validation", "optimism", "test", "trainings"]
    return {"title": f"mean with its 95 % interval, {unit.name}", "columns": columns, "rows": rows}


def code_length_table(metrics: Mapping[str, Any], unit: LossUnit) -> dict[str, Any] | None:
    """Return what the test images cost by the models and by codes without a model, the shortest code first.

    ``metrics`` is the content of ``best/metrics.json``. The result has ``title``, ``columns`` and ``rows`` as in
    :func:`confirmation_table` (``-`` for a code that cannot hold the images), and a ``note``; it is None where pixels
    are no levels, or the search has not ended.
    """
    lengths = metrics.get(CODE_LENGTH)
    if not lengths or "test" not in metrics["winner"]:
        return None
    models = {who: metrics[who]["test"] for who in ("reference", "winner") if "test" in metrics.get(who, {})}
    bits: dict[str, float | None] = {who: test["negative_elbo"] / unit.nats for who, test in models.items()}
    bits |= {"PNG": lengths["png"], "WebP": lengths["webp"], "PNG or WebP": lengths["smaller_file"]}
    bits |= {name: lengths[name] for name in ("histogram", "uniform")}
    ordered = sorted(bits.items(), key=lambda row: math.inf if row[1] is None else row[1])
    count, every = lengths["pictures"], lengths["of"]
    pictures = f"all {every:,} test images" if count == every else f"{count:,} of the {every:,} test images"
    return {
        "title": "Code length of the test images",
        "columns": ["bits/dim"],
        "rows": [{"label": name, "cells": ["-" if bit is None else f"{bit:.3f}"]} for name, bit in ordered],
        "note": f"PNG, WebP: lossless files, mean of {pictures}. PNG or WebP: the smaller file of each; "
        f"{lengths['container']:.3f} of it is container.\n"
        "Histogram: how often each level is in the training images, by channel. Uniform: all 256 levels alike.",
    }
