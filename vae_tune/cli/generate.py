"""``vae-tune generate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vae_tune.cli.command import Command, ModelOptions
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import require
from vae_tune.config.message_hints import did_you_mean
from vae_tune.config.names import PICTURES


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ModelOptions):
    """Draw samples, reconstructions and the latent space of a model."""

    what: str | None = None
    """Pictures to draw, comma-separated: samples, reconstructions, interpolations, traversals (one latent varied at a
    time), manifold (needs two latents), map (latent means, colored by label); default: all that the model allows."""
    output: Path | None = None
    """Folder to write to; default: pictures/ in the folder of the model, or here if that is on object storage."""
    format: Literal["png", "npz"] = "png"
    """png writes pictures, npz the arrays that they show."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self) -> None:
        """Refuse unknown pictures and seeds out of range."""
        super().__post_init__()
        unknown = sorted({*(self.chosen or ())} - {*PICTURES})
        if unknown:
            known = f"what must name some of {', '.join(PICTURES)}, but got {unknown[0]!r}."
            raise UsageError(known + did_you_mean(unknown[0], PICTURES))
        require(self, "seed", 0 <= self.seed < 2**32, "in 0..4294967295")

    @property
    def chosen(self) -> tuple[str, ...] | None:
        """The chosen pictures, None if the choice is left to the model."""
        return None if self.what is None else tuple(name.strip() for name in self.what.split(","))


def run(options: GenerateOptions) -> None:
    """Draw pictures and print their paths."""
    from vae_tune.tasks.generate import generate

    for path in generate(
        options.model,
        options.chosen,
        options.split,
        options.other_data,
        output=options.output,
        format=options.format,
        seed=options.seed,
        network=options.network,
    ):
        print(path)


COMMAND = Command(
    GenerateOptions, run, ("results/NAME", "results/NAME --what samples,traversals --format npz --output pictures")
)
