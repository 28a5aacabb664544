"""The options of the commands besides the search. Nothing heavy is imported: the help must answer at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vae_tune.config.files import is_remote, named_path
from vae_tune.config.names import MODEL_FILE
from vae_tune.config.settings import (
    Binarization,
    DataConfig,
    Dataset,
    ResourceConfig,
    TrialConfig,
    UsageError,
    ViewsConfig,
    check_types,
    require,
    to_dict,
)
from vae_tune.config.suggestions import did_you_mean


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and on which images."""

    model: Annotated[Path, tyro.conf.Positional]
    """Folder with model.safetensors and config.json, or a study, whose best model it is then."""
    dataset: Dataset | None = None
    """Image data set; default: the one that the model was trained on."""
    data_dir: Path | None = None
    """Folder in torchvision's layout; default: as in training."""
    binarization: Binarization | None = None
    """Kind of the images, and so of the numbers; default: as in training."""
    split: Literal["test", "validation"] = "test"
    """Which images."""

    def __post_init__(self) -> None:
        """Refuse what is of another type."""
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the studies in a folder: kind, status, trials, best loss, when each was started; also while they run."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Folder that holds the studies, as --results-dir; also on object storage."""

    def __post_init__(self) -> None:
        """Refuse what is of another type."""
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write report.html, one page that tells what a search found, from the study folder alone; also while it runs."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""
    output: Path | None = None
    """File to write; default: report.html in the folder."""
    open: bool = False
    """Show it in the browser."""

    def __post_init__(self) -> None:
        """Refuse to show what no browser finds."""
        check_types(self)
        if self.open and self.output is None and is_remote(self.folder):
            raise UsageError("--open of a study on object storage needs --output FILE.")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Print and draw studies side by side: what each found, what that cost, how it got there; also while they run."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the studies, two or more."""
    output: Path = Path("comparison.png")
    """Picture to write: png, svg or pdf."""

    def __post_init__(self) -> None:
        """Refuse what cannot be compared or written."""
        check_types(self)
        places = {folder if is_remote(folder) else folder.resolve() for folder in self.folders}
        if len(places) < max(2, len(self.folders)):
            raise UsageError("Give two or more different studies to compare.")
        if self.output.suffix not in (".png", ".svg", ".pdf"):
            raise UsageError(f"output must be a .png, .svg or .pdf file, but got {str(self.output)!r}.")


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """Show a study, running or not, in the browser with optuna-dashboard; nothing can be changed there."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the study."""
    port: int = 8080
    """Port on 127.0.0.1; 0 takes any that is free."""
    open: bool = False
    """Open the page in the browser."""

    def __post_init__(self) -> None:
        """Refuse what is no port."""
        check_types(self)
        require(self, "port", 0 <= self.port < 2**16, "in 0..65535")


PICTURES = ("samples", "reconstructions", "interpolations", "traversals", "manifold", "map")
"""What ``vae-tune generate`` can draw."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ModelOptions):
    """Draw what a trained model makes of nothing, of images, and of the ways between them."""

    what: str | None = None
    """Comma-separated: samples, reconstructions, interpolations, traversals (one latent moved at a time), manifold
    (two latents alone), map (latent means, coloured by label); default: all that apply."""
    output: Path | None = None
    """Folder to write to; default: pictures/ in the model's folder, or here where that is on object storage."""
    format: Literal["png", "npz"] = "png"
    """Pictures, or the arrays behind them."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        super().__post_init__()
        unknown = sorted({*self.chosen} - {*PICTURES})
        if unknown:
            known = f"what must name some of {', '.join(PICTURES)}, but got {unknown[0]!r}."
            raise UsageError(known + did_you_mean(unknown[0], PICTURES))
        require(self, "seed", 0 <= self.seed < 2**32, "in 0..4294967295")

    @property
    def chosen(self) -> tuple[str, ...]:
        """What was asked for; all where nothing was."""
        return PICTURES if self.what is None else tuple(name.strip() for name in self.what.split(","))


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """Evaluate a trained model: negative ELBO, its two parts, active units, and on demand the likelihood."""

    images: int | None = None
    """Use only the first N images; default: all."""
    nll_samples: int | None = None
    """Estimate the negative log-likelihood with this many importance samples an image (Burda et al.: 5000);
    default: not at all."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated."""
        super().__post_init__()
        for name in ("images", "nll_samples"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, ">= 1")


@dataclass(frozen=True, kw_only=True)
class TrainedConfig(TrialConfig):
    """A trial's configuration, trained to the end."""

    max_epochs: Annotated[int, tyro.conf.arg(name="epochs")] = 20
    """Passes over the training images."""

    def __post_init__(self) -> None:
        """Refuse by the name of the option what is no number of passes."""
        if self.max_epochs < 1:
            raise UsageError(f"epochs must be >= 1, but got {self.max_epochs}.")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train one configuration, without Ray and without a search."""

    output: Path | None = None
    """Folder of the training, which must be new; default: models/, data set, date and time."""
    config: Path | None = None
    """A model's config.json, such as a study's best/config.json: its values hold, and the data of the model beside it,
    where no option says otherwise."""
    resume: Path | None = None
    """Go on with the training in this folder, to --epochs if given; all else must stay as it is."""
    visdom: str | None = None
    """URL of a visdom server that shows the loss curves, for instance http://127.0.0.1:8097."""
    threads: int = 1
    """CPU threads. One gives the very numbers of a search's trial; more help only where the cores are idle."""
    data: DataConfig = field(default_factory=DataConfig)
    trial: TrainedConfig = field(default_factory=TrainedConfig)

    def __post_init__(self) -> None:
        """Refuse options that exclude each other, and what is no address."""
        check_types(self)
        ViewsConfig(visdom=self.visdom)
        require(self, "threads", self.threads >= 1, ">= 1")
        for name in ("config", "output"):
            if self.resume is not None and getattr(self, name) is not None:
                raise UsageError(f"--resume takes no --{name}: the training's own holds.")


def train_defaults(arguments: Sequence[str]) -> TrainOptions:
    """Return what holds where no option says otherwise: the settings of the training or model that is named.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    resume, config = (path_option(name, arguments) for name in ("resume", "config"))
    if resume is not None:
        from vae_tune.tasks.train import read_settings

        return read_settings(resume)
    if config is None:
        return TrainOptions()
    from vae_tune.vae.checkpoint import read_config, read_data_config

    data = read_data_config(config.parent) if (config.parent / MODEL_FILE).exists() else DataConfig()
    return TrainOptions(config=config, data=data, trial=TrainedConfig(**to_dict(read_config(config))))


def path_option(name: str, arguments: Sequence[str]) -> Path | None:
    """Return the value of a path option, before the rest is parsed; None where it is missing or help is asked for."""
    from argparse import ArgumentParser

    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}", nargs="?", type=named_path)
    path: Path | None = getattr(parser.parse_known_args(arguments)[0], name)
    return None if {"-h", "--help"} & set(arguments) else path


@dataclass(frozen=True, kw_only=True)
class ExploredConfig(TrainedConfig):
    """What all trials have in common."""

    latent_size: Annotated[int, tyro.conf.Suppress] = 20


@dataclass(frozen=True, kw_only=True)
class ExploreOptions:
    """Train every latent size several times, each with a seed of its own, and compare them on the test images."""

    latent_size: str = "1,2,3,5,10,20,30,40"
    """Latent sizes, comma-separated."""
    repeats: int = 5
    """Trainings of each size, with the seeds --seed, --seed + 1, ..."""
    study_name: str | None = None
    """Name of the study, its folder in results-dir; default: explore, data set, date and time."""
    results_dir: Path = Path("results")
    """Folder that holds the studies."""
    resume: Path | None = None
    """Go on with the exploration in this folder; its settings hold."""
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trial: ExploredConfig = field(default_factory=ExploredConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be explored."""
        check_types(self)
        require(self, "repeats", self.repeats >= 1, ">= 1")
        sizes = self.latent_size.split(",")
        valid = all(size.strip().isdecimal() and int(size) >= 1 for size in sizes) and len(set(self.sizes)) == len(
            sizes
        )
        require(self, "latent_size", valid, "different whole numbers >= 1, such as 2,10,20")
        most = 2**32 - self.trial.seed
        require(self, "repeats", self.repeats <= most, f"<= {most}, as no seed is above 4294967295")

    @property
    def sizes(self) -> list[int]:
        """The latent sizes."""
        return [int(size) for size in self.latent_size.split(",")]
