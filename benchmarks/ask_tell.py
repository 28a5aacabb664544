"""The line protocol between the simulated clock and a peer that runs in an environment of its own.

Each line is a JSON object: a request on standard input, its answer on standard output::

    {"start": {a Task}}                -> {"versions": {"smac": "2.4.1"}}
    {"ask": null}                      -> {"trial": 3, "values": {...}, "until": 9}, or {"trial": null} for no work now
    {"report": [trial, epoch, loss]}   -> {"continues": true}
    {"end": null}                      -> {"cpu": 1.5}, the processor's seconds since the start

Loss is minimized. An infinite loss means that the trial diverged and has failed. This module imports the standard
library only: every environment can run it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Protocol


@dataclass(frozen=True)
class Task:
    """One search."""

    method: str
    space: Sequence[Mapping[str, Any]]
    """The hyperparameters: name, type (int or float) with low, high and log; or type categorical with choices."""
    reference: Mapping[str, Any] | None
    """The configuration to try first; None if it is not in the space."""
    max_epochs: int
    """Epochs of a trial that is trained to the end."""
    total_epochs: int
    """Epochs of all trials after which the search ends."""
    workers: int
    seed: int


@dataclass(frozen=True)
class Job:
    """Work for a free worker: a new trial, or one that a peer continues from its last epoch."""

    trial: int
    values: Mapping[str, Any]
    until: int
    """The epoch at which the worker is free again, if no report ends the trial before."""


class Peer(Protocol):
    """A search that is told about each epoch."""

    def ask(self) -> Job | None:
        """Return work for a free worker; None if there is none before another report."""

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Take the loss of an epoch; return whether the trial trains on, which only matters before ``until``."""


def serve(make: Callable[[Task], Peer], packages: Sequence[str]) -> None:
    """Answer requests until standard input ends; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer: Peer | None = None
    began = 0.0
    for line in sys.stdin:
        ((request, content),) = json.loads(line).items()
        answer: dict[str, Any]
        if request == "start":
            began = time.process_time()
            random.seed(content["seed"])
            peer = make(Task(**content))
            answer = {"versions": {name: version(name) for name in packages}}
        elif request == "ask":
            assert peer is not None
            job = peer.ask()
            answer = {"trial": None} if job is None else asdict(job)
        elif request == "end":
            answer = {"cpu": time.process_time() - began}
        else:
            assert peer is not None
            answer = {"continues": bool(peer.report(*content))}
        answers.write(json.dumps(answer, default=_plain) + "\n")
        answers.flush()


def _plain(value: Any) -> Any:
    """Return the Python number of a NumPy one."""
    return value.item()
