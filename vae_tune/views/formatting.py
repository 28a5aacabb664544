"""Short texts for hyperparameters and time spans, the same in the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def format_values(values: Mapping[str, Any]) -> str:
    """Return hyperparameters on one line: ``latent_size=20 learning_rate=0.001``."""
    return " ".join(f"{name}={format_value(value)}" for name, value in values.items())


def format_value(value: Any) -> str:
    """Return a hyperparameter; floats have three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_interval(row: Mapping[Any, Any], name: str, plus_minus: str = "+-") -> str:
    """Return a metric's mean and half the width of its 95 % interval, from a row of ``confirmation.csv``."""
    mean, high = row[f"{name}_mean"], row[f"{name}_high"]
    return f"{mean:.2f}" if math.isnan(high) else f"{mean:.2f} {plus_minus} {high - mean:.2f}"


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
