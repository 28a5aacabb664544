"""Tables that a spreadsheet shows as they are, and that are read to the last bit."""

import io

import numpy as np
import pandas as pd
import pytest

from tests.studies import hand_made
from vae_tune.analysis.audit import audit
from vae_tune.config import csv_tables
from vae_tune.config.names import MOMENT

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "''-1", '=HYPERLINK("http://x","y")', "= a, b\nc"]
TEXTS = ["", "plain", "'quoted'", "it's", "1", "e=mc2", "a-b", "nan", "None"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_begins_like_a_formula_is_written_behind_an_apostrophe(text):
    assert csv_tables.escape(text) == f"'{text}"
    assert csv_tables.unescape(csv_tables.escape(text)) == text


@pytest.mark.parametrize("value", [*TEXTS, -1, -0.5, None, True])
def test_any_other_cell_is_written_as_it_is(value):
    assert csv_tables.escape(value) is value
    assert not isinstance(value, str) or csv_tables.unescape(value) == value


def test_a_table_comes_back_as_it_was():
    texts = [*FORMULAS, *TEXTS[1:]]
    numbers = np.exp(np.random.default_rng(0).uniform(-10, 6, len(texts)))
    frame = pd.DataFrame({"reason": texts, "loss": -numbers, "count": -np.arange(len(texts))})
    again = csv_tables.read_csv(io.BytesIO(csv_tables.to_csv(frame)), {"reason": "str"})
    assert again["reason"].tolist() == texts
    assert again["loss"].tolist() == frame["loss"].tolist()
    assert again["count"].tolist() == frame["count"].tolist()


def test_text_that_looks_like_a_number_stays_text_and_only_an_empty_cell_is_missing():
    table = csv_tables.read_csv(io.BytesIO(b"node,count\n007,1\nNA,\n,3\n"), {"node": "str", "count": "Int64"})
    assert table["node"].fillna("missing").tolist() == ["007", "NA", "missing"]
    assert table["count"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-30T17:00:09.120+00:00",
        "2026-11-30T17:00:09.12Z",
        "2026-11-30 18:00:09.120+01:00",
        "2026-11-30 17:00:09.120",  # as some spreadsheets write it
        "2026-11-30T17:00:09.120999+00:00",
    ],
)
def test_a_moment_is_in_utc_however_it_was_written(written):
    kinds = {"time": MOMENT, "note": "str"}
    moments = csv_tables.read_csv(io.BytesIO(f'time,note\n{written},"a\nb"\n,\n'.encode()), kinds)["time"]
    expected = pd.to_datetime(pd.Series(["2026-11-30T17:00:09.120Z", None]), utc=True).dt.as_unit("ms")
    pd.testing.assert_series_equal(moments, expected, check_names=False)


@pytest.mark.parametrize("written", ["tomorrow", "30.11.2026"])
def test_what_is_no_moment_is_refused(written):
    with pytest.raises(ValueError, match=written):
        csv_tables.read_csv(io.BytesIO(f"time\n{written}\n".encode()), {"time": MOMENT})


def test_a_column_without_a_value_is_one_of_missing_numbers():
    table = csv_tables.read_csv(io.BytesIO(b"a,b\n1,\n2,\n"))
    assert table["b"].dtype == np.float64
    assert table["b"].isna().all()


def test_numbers_are_read_to_the_last_bit():
    numbers = np.exp(np.random.default_rng(0).uniform(-30, 30, 10_000))
    lines = "".join(csv_tables.csv_line([number]) for number in ["x", *numbers.tolist()])
    assert (csv_tables.read_csv(io.BytesIO(lines.encode()))["x"].to_numpy() == numbers).all()


def test_reasons_and_nodes_of_a_study_are_no_formulas_and_are_read_as_they_were(tmp_path):
    reason = '=HYPERLINK("http://x","y")'
    study = hand_made(
        tmp_path / "s", {"losses": (-9.5, -10), "node": "@node"}, {"state": "FAIL", "reason": reason, "node": "-"}
    )
    assert study.trials.reason[1] == reason
    assert study.trials.node[0] == "@node"
    assert study.trials.val_loss[0] == -10
    written = pd.read_csv(study.folder / "trials.csv")
    assert (written.reason[1], written.node[0], written.val_loss[0]) == (f"'{reason}", "'@node", -10)
    assert not [problem for problem in audit(study.folder) if "trials.csv" in problem]
