"""Values as the report's JSON holds them: short, and without NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import pandas as pd


def plain(values: Iterable[Any]) -> list[Any]:
    """Return each value as a number or text, see :func:`number`."""
    return [number(value) for value in values]


def number(value: Any) -> Any:
    """Return a number with six digits, None where it is missing or not finite; anything else as text."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    short = float(f"{float(value):.6g}")
    return None if not math.isfinite(short) else int(short) if short.is_integer() else short
