"""``vae-tune explore``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from vae_tune.cli.command import Command, Options, path_option, require_named
from vae_tune.cli.train import TrainedConfig
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import require
from vae_tune.config.names import EXPLORATION
from vae_tune.config.settings import DataConfig, ResourceConfig, SearchConfig


@dataclass(frozen=True, kw_only=True)
class ExploredConfig(TrainedConfig):
    """Settings that all trials share."""

    latent_size: Annotated[int, tyro.conf.Suppress] = 20


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(Options):
    """Train each latent size with several seeds, and compare the sizes.

    They are compared on the test images.
    """

    latent_size: str = "1,2,3,5,10,20,30,40"
    """Latent sizes, comma-separated."""
    repeats: int = 5
    """Trials per latent size, with the seeds --seed, --seed + 1, ..."""
    study_name: str | None = None
    """Name of the study, its folder in --results-dir; default: explore, data set, date and time."""
    results_dir: Path = Path("results")
    """Folder that holds the studies."""
    resume: Path | None = None
    """Continue the exploration in this folder with its settings. Name a model of your own with --model again, your
    own function with --metric, and the place of your own images with --dataset if they have moved."""
    metric: str | None = None
    """Also compare the sizes by your own function of a model and images, FILE.py:FUNCTION or MODULE:FUNCTION; it
    chooses the model in best/."""
    maximize: bool = False
    """A higher value of the metric is better; without it, a lower one is."""
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trial: ExploredConfig = field(default_factory=ExploredConfig)

    def __post_init__(self) -> None:
        """Refuse latent sizes and repeats that cannot be trained."""
        super().__post_init__()
        require(self, "repeats", self.repeats >= 1, ">= 1")
        sizes = self.latent_size.split(",")
        valid = all(size.strip().isdecimal() and int(size) >= 1 for size in sizes) and len({*self.sizes}) == len(sizes)
        require(self, "latent_size", valid, "different whole numbers >= 1, such as 2,10,20")
        most = 2**32 - self.trial.seed
        require(self, "repeats", self.repeats <= most, f"<= {most}, as no seed is above 4294967295")

    @property
    def sizes(self) -> list[int]:
        """The latent sizes."""
        return [int(size) for size in self.latent_size.split(",")]


def run(options: ExploreOptions) -> None:
    """Run an exploration, or continue one."""
    from vae_tune.cluster.worker_server import started_early

    with started_early(options.resources.address):
        _run(options)


def _run(options: ExploreOptions) -> None:
    from vae_tune.tasks.explore import explore, plan

    if options.resume is None:
        config = SearchConfig(
            study_name=options.study_name,
            results_dir=options.results_dir,
            metric=options.metric,
            maximize=options.maximize,
            resources=options.resources,
            data=options.data,
            trial=options.trial.plain(),
        )
        explore(*plan(config, options.sizes, options.repeats))
        return
    from vae_tune.record.metadata import read_search_config

    recorded, model = read_search_config(options.resume, EXPLORATION), options.trial.model
    place: dict[str, Any] = {"dataset": options.data.dataset, "data_dir": options.data.data_dir}
    if options != ExploreOptions(
        resume=options.resume,
        metric=options.metric,
        maximize=recorded.maximize,
        resources=options.resources,
        data=DataConfig(**place),
        trial=ExploredConfig(model=model),
    ):
        raise UsageError(
            "--resume takes no options but --model, --metric, --dataset, --data-dir and those of resources:\n"
            "it continues with the study's settings."
        )
    data, trial = replace(recorded.data, **place), replace(recorded.trial, model=model)
    explore(replace(recorded, metric=options.metric, resources=options.resources, data=data, trial=trial))


def defaults(arguments: Sequence[str]) -> ExploreOptions:
    """Return the model and the place of the images of the study that ``--resume`` names, else the defaults."""
    folder = path_option("resume", arguments)
    if folder is None:
        return ExploreOptions()
    from vae_tune.record.metadata import read_search_config

    recorded = read_search_config(folder, EXPLORATION)
    require_named(recorded.trial.model, folder, arguments)
    require_named(recorded.metric, folder, arguments, "metric")
    data = DataConfig(dataset=recorded.data.dataset, data_dir=recorded.data.data_dir)
    trial = ExploredConfig(model=recorded.trial.model)
    return ExploreOptions(resume=folder, maximize=recorded.maximize, data=data, trial=trial)


_EXAMPLES = ("--latent-size 2,5,10,20 --repeats 3 --epochs 5", "--resume results/NAME")
COMMAND = Command(ExploreOptions, run, _EXAMPLES, defaults)
