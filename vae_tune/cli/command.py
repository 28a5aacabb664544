"""The parts that commands share: how a command is described, and options that several commands take."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vae_tune.config.errors import UsageError
from vae_tune.config.fields import check_types
from vae_tune.config.files import address, named_path
from vae_tune.config.settings import Binarization


@dataclass(frozen=True)
class Command:
    """A command: its options and the function that runs it."""

    options: type[Any]
    """A dataclass. Its fields are the options; the first line of its docstring is the summary of the command."""
    run: Callable[[Any], int | None]
    """Takes the options and returns the exit code; None means 0."""
    examples: tuple[str, ...]
    """Options and arguments that may follow the command, for its help."""
    defaults: Callable[[Sequence[str]], Any] | None = None
    """Returns the defaults that hold for the given arguments; without it, those of ``options`` hold."""
    split: Callable[[Sequence[str]], tuple[Sequence[str], Sequence[str]]] | None = None
    """Returns the arguments of the command itself, and those for another program, joined in the field ``others``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that validate the types of their values."""

    def __post_init__(self) -> None:
        """Validate the types."""
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """A trained model, and the images to use it on."""

    model: Annotated[Path, tyro.conf.Positional]
    """Folder that holds model.safetensors and config.json, or a study, which stands for its best model."""
    network: Annotated[str | None, tyro.conf.arg(name="model")] = None
    """FILE.py:CLASS or MODULE:CLASS of a model of your own: its code runs only from a file that you name."""
    dataset: str | None = None
    """Image data set; default: the one that the model was trained on."""
    data_dir: Path | None = None
    """Folder in torchvision's layout; default: as in training."""
    binarization: Binarization | None = None
    """Kind of the images, and so of the losses; default: as in training."""
    split: Literal["test", "validation"] = "test"
    """Split of the images to use."""

    @property
    def other_data(self) -> dict[str, Any]:
        """The options that replace settings of the data that the model was trained on."""
        given = {name: getattr(self, name) for name in ("dataset", "data_dir", "binarization")}
        return {name: value for name, value in given.items() if value is not None}


def require_named(code: str | None, where: Path, arguments: Sequence[str], option: str = "model") -> None:
    """Refuse to run a user's class, or ``metric``, that a record names, and the arguments do not."""
    if ":" in (code or "") and not any(word.partition("=")[0] == f"--{option}" for word in arguments):
        from vae_tune.vae.networks.registry import unnamed

        raise UsageError(unnamed(str(code), address(where), option))


def path_option(name: str, arguments: Sequence[str]) -> Path | None:
    """Return the value of a path option before the rest is parsed; None if it is missing or help is requested."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}", nargs="?", type=named_path)
    path: Path | None = getattr(parser.parse_known_args(arguments)[0], name)
    return None if {"-h", "--help"} & set(arguments) else path
