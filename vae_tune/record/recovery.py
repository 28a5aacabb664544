"""Recovery of a study folder after its driver was killed or its disk failed: what may be replaced, what is refused."""

from __future__ import annotations

from pathlib import Path

from vae_tune.config import names
from vae_tune.config.errors import UsageError
from vae_tune.config.files import is_remote
from vae_tune.config.local_copies import original_address
from vae_tune.config.storage import list_folder
from vae_tune.record.journal import UtcStorage
from vae_tune.record.trials import row_from_trial, trials_in


def is_unfinished_creation(folder: Path) -> bool:
    """Return whether a folder holds only files of a driver that was killed while it created a study.

    Raises:
        OSError: the folder cannot be listed.
    """
    ours = {names.LOCK_FILE, names.COPY_FILE, names.JOURNAL_FILE, names.EPOCHS_FILE, names.TRIALS_FILE}
    if is_remote(folder):  # workers there may begin before the record is uploaded
        ours |= {names.CHECKPOINTS_FOLDER, names.RAY_FOLDER}
    found = list_folder(folder)
    return all(name in ours or name.endswith(".tmp") for name in found.files | found.folders)


def refuse_lost_epochs(folder: Path, storage: UtcStorage) -> None:
    """Refuse a journal that lacks an epoch of ``epochs.csv``: each epoch is on disk in the journal first.

    Raises:
        UsageError: it lacks an epoch.
    """
    path = folder / names.EPOCHS_FILE  # before the journal: another driver may be writing them
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    whole_lines = text[: text.rfind("\n") + 1].splitlines()[1:]  # a crash may have torn the last one
    reported = {tuple(line.split(",")[:2]) for line in whole_lines if line.count(",") > 1}
    rows = map(row_from_trial, trials_in(storage))
    lost = reported - {(str(row.trial), str(report[names.EPOCH])) for row in rows for report in row.reports}
    if lost:
        trial, epoch = min(lost)
        raise UsageError(
            f"{original_address(folder / names.JOURNAL_FILE)} is damaged: epoch {epoch} of trial {trial} is only in "
            f"{names.EPOCHS_FILE}. Nothing was changed.\n"
            "Restore the journal; or, to go on with what is left of it, move "
            f"{original_address(folder / names.EPOCHS_FILE)} away."
        )
