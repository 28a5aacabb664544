"""The options of ``vae-tune check``. Nothing heavy is imported: the help must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vae_tune.config.settings import UsageError, check_types


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Say what is wrong with a cluster before it costs money: its file, or with --address the running one.

    Prints one line a finding: where, what, what to do. Exits with 1 where there is an error among them.
    """

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """What `ray up` or KubeRay gets; default: cluster.yaml here, or none with --address."""
    address: str | None = None
    """Join this running cluster, for instance auto, and try each node: versions, clock, storage, a short trial."""
    results_dir: str | None = None
    """Where results will go, as in the search: whether each node reaches it is part of the check."""
    offline: bool = False
    """Only what needs no network and no cluster."""
    make_token: bool = False
    """Make the token that the file ships to the nodes, where it is missing, readable by you alone."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        check_types(self)
        if self.offline and self.address is not None:
            raise UsageError(f"--offline and --address {self.address} contradict each other: leave one of them out.")
        if self.make_token and self.path is None:
            raise UsageError("--make-token needs the file that says where the token is.")

    @property
    def path(self) -> Path | None:
        """The file to check, if any."""
        return self.file or (None if self.address else Path("cluster.yaml"))
