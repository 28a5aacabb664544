"""Run the notebook on a study, from the command line: ``python analysis/run.py results/NAME [--output FILE]``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from vae_tune import load_study
from vae_tune.config.errors import UsageError

NOTEBOOK = Path(__file__).parent / "search_analysis.ipynb"
PARAMETERS = "parameters"
"""Tag of the cell that names the study."""


def execute(study: Path, output: Path = NOTEBOOK, notebook: Path = NOTEBOOK) -> None:
    """Run ``notebook`` top to bottom on ``study`` and write it with its outputs to ``output``.

    Raises:
        UsageError: the folder is no study, or the output cannot be written.
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    load_study(study)
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"output {output} must be a file in a folder that is there.")
    book = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    (cell,) = (cell for cell in book.cells if PARAMETERS in cell.metadata.get("tags", []))
    folder = Path(os.path.relpath(study.absolute(), notebook.parent.absolute()))
    cell.source = f'STUDY = "{folder.as_posix()}"'
    NotebookClient(
        book,
        timeout=300,
        record_timing=False,
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of TCP, which stays on this machine's loopback
    ).execute()
    nbformat.write(book, output)  # type: ignore[no-untyped-call]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Run the notebook on a study and keep its outputs.")
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--output", type=Path, default=NOTEBOOK, help="where to write it; default: in place")
    options = parser.parse_args()
    try:
        execute(options.study, options.output)
    except UsageError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: run on {options.study}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
