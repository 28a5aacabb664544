"""A search in a Slurm job: it goes on from where the job was before, and puts the job back in the queue at a pause."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vae_tune.cluster.slurm import SlurmJob, note_given, requeue, this_job
from vae_tune.config.errors import PausedAtStart, SearchError, SearchPaused
from vae_tune.config.files import address, is_remote
from vae_tune.config.names import STATUS, STUDY_FILE
from vae_tune.config.settings import SLURM, SearchConfig
from vae_tune.config.storage import exists
from vae_tune.record.lock import holder_name, is_being_written, lock_holder
from vae_tune.record.metadata import read_metadata, resume_command
from vae_tune.tasks.resumed_study import read_resumed
from vae_tune.tasks.search import run_search
from vae_tune.tasks.study_folder import study_place

_PATIENCE_SECONDS = 300.0
_POLL_SECONDS = 2.0
_TOO_EARLY = (
    "The job was told to pause before its search began, so it is not requeued.\n"
    "Submit it again; --time must leave some minutes before the signal that --signal sets."
)


def run_in_job(config: SearchConfig) -> int:
    """Run a search in this Slurm job; return 1 if no trial succeeded.

    Slurm sends SIGUSR1 some minutes before the end of the job. Then the search pauses, and the job is requeued.

    Raises:
        UsageError: this process runs in no job, or the search cannot run as configured.
        SearchError: the job cannot be put back in the queue, or its search had no time to begin.
        KeyboardInterrupt: the job was canceled or preempted.
    """
    job = this_job()
    note_given(job)
    config = config_in_job(config, job)
    if job.goes_on and config.resume is not None:
        _wait_for_lock(config.resume)
    try:
        return 0 if run_search(config).best is not None else 1
    except SearchPaused as pause:
        if isinstance(pause, PausedAtStart) and not job.goes_on:  # else it might be requeued for ever
            raise SearchError(_TOO_EARLY) from None
        if isinstance(pause, PausedAtStart) and _is_complete(config):
            print(
                f"The study {address(study_place(config))} is complete, so job {job.job} is not requeued.", flush=True
            )
        else:
            _requeue(config, job)
        return 0


def _is_complete(config: SearchConfig) -> bool:
    """Return whether nothing is left to do in the study that the job resumes, as after a resume by another job."""
    if config.resume is None or config.confirm or read_metadata(config.resume)[STATUS] != "complete":
        return False
    return read_resumed(config, config.resume, None).remaining == 0


def _requeue(config: SearchConfig, job: SlurmJob) -> None:
    """Put the job back in the queue, and print how to go on without it."""
    place = study_place(config)
    way = resume_command(read_metadata(place), place) if exists(place / STUDY_FILE) else None
    try:
        print(requeue(job, script_words(sys.argv)))
    except SearchError as error:
        raise SearchError(f"{error}\nTo resume: {way}" if way else str(error)) from error
    if way:
        print(f"If you cancel it, resume with: {way}", flush=True)


def _wait_for_lock(study: Path) -> None:
    """Wait until the lock of the former run is free: on NFS, a lost node keeps its locks for some minutes."""
    if is_remote(study) or not is_being_written(study):
        return
    who, minutes = holder_name(lock_holder(study)), _PATIENCE_SECONDS / 60
    print(f"The study {study} is locked by {who}; waiting up to {minutes:.0f} minutes for its end ...", flush=True)
    end = time.monotonic() + _PATIENCE_SECONDS
    while is_being_written(study) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)


def script_words(arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments of the job's script, which cluster/slurm.sh puts behind ``--address slurm``."""
    return arguments[arguments.index(SLURM) + 1 :] if SLURM in arguments else []


def config_in_job(config: SearchConfig, job: SlurmJob) -> SearchConfig:
    """Return ``config`` with a study name that is the job's; of a job that ran before, to resume its study."""
    if config.resume is not None:
        return config
    config = replace(config, study_name=config.study_name or f"{config.data.title}-{job.label}")
    place = study_place(config)
    return replace(config, resume=place) if job.goes_on and exists(place / STUDY_FILE) else config
