"""What holds for every figure: it comes from any study, as a table with the same columns."""

import pytest

from tests.studies import hand_made, make_study
from vae_tune import load_study, plots

STUDIES = {
    "whole": {},
    "running": {"ended": 25, "status": "running"},
    "no trial yet": {"trials": 0, "status": "running"},
    "one trial": {"trials": 1},
    "one that runs": {"trials": 1, "ended": 0, "status": "running"},
    "all failed": {"trials": 4, "failed": 1.0},
}
TABLES = [name for name in plots.__all__ if not name.startswith("draw_")]


@pytest.fixture(scope="module", params=STUDIES)
def study(request, tmp_path_factory):
    return load_study(make_study(tmp_path_factory.mktemp("results") / "s", **STUDIES[request.param]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return load_study(make_study(tmp_path_factory.mktemp("results") / "s"))


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_the_same_columns_and_types_for_every_study(name, study, whole):
    table, usual = getattr(plots, name)(study), getattr(plots, name)(whole)
    assert list(table.columns) == list(usual.columns)
    if name != "pair_grid":  # its middles have the hyperparameters' own types
        assert list(table.dtypes.astype(str)) == list(usual.dtypes.astype(str))


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"slices", "parallel"}))
def test_nothing_has_happened_yet(name, tmp_path):
    assert getattr(plots, name)(hand_made(tmp_path / "s")).empty
