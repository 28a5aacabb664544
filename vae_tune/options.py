"""The options of the commands that work on one model. Nothing heavy is imported: the help must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vae_tune.config import Binarization, Dataset, require


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
        for name in ("images", "nll_samples"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, ">= 1")
