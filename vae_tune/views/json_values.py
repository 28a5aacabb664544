"""Values as the report's JSON holds them: short, and without NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd


def plain(values: Iterable[Any]) -> list[Any]:
    """Return each value as a number or text, see :func:`number`."""
    dtype = getattr(values, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "fiu":
        return [number(value) for value in values]
    numbers: list[Any] = np.asarray(values).tolist()
    if dtype.kind != "f":
        return numbers
    texts = ("%.6g " * len(numbers) % tuple(numbers)).split()  # a page has a hundred thousand of them
    return [_short(text) for text in texts]


def number(value: Any) -> Any:
    """Return a number with six digits, None where it is missing or not finite; anything else as text."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    return _short(f"{float(value):.6g}")


def _short(text: str) -> int | float | None:
    """Return the number in a text, None where it is not finite."""
    short = float(text)
    return None if not math.isfinite(short) else int(short) if short.is_integer() else short
