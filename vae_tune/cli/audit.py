"""``vae-tune audit``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.files import address


@dataclass(frozen=True, kw_only=True)
class AuditOptions(Options):
    """Check the record of a study for contradictions.

    Recomputes states, numbers, rung decisions and the winner from the record, without training.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""


def run(options: AuditOptions) -> int:
    """Print the contradictions, and what could not be checked; return 1 if there are contradictions."""
    from vae_tune.analysis.audit import check_record

    contradictions, notes = check_record(options.folder)
    for line in contradictions:
        print(line)
    for note in notes:
        print(f"Not checked: {note}.")
    count = len(contradictions)
    print(f"{address(options.folder)}: {count or 'no'} contradiction{'' if count == 1 else 's'}.")
    return 1 if contradictions else 0


COMMAND = Command(AuditOptions, run, ("results/NAME",))
