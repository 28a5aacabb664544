"""One simulated clock for searches of any library: workers train recorded curves, a peer decides what they train.

A peer proposes configurations and is told each loss, see ``ask_tell.py``. Its own code runs, in this process or
in one of another environment; the curves, the space, the workers and the clock are the same for all.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ask_tell import Job, Peer, Task

from vae_tune.config.names import EPOCH, TRIAL, VAL_LOSS, VALUES
from vae_tune.replay.curves import Curve, Source
from vae_tune.replay.setting import Setting
from vae_tune.replay.simulator import new_search

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Epoch:
    """One epoch of a search, at its end."""

    seconds: float
    """Simulated seconds since the start of the search."""
    trial: int
    epoch: int
    loss: float


class PeerFailed(Exception):
    """A peer ended with an exception, or proposed what it must not."""


def run_search(
    peer: Peer, task: Task, curve_of: Callable[[Mapping[str, Any]], Curve], num_samples: int | None = None
) -> list[Epoch]:
    """Return the epochs of a search in the order of their ends.

    Free workers ask in turn; a worker that is told to train on keeps its trial. The search ends after
    ``task.total_epochs``, or when the peer has no more work. With ``num_samples``, the peer is asked no more once it
    proposes a further configuration.

    Raises:
        PeerFailed: a job trains no epoch, or epochs beyond ``task.max_epochs``.
    """
    curves: dict[int, Curve] = {}
    trained: dict[int, int] = {}
    ends: list[tuple[float, int, Job]] = []  # of epochs in training; ties in the order of their start
    log: list[Epoch] = []
    order, clock, free, asking = count(), 0.0, task.workers, True

    def train(job: Job) -> None:
        seconds = curves[job.trial].seconds[trained[job.trial]]
        heapq.heappush(ends, (clock + float(seconds), next(order), job))

    while True:
        while free and asking and (job := peer.ask()) is not None:
            if job.trial not in curves:
                if len(curves) == num_samples:
                    asking = False
                    break
                curves[job.trial], trained[job.trial] = curve_of(job.values), 0
            if not trained[job.trial] < job.until <= task.max_epochs:
                raise PeerFailed(f"{job} has trained {trained[job.trial]} of at most {task.max_epochs} epochs")
            train(job)
            free -= 1
        if not ends:
            return log
        clock, _, job = heapq.heappop(ends)
        trained[job.trial] = epoch = trained[job.trial] + 1
        loss = float(curves[job.trial].losses[epoch - 1])
        log.append(Epoch(clock, job.trial, epoch, loss))
        if len(log) == task.total_epochs:
            return log
        if peer.report(job.trial, epoch, loss) and math.isfinite(loss) and epoch < job.until:
            train(job)
        else:
            free += 1


class PeerProcess:
    """A peer in a process of its own environment, which serves one search after the other."""

    def __init__(self, python: Path, script: Path):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = os.environ | THREADS | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.versions: dict[str, str] = {}

    def start(self, task: Task) -> None:
        """Begin a search."""
        self.versions = self._answer("start", asdict(task))["versions"]

    def ask(self) -> Job | None:
        """Return the peer's next job."""
        answer = self._answer("ask", None)
        return None if answer["trial"] is None else Job(**answer)

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Tell a loss; return whether the trial trains on."""
        return bool(self._answer("report", [trial, epoch, loss])["continues"])

    def end(self) -> float:
        """Return the processor's seconds that the peer's process took since the start."""
        return float(self._answer("end", None)["cpu"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()

    def _answer(self, request: str, content: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({request: content}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise PeerFailed(f"exit code {code}: {self._errors.read()[-2000:].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class OwnSearch:
    """A search of vae_tune: its searcher and its scheduler, as a replay runs them."""

    def __init__(self, source: Source, setting: Setting, task: Task, num_samples: int | None):
        self._max_epochs = task.max_epochs
        samples = num_samples or task.total_epochs  # no configuration trains less than an epoch
        self._suggest, self._report, _ = new_search(source.curves, setting, samples, task.seed)
        self._names = (str(number) for number in count())
        self._running: dict[int, str] = {}

    def ask(self) -> Job | None:
        """Return what a free worker is told to train."""
        name = next(self._names)
        config = self._suggest(name)
        if not isinstance(config, dict):
            return None
        self._running[config[TRIAL]] = name
        return Job(config[TRIAL], config[VALUES], self._max_epochs)

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Report as a worker does."""
        return self._report(self._running[trial], {EPOCH: epoch, VAL_LOSS: loss})


def described(distributions: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return Optuna's distributions as a task describes its space.

    Raises:
        ValueError: a range has steps, which not all peers can search.
    """
    space: list[Mapping[str, Any]] = []
    for name, searched in distributions.items():
        if hasattr(searched, "choices"):
            space.append({"name": name, "type": "categorical", "choices": list(searched.choices)})
            continue
        whole = isinstance(searched.low, int)
        if searched.step not in ((1,) if whole else (None,)):
            raise ValueError(f"{name} has steps of {searched.step}, which not all peers can search")
        kind = "int" if whole else "float"
        space.append({"name": name, "type": kind, "low": searched.low, "high": searched.high, "log": searched.log})
    return space
