"""``vae-tune compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.errors import UsageError
from vae_tune.config.files import is_remote


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Compare studies: print them side by side and draw their progress.

    Shows what each study found, at what cost, and how fast. Also works while a search is running.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the studies, two or more."""
    output: Path = Path("comparison.png")
    """Picture to write: png, svg or pdf."""

    def __post_init__(self) -> None:
        """Refuse fewer than two studies, and an unknown format of the picture."""
        super().__post_init__()
        places = {folder if is_remote(folder) else folder.resolve() for folder in self.folders}
        if len(places) < max(2, len(self.folders)):
            raise UsageError("Give two or more different studies to compare.")
        if self.output.suffix not in (".png", ".svg", ".pdf"):
            raise UsageError(f"output must be a .png, .svg or .pdf file, but got {str(self.output)!r}.")


def run(options: CompareOptions) -> None:
    """Print and draw the comparison."""
    from vae_tune.tasks.compare import comparable_studies, comparison, write_figure

    studies = comparable_studies(options.folders)
    print("\n".join(comparison(studies)))
    write_figure(studies, options.output)
    print(options.output)


COMMAND = Command(CompareOptions, run, ("results/A results/B --output comparison.png",))
