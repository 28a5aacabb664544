"""Keep a study on object storage in sync with the working copy that a driver writes on this machine.

The driver writes the working copy as it writes any study; a thread uploads what changed, whole files, at a limited
rate. Checkpoints do not pass through here: workers write them to object storage themselves. A checkpoint is deleted
only after the record that makes it unnecessary is uploaded, so another machine finds a record and checkpoints that
match.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vae_tune.config import message_hints
from vae_tune.config.errors import SearchError, UsageError
from vae_tune.config.files import address
from vae_tune.config.local_copies import download, mark_copy, record_files, uploaded_files, working_copy
from vae_tune.config.names import EARLIER_JOURNALS, JOURNAL_FILE, STUDY_FILE
from vae_tune.config.storage import PATIENCE, QUICK, exists, list_remote_files, read_bytes, reason, write_bytes
from vae_tune.record.claim import Claim
from vae_tune.record.lock import is_being_written

_EARLIER = EARLIER_JOURNALS.format("*")

_PERIOD_SECONDS = 5.0
"""Minimum time between two uploads."""
_BYTES_PER_SECOND = 2e6
"""Limit on the average upload rate."""


def update_working_copy(study: Path) -> Path:
    """Bring the working copy of a study up to date and return it; a study on this machine is returned as it is.

    A copy with newer journal lines than object storage, which a kill or an outage kept from being uploaded, stays;
    only the files that were deleted from object storage since its last upload are deleted from it.

    Raises:
        UsageError: there is no study, or object storage does not answer.
    """
    folder = working_copy(study)
    if folder == study or is_being_written(folder):
        return folder
    try:
        stored = set(list_remote_files(study))
        deleted = uploaded_files(folder) - stored
        if not _is_ahead(folder, study, stored, deleted):
            download(study, folder)
            return folder
    except OSError as error:
        raise UsageError(f"{address(study)} cannot be read: {reason(error)}.") from error
    for name in deleted:
        (folder / name).unlink(missing_ok=True)
    mark_copy(folder, study, uploaded_files(folder) - deleted)
    return folder


def _is_ahead(folder: Path, study: Path, stored: set[str], deleted: set[str]) -> bool:
    """Return whether the journals of a working copy continue those of the study, and at least one has more lines.

    The study has the files ``stored``; the files ``deleted`` were deleted from it since the last upload.
    """
    if STUDY_FILE in deleted or not (folder / STUDY_FILE).exists():
        return False
    ahead = False
    for path in folder.rglob(JOURNAL_FILE):
        name = path.relative_to(folder).as_posix()
        if name in deleted:
            continue
        uploaded = read_bytes(study / name) if name in stored else b""
        content = path.read_bytes()
        if content.startswith(uploaded):
            ahead = ahead or len(content) > len(uploaded)
        elif any(earlier.read_bytes().startswith(uploaded) for earlier in path.parent.glob(_EARLIER)):
            ahead = True
        else:
            return False
    return ahead


def delete_outdated_copy(study: Path) -> None:
    """Delete the working copy of a study that has been deleted from object storage.

    Raises:
        OSError: object storage does not answer.
    """
    folder = working_copy(study)
    if folder == study or STUDY_FILE not in uploaded_files(folder) or is_being_written(folder):
        return
    if not exists(study / STUDY_FILE):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def uploading(
    folder: Path,
    study: Path,
    claim: Claim,
    warn: Callable[[str], None],
    fail: Callable[[str], None],
    resume: str | None = None,
) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Upload a study's working copy as it grows, until the block has ended and the rest is uploaded too.

    ``warn`` is called once per outage, with a message, and ``fail`` if it makes no sense to go on. ``resume`` is the
    command that resumes the study; default: that of a search.

    Yields:
        A function that takes an action, such as a deletion, and runs it after the next upload.

    Raises:
        SearchError: the rest cannot be uploaded; the message says where it is.
    """
    uploader = _Uploader(folder, study, claim)
    ended = threading.Event()
    thread = threading.Thread(target=uploader.upload_until, args=(ended, warn, fail), name="upload", daemon=True)
    thread.start()
    try:
        yield uploader.after_upload.append
    finally:
        ended.set()
        thread.join()
        try:
            uploader.upload(PATIENCE)
        except OSError as error:
            raise SearchError(
                f"The record could not be uploaded: {error}. It is complete on this machine, in {folder}.\n"
                f"Once the storage is back, go on from there, on this machine: {resume or message_hints.resume(study)}"
            ) from error


class _Uploader:
    """Knows what of a working copy is not on object storage yet, and uploads it."""

    def __init__(self, folder: Path, study: Path, claim: Claim):
        self._folder = folder
        self._study = study
        self._claim = claim
        self._states: dict[Path, tuple[int, int]] = {}
        """Modification time and size of each file as it was uploaded."""
        self._uploaded = uploaded_files(folder)
        self.after_upload: list[Callable[[], None]] = []
        """Actions to run after the next upload."""

    def upload(self, patience: float) -> int:
        """Upload what changed and return its size in bytes.

        The journal is read last and uploaded first, so that the tables on object storage never have what the journal
        lacks. What was uploaded is noted in the copy, so that a later update can tell which files were deleted there.

        Raises:
            StorageError: object storage does not answer.
            ClaimLost: another driver took the study over.
        """
        self._claim.keep_alive(patience)
        due = len(self.after_upload)
        states, contents = {}, {}
        for path in sorted(record_files(self._folder), key=lambda path: path.name == JOURNAL_FILE):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                status = path.stat()
                states[path] = status.st_mtime_ns, status.st_size
                if self._states.get(path) != states[path]:
                    contents[path] = path.read_bytes()
        # a folder counts as a study once study.json is there
        for path in sorted(contents, key=lambda path: (path.name == STUDY_FILE, path.name != JOURNAL_FILE)):
            self._claim.keep_alive(patience)
            write_bytes(self._study / path.relative_to(self._folder), contents[path], patience)
            self._states[path] = states[path]
        stored = self._uploaded | {path.relative_to(self._folder).as_posix() for path in states}
        if stored != self._uploaded:
            self._uploaded = stored
            mark_copy(self._folder, self._study, stored)
        for _ in range(due):
            self._claim.keep_alive(patience)
            self.after_upload[0]()
            self.after_upload.pop(0)
        return sum(map(len, contents.values()))

    def upload_until(self, ended: threading.Event, warn: Callable[[str], None], fail: Callable[[str], None]) -> None:
        """Keep the claim alive, and upload what changed at a limited rate, until ``ended``."""
        due, is_away = 0.0, False
        while not ended.wait(_PERIOD_SECONDS if due or is_away else 0):
            try:
                self._claim.keep_alive(QUICK)
                if time.monotonic() >= due:
                    size = self.upload(QUICK)
                    due = time.monotonic() + size / _BYTES_PER_SECOND
                is_away = False
            except OSError as error:
                if not is_away:
                    warn(f"The record cannot be uploaded now: {error}. The search goes on, and the upload is retried.")
                is_away = True
            except SearchError as error:
                fail(str(error))
                return
