"""``vae-tune check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.cli.command import Command, Options
from vae_tune.config.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """Find what is wrong with a cluster before it costs money.

    Checks a cluster file, or with --address a running cluster. Prints one line per problem: where, what, and the
    remedy. Exits with 1 if there is an error among them.
    """

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """File for `ray up` or KubeRay; default: cluster.yaml here, or none with --address."""
    address: str | None = None
    """Join this running cluster, for instance auto, and test each node: versions, clock, storage, a short trial."""
    results_dir: str | None = None
    """Folder for the results, as in the search: also check that each node can write to it."""
    offline: bool = False
    """Skip the checks that need the network."""
    make_token: bool = False
    """Create the token that the file copies to the nodes, readable by you alone, if it is missing."""

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


def run(options: CheckOptions) -> int:
    """Print what is wrong with a cluster; return 1 if that includes errors."""
    from vae_tune.cli.check.command import check

    return check(options.path, options.address, options.results_dir, options.offline, options.make_token)


COMMAND = Command(CheckOptions, run, ("cluster.yaml --offline", "--address auto --results-dir s3://BUCKET/vae"))
