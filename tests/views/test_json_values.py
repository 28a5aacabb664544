"""Numbers as the report's JSON holds them."""

import math

import numpy as np
import pandas as pd
import pytest

from vae_tune.views.json_values import plain

NUMBERS = [0.0, -0.0, 1.0, 2 / 3, -1e-7 / 3, 123456.5, 1234567.0, 1e300, math.nan, math.inf, -math.inf]
EXPECTED = [0, 0, 1, 0.666667, -3.33333e-08, 123456, 1234570, int(1e300), None, None, None]


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda values: pd.array(values, "Float64")])
def test_floats_have_six_digits_and_are_missing_where_they_are_not_finite(kind):
    found = plain(kind(NUMBERS))
    assert found == EXPECTED
    assert [type(number) for number in found] == [type(number) for number in EXPECTED]


@pytest.mark.parametrize("values", [np.array([1, 2**40]), pd.Series([1, 2**40]), pd.array([1, 2**40], "Int64")])
def test_whole_numbers_stay(values):
    found = plain(values)
    assert found == [1, 2**40]
    assert {type(number) for number in found} == {int}


def test_whatever_is_no_number_is_text_or_missing():
    assert plain(pd.Series(["a", 1.5, None, True, pd.NA])) == ["a", 1.5, None, "True", None]
    assert plain(np.array([True, False])) == ["True", "False"]
    assert plain([]) == plain(np.array([])) == []
