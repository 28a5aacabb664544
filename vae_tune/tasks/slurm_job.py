"""A search in a Slurm job: it goes on from where the job was before, and puts the job back in the queue at a pause."""

from __future__ import annotations

from dataclasses import replace

from vae_tune.cluster.slurm import SlurmJob, requeue, this_job
from vae_tune.config.errors import SearchPaused
from vae_tune.config.names import STUDY_FILE
from vae_tune.config.settings import SearchConfig
from vae_tune.config.storage import exists
from vae_tune.tasks.search import run_search
from vae_tune.tasks.study_folder import study_place


def run_in_job(config: SearchConfig) -> int:
    """Run a search in this Slurm job; return 1 if no trial succeeded.

    Slurm sends SIGUSR1 some minutes before the end of the job. Then the search pauses, and the job is requeued.

    Raises:
        UsageError: this process runs in no job, or the search cannot run as configured.
        SearchError: the job cannot be put back in the queue.
        KeyboardInterrupt: the job was canceled or preempted.
    """
    job = this_job()
    try:
        return 0 if run_search(config_in_job(config, job)).best is not None else 1
    except SearchPaused:
        print(requeue(job), flush=True)
        return 0


def config_in_job(config: SearchConfig, job: SlurmJob) -> SearchConfig:
    """Return ``config`` with a study name that is the job's; of a job that ran before, to resume its study."""
    if config.resume is not None:
        return config
    config = replace(config, study_name=config.study_name or f"{config.data.title}-{job.label}")
    place = study_place(config)
    return replace(config, resume=place) if job.restarts and exists(place / STUDY_FILE) else config
