"""``vae-tune list``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.files import address
from vae_tune.config.names import RUNNING, STATE, STUDY_FILE, TRIALS_FILE
from vae_tune.config.storage import exists, folder_exists, list_folder, read_bytes

_HEADER = ("study", "kind", "status", "trials", "best", "started (UTC)")


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    """List the studies in a folder: status, trials, best loss.

    Also works while searches are running.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Folder that holds the studies, as --results-dir; may be on object storage."""


def run(options: ListOptions) -> None:
    """Print a table of the studies in a folder, the oldest first."""
    rows = sorted(studies_in(options.folder), key=lambda row: (row[-1], row[0]))
    if not rows:
        print(f"There is no study in {address(options.folder)}.")
        return
    widths = [max(len(row[column]) for row in (_HEADER, *rows)) for column in range(len(_HEADER))]
    for row in (_HEADER, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def studies_in(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield name, kind, status, trials, best loss and start of each study in ``folder``.

    A study that cannot be read, such as one of a newer version, yields the reason as its status.

    Raises:
        UsageError: there is no such folder, or it cannot be read.
    """
    try:
        if not folder_exists(folder):
            raise UsageError(f"There is no folder {folder}.")
        if exists(folder / STUDY_FILE):
            raise UsageError(f"{address(folder)} is itself a study: name the folder that holds it.")
        places = [folder / name for name in sorted(list_folder(folder).folders)]
        studies = [place for place in places if exists(place / STUDY_FILE)]
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{address(folder)} cannot be read: {telling_line(error).rstrip('.')}.") from error
    for place in studies:
        try:
            yield _describe(place)
        except (UsageError, OSError, ValueError, LookupError, TypeError) as error:
            yield _shown(place), "", f"cannot be read: {telling_line(error)}", "", "", ""


def _describe(place: Path) -> tuple[str, ...]:
    from vae_tune.analysis.loss_unit import LossUnit
    from vae_tune.analysis.study import as_rows, trials_table
    from vae_tune.record.lock import is_being_written
    from vae_tune.record.metadata import read_metadata, read_space, status_label
    from vae_tune.record.trials import winner

    is_running = is_being_written(place)
    metadata = read_metadata(place)
    unit = LossUnit.of(metadata["metric"])
    trials = trials_table(
        BytesIO(read_bytes(place / TRIALS_FILE)), read_space(metadata), metadata["reference"], unit.ranking
    )
    rows = as_rows(trials, unit.ranking.loss(trials[unit.ranking.name]), metadata)
    best = winner(rows, metadata["reference"]["max_epochs"])
    kind = "" if unit.ranking.is_users else f", {unit.kind.name}"
    started = datetime.fromisoformat(metadata["runs"][0]["started"]).astimezone(UTC)
    return (
        _shown(place),
        metadata["kind"],
        status_label(metadata["status"], is_running=is_running),
        f"{int((trials[STATE] != RUNNING).sum())}/{metadata['config']['num_samples']}",
        "" if best is None else f"{unit.level(best.loss or 0.0)} {unit.name}{kind}",
        f"{started:%Y-%m-%d %H:%M}",
    )


def _shown(place: Path) -> str:
    return place.name if place.name.isprintable() else ascii(place.name)


COMMAND = Command(ListOptions, run, ("", "s3://BUCKET/vae"))
