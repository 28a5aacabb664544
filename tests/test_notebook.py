"""The notebook: its cells run on any study. That Jupyter runs it on a real one, tests/system/test_search.py shows."""

import re

import nbformat
import pytest

from analysis.run import NOTEBOOK, PARAMETERS, execute
from tests.studies import make_study
from tests.views.test_plots import STUDIES
from vae_tune.config.errors import UsageError
from vae_tune.views.figures import FIGURES

BOOK = nbformat.read(NOTEBOOK, as_version=4)
CODE = [cell for cell in BOOK.cells if cell.cell_type == "code"]


def pictures(book):
    outputs = (output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs)
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("condition", STUDIES)
def test_the_cells_run_on_every_study(condition, tmp_path, capsys):
    study = make_study(tmp_path / "s", **STUDIES[condition])
    names = {}
    for cell in CODE:
        source = re.sub("^%.*$", "", cell.source, flags=re.MULTILINE)
        exec(f"STUDY = {str(study)!r}" if PARAMETERS in cell.metadata.get("tags", []) else source, names)
    assert "s: " in capsys.readouterr().out


def test_a_folder_that_is_no_study_is_refused_before_a_kernel_starts(tmp_path):
    with pytest.raises(UsageError, match="is no study"):
        execute(tmp_path, tmp_path / "out.ipynb")


def test_cells_are_short_and_explained():
    assert max(len(cell.source.splitlines()) for cell in CODE) <= 10
    assert sum(cell.cell_type == "markdown" for cell in BOOK.cells) >= len(CODE) / 2


def test_what_is_committed_was_run_and_is_small():
    assert pictures(BOOK) == len(FIGURES)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for cell in CODE for output in cell.outputs if output.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 1_500_000
    assert "/work/" not in NOTEBOOK.read_text()
