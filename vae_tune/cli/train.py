"""``vae-tune train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options, path_option, require_named
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict, require, to_dict
from vae_tune.config.names import MODEL_FILE
from vae_tune.config.settings import DataConfig, TrialConfig, ViewsConfig


@dataclass(frozen=True, kw_only=True)
class TrainedConfig(TrialConfig):
    """The configuration to train."""

    max_epochs: Annotated[int, tyro.conf.arg(name="epochs")] = 20
    """Passes over the training images."""

    def plain(self) -> TrialConfig:
        """Return the configuration as a trial's."""
        config: TrialConfig = from_dict(TrialConfig, to_dict(self))
        return config


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Train one configuration, without a search and without Ray."""

    output: Path | None = None
    """New folder for the training; default: models/, data set, date and time."""
    config: Path | None = None
    """A model's config.json, such as best/config.json of a study. Its values, and the data of the model beside it,
    replace the defaults of the options below."""
    resume: Path | None = None
    """Continue the training in this folder. Only --epochs, --visdom and --threads may differ from it, the place of the
    images (--dataset, --data-dir), and that of the code that --model and --metric name."""
    visdom: str | None = None
    """URL of a visdom server that shows the loss curves, for instance http://127.0.0.1:8097."""
    metric: str | None = None
    """Compute your own function of the model and the validation images after each epoch too, FILE.py:FUNCTION or
    MODULE:FUNCTION."""
    threads: int = 1
    """CPU threads. One thread reproduces the numbers of a trial of a search; more only help if cores are idle."""
    data: DataConfig = field(default_factory=DataConfig)
    trial: TrainedConfig = field(default_factory=TrainedConfig)

    def __post_init__(self) -> None:
        """Refuse options that exclude each other, and an invalid URL."""
        super().__post_init__()
        ViewsConfig(visdom=self.visdom)
        require(self, "threads", self.threads >= 1, ">= 1")
        for name in ("config", "output"):
            if self.resume is not None and getattr(self, name) is not None:
                raise UsageError(f"--resume takes no --{name}: it continues the training as it was configured.")


def run(options: TrainOptions) -> None:
    """Train a configuration."""
    from vae_tune.tasks.train import train

    train(
        options.trial.plain(),
        options.data,
        output=options.output,
        resume=options.resume,
        visdom=options.visdom,
        threads=options.threads,
        metric=options.metric,
    )


def defaults(arguments: Sequence[str]) -> TrainOptions:
    """Return the settings of the training that ``--resume`` names, or of the model that ``--config`` names."""
    resume, path = (path_option(name, arguments) for name in ("resume", "config"))
    if resume is not None:
        from vae_tune.tasks.train import read_metric_name, read_settings

        config, data = read_settings(resume)
        require_named(config.model, resume, arguments)
        require_named(read_metric_name(resume), resume, arguments, "metric")
    elif path is not None:
        from vae_tune.vae.checkpoint import read_data_config, read_trial_config

        config = read_trial_config(path)
        require_named(config.model, path, arguments)
        data = read_data_config(path.parent) if (path.parent / MODEL_FILE).exists() else DataConfig()
    else:
        return TrainOptions()
    return TrainOptions(resume=resume, config=path, data=data, trial=TrainedConfig(**to_dict(config)))


_EXAMPLES = (
    "--latent-size 10 --epochs 20 --output models/ten",
    "--config results/NAME/best/config.json --epochs 50",
    "--resume models/ten --epochs 40",
)
COMMAND = Command(TrainOptions, run, _EXAMPLES, defaults)
