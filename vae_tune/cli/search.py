"""``vae-tune search``, which ``search.py`` runs too."""

from __future__ import annotations

from collections.abc import Sequence

from vae_tune.cli.command import Command, path_option, require_named
from vae_tune.config.settings import SLURM, SearchConfig


def run(config: SearchConfig) -> int:
    """Run a search; return 1 if no trial succeeded."""
    if config.resources.address == SLURM:
        from vae_tune.cluster.pause_signal import hold_pause

        hold_pause()  # Slurm may send it while the following imports take some seconds
        from vae_tune.tasks.slurm_job import run_in_job

        return run_in_job(config)
    from vae_tune.cluster.worker_server import started_early

    with started_early(config.resources.address):
        from vae_tune.tasks.search import run_search

        return 0 if run_search(config).best is not None else 1


def defaults(arguments: Sequence[str]) -> SearchConfig:
    """Return the settings of the study that ``--resume`` names, else the defaults."""
    folder = path_option("resume", arguments)
    if folder is None:
        return SearchConfig()
    from vae_tune.record.metadata import read_search_config

    config = read_search_config(folder)
    require_named(config.trial.model, folder, arguments)
    require_named(config.metric, folder, arguments, "metric")
    return config


_EXAMPLES = (
    "--num-samples 50",
    "--num-samples 6 --train-size 5000 --max-epochs 3",
    "--space wide --max-epochs 30 --time-budget 2h --confirm 3",
    "--metric my_metric.py:sharpness --maximize",
    "--resume results/NAME --num-samples 200",
    "--resume results/NAME --max-epochs 30",
)
COMMAND = Command(SearchConfig, run, _EXAMPLES, defaults)
