"""The notebook: its cells run on any study. That Jupyter runs it on a real one, tests/system/test_search.py shows."""

import base64
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


def figures(book):
    """Count the drawn figures."""
    return len(_pictures(book, "plots.draw_"))


def winner_pictures(book):
    """Return the shown pictures of the winner: the bytes of PNG files."""
    return [base64.b64decode(picture) for picture in _pictures(book, "Image(")]


def _pictures(book, call):
    cells = (cell for cell in book.cells if cell.cell_type == "code" and call in cell.source)
    shown = (output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs)
    return [picture for picture in shown if picture]


@pytest.mark.parametrize("condition", STUDIES)
def test_the_cells_run_on_every_study(condition, tmp_path, capsys):
    study = make_study(tmp_path / "s", **STUDIES[condition])
    names = {}
    for cell in CODE:
        source = re.sub("^%.*$", "", cell.source, flags=re.MULTILINE)
        exec(f"STUDY = {str(study)!r}" if PARAMETERS in cell.metadata.get("tags", []) else source, names)
    output = capsys.readouterr().out
    assert "s: " in output
    assert output.count("<IPython.core.display.Image object>") == 2 * (study / "best").exists()


def test_a_folder_that_is_no_study_is_refused_before_a_kernel_starts(tmp_path):
    with pytest.raises(UsageError, match="is no study"):
        execute(tmp_path, tmp_path / "out.ipynb")


def test_cells_are_short_and_explained():
    assert max(len(cell.source.splitlines()) for cell in CODE) <= 10
    assert sum(cell.cell_type == "markdown" for cell in BOOK.cells) >= len(CODE) / 2


def test_what_is_committed_was_run_and_is_small():
    assert figures(BOOK) == len(FIGURES)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for cell in CODE for output in cell.outputs if output.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 1_500_000
    assert "/work/" not in NOTEBOOK.read_text()
