"""``vae-tune check``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.errors import UsageError
from vae_tune.config.files import is_script

_WITH_VALUE = ("--address", "--results-dir")
_FLAGS = ("--offline", "--make-token", "--help", "-h")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """Find what is wrong with a cluster, or a job for Slurm, before it costs money or time.

    Checks a cluster file, a script for Slurm followed by the options of sbatch, or with --address a running cluster.
    Prints one line per problem: where, what, and the remedy. Exits with 1 if there is an error among them.
    """

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """File for `ray up` or KubeRay, or a script for Slurm; default: cluster.yaml here, or none with --address."""
    address: str | None = None
    """Join this running cluster, for instance auto, and test each node: versions, clock, storage, a short trial."""
    results_dir: str | None = None
    """Folder for the results, as in the search: also check that each node can write to it. With Slurm, a node is
    tested; default: the current folder."""
    offline: bool = False
    """Skip the checks that need the network, or the commands of Slurm."""
    make_token: bool = False
    """Create the token that the file copies to the nodes, readable by you alone, if it is missing."""
    others: Annotated[str, tyro.conf.Suppress] = ""
    """Options for sbatch, as for a shell."""

    def __post_init__(self) -> None:
        """Refuse options that exclude each other."""
        super().__post_init__()
        if self.offline and self.address is not None:
            raise UsageError(f"--offline and --address {self.address} contradict each other: leave one of them out.")
        if self.make_token and self.path is None:
            raise UsageError("--make-token needs the cluster file, which names the token.")

    @property
    def path(self) -> Path | None:
        """The file to check, if any."""
        return self.file or (None if self.address else Path("cluster.yaml"))


def split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the arguments of check itself, and those for sbatch: all others that follow a script.

    Raises UsageError if an option that check does not have stands before the script.
    """
    start = next((index for index, word in enumerate(words) if _is_job(Path(word))), len(words))
    for word in words[:start] if start < len(words) else ():
        if word.startswith("-") and _name(word) not in (*_WITH_VALUE, *_FLAGS):
            raise UsageError(
                f"{word} is no option of check. Options of sbatch follow the script: {words[start]} {word}"
            )
    own, others = list(words[: start + 1]), list[str]()
    rest = iter(words[start + 1 :])
    for word in rest:
        name = _name(word)
        (own if name in (*_WITH_VALUE, *_FLAGS) else others).append(word)
        if name in _WITH_VALUE and "=" not in word:
            own += [value for value in [next(rest, None)] if value is not None]
    return own, others


def _name(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")


def _is_job(path: Path) -> bool:
    """Return whether a path names a script for Slurm, also one that is missing."""
    return path.suffix == ".sh" or is_script(path)


def run(options: CheckOptions) -> int:
    """Print what is wrong with a cluster; return 1 if that includes errors."""
    from vae_tune.cli.check.command import check, check_job

    if options.file is not None and _is_job(options.file):
        if options.address or options.make_token:
            raise UsageError(f"{options.file} is a script for Slurm: leave out --address and --make-token.")
        return check_job(options.file, shlex.split(options.others), options.results_dir, options.offline)
    return check(options.path, options.address, options.results_dir, options.offline, options.make_token)


_EXAMPLES = (
    "cluster.yaml --offline",
    "--address auto --results-dir s3://BUCKET/vae",
    "cluster/slurm.sh --results-dir /shared/results --nodes 4 --time 4:00:00",
)
COMMAND = Command(CheckOptions, run, _EXAMPLES, split=split)
