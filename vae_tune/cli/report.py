"""``vae-tune report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.errors import UsageError
from vae_tune.config.files import address, is_remote


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Write report.html: what a search found, in one page.

    Also works while the search is running.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""
    output: Path | None = None
    """File to write; default: report.html in the folder."""
    model: tuple[str, ...] = ()
    """FILE.py:CLASS of a model of your own, to include its trials in the figure of quality against size. Repeat it for
    more."""
    open: bool = False
    """Open the report in the browser."""

    def __post_init__(self) -> None:
        """Refuse to open a report on object storage."""
        super().__post_init__()
        if self.open and self.output is None and is_remote(self.folder):
            raise UsageError("--open of a study on object storage needs --output FILE.")


def run(options: ReportOptions) -> None:
    """Write the report, print its path and open it if requested."""
    from vae_tune.views.report.page import write_report

    path = write_report(options.folder, options.output, options.model)
    print(address(path))
    if options.open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())


COMMAND = Command(ReportOptions, run, ("results/NAME --open", "results/NAME --model my_vae.py:MyVAE"))
