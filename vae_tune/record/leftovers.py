"""What a driver that was killed, or a disk that failed, left of a study folder: what is used, deleted or refused."""

from __future__ import annotations

from pathlib import Path

from vae_tune.config.files import is_remote
from vae_tune.config.names import (
    CHECKPOINTS_FOLDER,
    COPY_FILE,
    EPOCH,
    EPOCHS_FILE,
    JOURNAL_FILE,
    LOCK_FILE,
    RAY_FOLDER,
    TRIALS_FILE,
)
from vae_tune.config.settings import UsageError
from vae_tune.config.storage import entries
from vae_tune.record.copies import shown
from vae_tune.record.trials import read_trials, row_from_trial


def unfinished_creation(folder: Path) -> bool:
    """Whether ``folder`` holds nothing but what a creation that was killed leaves behind.

    Raises:
        OSError: it cannot be looked into.
    """
    ours = {LOCK_FILE, COPY_FILE, JOURNAL_FILE, EPOCHS_FILE, TRIALS_FILE}
    if is_remote(folder):  # there the workers may have begun before the record was uploaded
        ours |= {CHECKPOINTS_FOLDER, RAY_FOLDER}
    return all(name in ours or name.endswith(".tmp") for name in entries(folder))


def refuse_loss(folder: Path) -> None:
    """Refuse a journal that lacks what ``epochs.csv`` has: it is always written, and on disk, before the table.

    Raises:
        UsageError: it lacks an epoch.
    """
    reported = _reported(folder / EPOCHS_FILE)
    rows = map(row_from_trial, read_trials(folder))
    lost = reported - {(str(row.trial), str(report[EPOCH])) for row in rows for report in row.reports}
    if lost:
        trial, epoch = min(lost)
        raise UsageError(
            f"{shown(folder / JOURNAL_FILE)} is damaged: epoch {epoch} of trial {trial} is only in {EPOCHS_FILE}. "
            "Nothing was changed.\n"
            f"Put the journal back; or, to go on with what is left of it, move {shown(folder / EPOCHS_FILE)} away."
        )


def _reported(path: Path) -> set[tuple[str, str]]:
    """Return trial and epoch of each whole line of ``epochs.csv``; a crash may have torn the last one."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    return {(trial, epoch) for trial, epoch in (line.split(",")[:2] for line in lines if line.count(",") > 1)}


def delete_temporary_files(folder: Path) -> None:
    """Delete files that a driver was writing when it was killed."""
    for leftover in folder.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)
