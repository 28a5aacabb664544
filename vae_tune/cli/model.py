"""``vae-tune model``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.fields import require
from vae_tune.config.model_options import OptionValue, OptionValues, option_values
from vae_tune.config.settings import LikelihoodName, TrialConfig


@dataclass(frozen=True, kw_only=True)
class ModelCommandOptions(Options):
    """Show the options and the parameters of a model, and try it.

    Also shows what a search would refuse about a class of your own.
    """

    model: Annotated[str, tyro.conf.Positional]
    """A built-in model, or a class of your own as FILE.py:CLASS or MODULE:CLASS."""
    probe: bool = False
    """Try the model on two made-up images, as each search does before it creates anything."""
    shape: str = "1x28x28"
    """Images as CHANNELSxHEIGHTxWIDTH."""
    likelihood: LikelihoodName | None = None
    """Distribution of a pixel, which sets how many values the decoder returns; default: as in a search."""
    latent_size: int = 20
    """Dimensions of the latent code."""
    model_options: Mapping[str, OptionValue] = field(default_factory=OptionValues)
    """An option of the model's own, NAME=VALUE. Repeat it for more."""

    def __post_init__(self) -> None:
        """Validate the shape."""
        object.__setattr__(self, "model_options", option_values(self.model_options))
        super().__post_init__()
        require(self, "shape", min(self.sizes, default=0) >= 1, "CHANNELSxHEIGHTxWIDTH such as 3x64x64")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Channels, height and width; empty if ``shape`` is malformed."""
        found = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})x([0-9]{1,4})", self.shape)
        return tuple(map(int, found.groups())) if found else ()


def run(options: ModelCommandOptions) -> None:
    """Print a model's options and the number of its parameters."""
    from vae_tune.tasks.model_code import describe_model

    names = ("model", "model_options", "latent_size", "likelihood")
    config = TrialConfig(**{name: getattr(options, name) for name in names})
    channels, height, width = options.sizes
    print("\n".join(describe_model(config, (channels, height, width), tried=options.probe)))


COMMAND = Command(ModelCommandOptions, run, ("conv", "my_vae.py:MyVAE --probe --shape 3x64x64 --model-option depth=3"))
