"""Where a study is, and whether a new one can be written there."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from vae_tune.config.errors import UsageError
from vae_tune.config.files import address
from vae_tune.config.local_copies import working_copy
from vae_tune.config.names import STUDY_FILE
from vae_tune.config.settings import SearchConfig
from vae_tune.config.storage import exists
from vae_tune.record.lock import refuse_without_locks
from vae_tune.record.metadata import read_metadata, resume_command
from vae_tune.record.recovery import is_unfinished_creation
from vae_tune.record.remote_sync import delete_outdated_copy


def study_place(config: SearchConfig) -> Path:
    """Return the folder of the study, of a new one too, or its place on object storage."""
    return config.resume or config.results_dir / (
        config.study_name or f"{config.data.title}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    )


def new_folder(config: SearchConfig, place: Path) -> Path:
    """Return the folder in which a new study at ``place`` is written; refuse it if it exists or cannot be made."""
    folder = working_copy(place)
    try:
        delete_outdated_copy(place)
        for there in (folder, place):
            if exists(there / STUDY_FILE):
                way = resume_command(read_metadata(there), place)
                raise UsageError(f"The study {address(place)} exists already.\nTo go on with it: {way}")
        for taken in (folder, place):
            if (taken.exists() and not taken.is_dir()) or not is_unfinished_creation(taken):
                raise UsageError(f"{address(taken)} exists already and is no study.\nChoose another --study-name.")
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise UsageError(f"results_dir {config.results_dir} cannot be written: {parent} is no writable folder.")
        refuse_without_locks(parent)
    except OSError as error:  # of a folder that may not be looked into, or has no locks
        reason = error.strerror or error
        raise UsageError(f"results_dir {address(config.results_dir)} cannot be written: {reason}.") from error
    return folder
