"""The options of the commands that work on one model. Nothing heavy is imported: the help must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vae_tune.config import Binarization, Dataset, UsageError, require


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


PICTURES = ("samples", "reconstructions", "interpolations", "traversals", "manifold", "map")
"""What ``vae-tune generate`` can draw."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ModelOptions):
    """Draw what a trained model makes of nothing, of images, and of the ways between them."""

    what: str | None = None
    """Comma-separated: samples, reconstructions, interpolations, traversals (one latent moved at a time), manifold
    (two latents alone), map (latent means, coloured by label); default: all that apply."""
    output: Path | None = None
    """Folder to write to; default: pictures/ in the model's folder."""
    format: Literal["png", "npz"] = "png"
    """Pictures, or the arrays behind them."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        unknown = sorted({*self.chosen} - {*PICTURES})
        if unknown:
            raise UsageError(f"what must name some of {', '.join(PICTURES)}, but got {unknown[0]!r}.")
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
        for name in ("images", "nll_samples"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, ">= 1")
