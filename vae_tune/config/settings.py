"""The configurations of a trial and of a search, which validate themselves.

Each field is default, type, docstring and command-line help in one. This module imports nothing heavy, so that the
help appears at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vae_tune.config.errors import UsageError
from vae_tune.config.fields import check_types, require
from vae_tune.config.files import can_be_path
from vae_tune.config.model_options import OptionValue, OptionValues, option_values
from vae_tune.config.names import ARRAYS
from vae_tune.config.urls import check_place, has_secret, is_url

Activation = Literal["linear", "relu", "gelu", "tanh", "elu"]
Precision = Literal["float32", "tf32", "bfloat16"]
Sampler = Literal["tpe", "random", "qmc", "gp", "cmaes"]
Binarization = Literal["grey", "static", "dynamic"]
LrSchedule = Literal["constant", "cosine", "staged"]
Fit = Literal["crop", "pad", "stretch"]
Color = Literal["auto", "grey", "rgb"]
LikelihoodName = Literal[
    "bernoulli", "logistic", "logistic-mixture", "categorical", "continuous-bernoulli", "gaussian"
]

SchedulerName = Literal["asha", "asha-promotion", "freeze-thaw", "none"]
_WITH_RUNGS = ("asha", "asha-promotion")
"""Schedulers that compare trials at rungs, which ``grace_period`` and ``reduction_factor`` place."""
_WITH_AUDITS = ("asha",)
"""Schedulers that support ``audit_fraction``."""
_WITH_GAINS = ("freeze-thaw",)
"""Schedulers that weigh expected gains, of which ``min_gain`` is the least."""

_MLFLOW = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
"""URL schemes of MLflow's servers, and of databases through SQLAlchemy."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """The configuration of one trial; in a search these values are the reference configuration, trial 0."""

    model: str = "mlp"
    """The network: mlp, conv, or a class of your own as FILE.py:CLASS or MODULE:CLASS."""
    model_options: Mapping[str, OptionValue] = field(default_factory=OptionValues)
    """An option of the model's own, NAME=VALUE: a keyword-only argument of its class. Repeat it for more."""
    latent_size: int = 20
    """Dimensions of the latent code."""
    hidden_width: int = 400
    """Units of each hidden layer of encoder and decoder."""
    hidden_layers: int = 1
    """Hidden layers of the encoder, and as many of the decoder."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    batch_size: int = 128
    """Images per optimizer step."""
    encoder_activation: Activation | None = None
    """Non-linearity of the encoder's hidden layers; linear means none. Default: linear for gray images, as in the VAE
    that this project grew from, relu for color."""
    decoder_activation: Activation = "relu"
    """Non-linearity of the decoder's hidden layers."""
    kl_weight: float = 1.0
    """Weight of the KL term in training; the validation loss always has weight 1."""
    kl_warmup_epochs: int = 0
    """Epochs over which the weight of the KL term grows linearly to kl-weight."""
    free_bits: float = 0.0
    """Minimum KL that each latent is charged, in nats, averaged over a minibatch (0: off)."""
    iwae_samples: int = 1
    """Importance samples of the training bound (Burda et al. 2016); 1 is the ELBO."""
    weight_decay: float = 0.0
    """Decoupled weight decay of Adam (AdamW)."""
    lr_schedule: LrSchedule = "constant"
    """Learning rate over the epochs: constant, cosine to zero at max-epochs, or staged: 3^i epochs at 10^(-i/7)."""
    grad_clip: float = 0.0
    """Clip the gradient to this norm (0: no clipping)."""
    max_epochs: int = 10
    """Epochs of a trial that is not stopped early; with --resume, a larger number trains longer."""
    likelihood: LikelihoodName | None = None
    """Distribution of a pixel: bernoulli (for gray values a cross-entropy); logistic, logistic-mixture or categorical
    over its 256 levels; continuous-bernoulli or gaussian, densities; default: bernoulli for gray images, logistic for
    color."""
    mixture_components: int = 5
    """Components of logistic-mixture."""
    precision: Precision = "float32"
    """Arithmetic of the matrix products, with float32 weights and loss. A CPU has no tf32 and uses float32."""
    seed: int = 0
    """Seed of the weights, the batch order, the noise, and the sampler's suggestions."""

    def __post_init__(self) -> None:
        """Validate the values."""
        object.__setattr__(self, "model_options", option_values(self.model_options))
        check_types(self)
        require(self, "model", self.model.isprintable() and self.model.strip() != "", "the name of a model")
        counts = ("latent_size", "hidden_width", "hidden_layers", "batch_size", "iwae_samples", "max_epochs")
        for name in (*counts, "mixture_components"):
            require(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("kl_weight", "kl_warmup_epochs", "free_bits", "weight_decay", "grad_clip"):
            require(self, name, 0 <= getattr(self, name) < math.inf, ">= 0 and finite")
        require(self, "learning_rate", 0 < self.learning_rate < math.inf, "> 0 and finite")
        require(self, "seed", 0 <= self.seed < 2**32, "in 0..4294967295")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images are trained on."""

    dataset: str = "mnist"
    """A folder of pictures, a file of images (.npy, .npz, .parquet), or the name of a data set. mnist ships with the
    package. If they are missing, torchvision downloads fashion-mnist, kmnist, qmnist, emnist-balanced, emnist-byclass,
    emnist-bymerge, emnist-digits, emnist-letters, emnist-mnist, cifar10, cifar100, svhn, stl10, omniglot, celeba, and
    torchvision:CLASS, another of its picture classes."""
    data_dir: Path | None = None
    """Folder in torchvision's layout (DIR/FashionMNIST/raw/...), or an empty one for a download; default:
    $VAE_TUNE_CACHE, else the user's cache."""
    train_size: int | None = None
    """Train on the first N training images only, for a quick look; default: all."""
    binarization: Binarization = "grey"
    """grey uses pixels as they are; static draws each one once as black or white, with its gray value as the
    probability of white; dynamic draws the training images again in each epoch, and the others once. The losses of
    the three cannot be compared."""

    image_size: str | None = None
    """Resize pictures to this size in pixels: 64, or WIDTHxHEIGHT such as 48x64; default: no resizing."""
    fit: Fit = "crop"
    """How a picture with another aspect ratio fills image-size: crop cuts off both ends, pad adds margins, stretch
    distorts it."""
    colour: Color = "auto"
    """Color of the images: auto is grey if every picture is gray, otherwise rgb."""
    background: str = "#ffffff"
    """Color behind transparent pixels and in the margins of pad, as #rrggbb."""
    validation_share: float = 0.1
    """Share of the pictures to validate on, if they have no validation split."""
    test_share: float = 0.1
    """Share of the pictures to test on, if they have no test split."""
    levels: int | None = None
    """256 rounds an array of floats in 0..1 to 256 levels; default: such an array is refused."""

    def __post_init__(self) -> None:
        """Validate the values."""
        check_types(self)
        require(self, "dataset", bool(self.dataset) and can_be_path(Path(self.dataset)), "a name or a path")
        if self.train_size is not None:
            require(self, "train_size", self.train_size >= 1, ">= 1")
        if self.image_size is not None:
            require(self, "image_size", self.size is not None, "a number of pixels or WIDTHxHEIGHT, 1..4096 each")
        require(self, "background", re.fullmatch("#[0-9a-fA-F]{6}", self.background) is not None, "like #ffffff")
        for name in ("validation_share", "test_share"):
            require(self, name, 0 < getattr(self, name) < 1, "between 0 and 1")
        left = 1 - self.validation_share
        require(
            self, "test_share", self.test_share < left, f"< {left:g} beside validation_share={self.validation_share:g}"
        )
        require(self, "levels", self.levels in (None, 256), "256")

    @property
    def title(self) -> str:
        """The data set in the name of a study: that of a folder or file where it is a path."""
        if self.dataset == ARRAYS:
            return "arrays"
        return Path(self.dataset.removeprefix("torchvision:")).stem or "images"

    @property
    def size(self) -> tuple[int, int] | None:
        """``image_size`` as height and width; None if it is not given, or is no size."""
        found = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4}))?", self.image_size or "")
        if not found:
            return None
        width, height = int(found[1]), int(found[2] or found[1])
        return (height, width) if 1 <= width <= 4096 and 1 <= height <= 4096 else None


@dataclass(frozen=True, kw_only=True)
class AshaConfig:
    """When poor trials are stopped (ASHA: Li et al. 2018, arXiv:1810.05934)."""

    scheduler: SchedulerName = "asha"
    """asha stops a trial that is not among the best 1/reduction-factor at a rung; asha-promotion pauses each at a
    rung, and resumes it once it is among the best of all that reached the rung; freeze-thaw decides after each epoch
    which trial trains the next one, by a model of the losses that proposes the configurations too; none trains every
    trial to the end."""
    grace_period: int = 1
    """Epochs that every trial gets: the first rung. Further rungs follow at this times reduction-factor^k."""
    reduction_factor: int = 3
    """One trial in this many passes a rung; 2 finds better models with a budget for more than 70 trials."""
    audit_fraction: float = 0.0
    """Fraction of the trials to stop, chosen at random, that are trained to the end nevertheless, to measure how often
    stopping was wrong; the sampler and asha treat them as stopped."""

    min_gain: float | None = None
    """Of freeze-thaw: end when all trials were tried and none is expected to gain more, in the unit of the losses;
    default: 0.1 % of the expected distance from the median trial to the best."""

    def __post_init__(self) -> None:
        """Validate the rungs."""
        check_types(self)
        gains = self.min_gain is not None
        rule = f"left out where scheduler is not {' or '.join(_WITH_GAINS)}"
        require(self, "min_gain", self.scheduler in _WITH_GAINS or not gains, rule)
        require(self, "min_gain", self.min_gain is None or 0 <= self.min_gain < math.inf, ">= 0 and finite")
        require(self, "audit_fraction", 0 <= self.audit_fraction <= 1, "in 0..1")
        audits = self.audit_fraction > 0
        rule = f"0 where scheduler is not {' or '.join(_WITH_AUDITS)}"
        require(self, "audit_fraction", self.scheduler in _WITH_AUDITS or not audits, rule)
        require(self, "grace_period", self.grace_period >= 1, ">= 1")
        require(self, "reduction_factor", self.reduction_factor >= 2, ">= 2")

    @property
    def has_rungs(self) -> bool:
        """Whether the scheduler compares trials at rungs; else grace_period and reduction_factor have no effect."""
        return self.scheduler in _WITH_RUNGS

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        """Epochs at which a trial may be stopped: grace_period * reduction_factor^k below ``max_epochs``."""
        if not self.has_rungs:
            return ()
        rungs = []
        epoch = self.grace_period
        while epoch < max_epochs:
            rungs.append(epoch)
            epoch *= self.reduction_factor
        return tuple(rungs)


NO_EARLY_STOPPING = AshaConfig(scheduler="none")
"""Every trial is trained to the end."""


SLURM = "slurm"
"""The address that stands for all nodes of the Slurm job that runs the search."""


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """Where trials run and what each one gets."""

    cpus_per_trial: int = 1
    """CPU cores, and so threads, of a trial."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, fractions allowed; default: those that nobody else uses are split among the trials that fit on
    the CPUs, up to 8 per GPU, and no more than fit into its free memory."""
    share_gpus: bool = False
    """Also use GPUs on which other programs compute, as far as their memory is free."""
    max_concurrent: int | None = None
    """Maximum number of trials side by side; default: as many as fit."""
    address: str | None = None
    """Join a running Ray cluster, for instance auto; slurm starts Ray on all nodes of the Slurm job that runs this;
    default: start Ray on this machine."""

    def __post_init__(self) -> None:
        """Validate the resources."""
        check_types(self)
        require(self, "cpus_per_trial", self.cpus_per_trial >= 1, ">= 1")
        if self.gpus_per_trial is not None:
            gpus = self.gpus_per_trial
            require(self, "gpus_per_trial", 0 <= gpus < math.inf, ">= 0")
            require(self, "gpus_per_trial", gpus <= 1 or gpus == int(gpus), "a fraction below 1 or whole")
        if self.max_concurrent is not None:
            require(self, "max_concurrent", self.max_concurrent >= 1, ">= 1")


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Where a search can be watched; a view that is down or dies never harms the search."""

    tensorboard: bool = False
    """Write scalars, hyperparameters and samples of each trial for TensorBoard, into tensorboard/ of the study."""
    mlflow: str | None = None
    """MLflow tracking URI, for instance http://127.0.0.1:5000 or sqlite:///mlflow.db: one run per trial."""
    visdom: str | None = None
    """URL of a visdom server, for instance http://127.0.0.1:8097: loss curves, and samples of the best so far."""
    wandb: str | None = None
    """Weights & Biases project, or ENTITY/PROJECT: one run per trial. WANDB_MODE=offline writes files alone."""
    study_storage: str | None = None
    """PostgreSQL database, postgresql://USER@HOST/DATABASE, that gets a live copy of the Optuna study, for teams that
    watch together. The password comes from PGPASSWORD or ~/.pgpass."""

    def __post_init__(self) -> None:
        """Validate the addresses, and refuse passwords in them, which would be recorded."""
        check_types(self)
        for name, secret, environment in (
            ("mlflow", "login or password", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGPASSWORD,"),
            ("visdom", "login or password", "VISDOM_USERNAME and VISDOM_PASSWORD"),
            ("study_storage", "password", "PGPASSWORD"),
        ):
            if has_secret(getattr(self, name) or ""):
                raise UsageError(
                    f"{name} must be without a {secret}, which would end up in the record.\n"
                    f"Set {environment} in the environment instead."
                )
        if self.mlflow is not None:
            rule = "a URL such as http://127.0.0.1:5000 or sqlite:///mlflow.db"
            require(self, "mlflow", is_url(self.mlflow, *_MLFLOW), rule)
        if self.visdom is not None:
            require(self, "visdom", is_url(self.visdom, "http", "https"), "a URL such as http://127.0.0.1:8097")
        if self.wandb is not None:
            rule = "a project such as vae or team/vae"
            require(self, "wandb", re.fullmatch(r"([\w.-]+/)?[\w.-]{1,128}", self.wandb) is not None, rule)
        if self.study_storage is not None:
            rule = "a URL such as postgresql://user@host/database"
            require(self, "study_storage", is_url(self.study_storage, "postgresql"), rule)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search for the best variational autoencoder for an image data set."""

    num_samples: int = 50
    """Trials of the search, the reference configuration included."""
    study_name: str | None = None
    """Name of the study, its folder in results-dir; default: data set, date and time."""
    results_dir: Path = Path("results")
    """Folder that holds the studies; on object storage s3://BUCKET/... or gs://BUCKET/..."""
    space: Path | Mapping[str, Any] | None = None
    """YAML file with the search space, or wide, which comes with the package; default: latent_size 2..64, hidden_width
    64..1024, learning_rate 1e-4..1e-2. From Python also a mapping, as such a file holds it."""
    resume: Path | None = None
    """Resume the study in this folder; of its settings, only those that leave trials comparable may change, and
    max-epochs may grow."""
    time_budget: str | None = None
    """End everything, the final evaluation included, within this time, for instance 45m or 1h30m."""
    max_total_epochs: int | None = None
    """End when all trials together have trained this many epochs; those in flight are completed."""
    metric: str | None = None
    """Rank trials by your own function of a model and the validation images, FILE.py:FUNCTION or MODULE:FUNCTION;
    default: the validation loss."""
    maximize: bool = False
    """A higher value of the metric is better; without it, a lower one is."""
    target_loss: float | None = None
    """End when a trial trained to max-epochs has a validation loss this low, or a metric this good. The loss is in
    nats per image, also where bits/dim are shown: these times channels x height x width x ln 2."""
    points: Path | None = None
    """YAML (a list of mappings) or CSV file of configurations to try first, after the reference."""
    warm_start: tuple[Path, ...] = ()
    """Folder of another study; the sampler learns from its finished trials, which do not become trials of this one."""
    keep: int = 1
    """Number of best trials whose last checkpoint is kept at the end."""
    sampler: Sampler = "tpe"
    """Optuna sampler that proposes configurations."""
    confirm: int = 0
    """After the search, train the best K configurations and the reference again with fresh seeds: the winner's own
    loss is biased, since it is the best of many."""
    confirm_seeds: int = 3
    """Fresh seeds of each configuration to confirm."""
    notify: str | None = None
    """Shell command to run once when the search ends, fails or pauses, with a JSON message on its standard input. It
    is not recorded: name it again with --resume."""
    asha: AshaConfig = field(default_factory=AshaConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trial: TrialConfig = field(default_factory=TrialConfig)

    def __post_init__(self) -> None:
        """Validate the search, before anything is created."""
        check_types(self)
        require(self, "num_samples", self.num_samples >= 1, ">= 1")
        require(self, "confirm", self.confirm >= 0, ">= 0")
        require(self, "confirm_seeds", self.confirm_seeds >= 1, ">= 1")
        require(self, "keep", self.keep >= 1, ">= 1")
        if self.maximize and self.metric is None:
            raise UsageError("maximize needs --metric: else the validation loss ranks trials, lower is better.")
        require(self, "notify", self.notify is None or self.notify.strip() != "", "a command")
        most = self.max_total_epochs
        require(self, "max_total_epochs", most is None or most >= self.trial.max_epochs, ">= max_epochs")
        require(self, "target_loss", self.target_loss is None or math.isfinite(self.target_loss), "finite")
        for name, place in (("results_dir", self.results_dir), ("resume", self.resume or Path())):
            check_place(name, place)
        if self.time_budget is not None:
            require(self, "time_budget", duration_seconds(self.time_budget) > 0, "a time such as 90s, 45m or 1h30m")
        grace_period, max_epochs = self.asha.grace_period, self.trial.max_epochs
        if self.asha.has_rungs and grace_period > max_epochs:
            raise UsageError(f"grace_period <= max_epochs must hold, but got {grace_period} > {max_epochs}.")
        if self.warm_start and self.asha.scheduler in _WITH_GAINS:
            raise UsageError(f"warm_start cannot teach {self.asha.scheduler}: take --scheduler asha, or leave it out.")
        if self.study_name is not None:
            name = self.study_name
            plain = name.strip() == name == Path(name).name and name.isprintable() and name not in ("", "..")
            require(self, "study_name", plain and can_be_path(Path(name)), "a plain folder name")

    @property
    def least_epochs(self) -> int:
        """Epochs that every trial gets before it is judged."""
        return self.asha.grace_period


def duration_seconds(text: str) -> float:
    """Return the seconds in a duration such as 90s, 45m or 1h30m (nine digits each at most); 0 if it is malformed."""
    match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text)
    hours, minutes, seconds = (int(group or 0) for group in match.groups()) if match else (0, 0, 0)
    return hours * 3600.0 + minutes * 60.0 + seconds
