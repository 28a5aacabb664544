"""The processes of a Ray that is started on this machine: their group, their deaths, their logs, their folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ray.exceptions import RaySystemError

from vae_tune.config.compat.ray import GlobalState, detect_fate_sharing_support, get_default_system_temp_dir, services
from vae_tune.config.settings import SearchError, UsageError

_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""That the path of a Unix socket can have."""
_SOCKET = f"session_2026-11-30_05-13-42_123456_{os.getpid()}/sockets/plasma_store"
"""The longest path of a socket in Ray's folder."""
_SHORT = Path("/tmp")
_AGENT = re.compile(r"because one Ray agent failed, agent_name = (\w+)")
"""What a raylet writes into its log before it ends too, which can take 15 seconds."""
_LOGS = "--log_dir="
_LONGEST_LINE = 160
_START_SECONDS = 30.0
_POLL_SECONDS = 0.05


NO_TASK = "Ray has died: it runs no task any more."


class RayDied(BaseException):
    """Ray runs nothing any more; the text says why.

    It is no Exception, since at these Ray Tune first waits for its trials, for up to a minute; and within five seconds
    after its raylet Ray's core ends this process.
    """


class _Spared(subprocess.Popen[bytes]):
    """A process that a SIGTERM or Ctrl-C for this one does not reach.

    ``timeout`` and a terminal send it to the process group, Slurm and systemd to each process of a control group; and
    Ray's core ends this process at once where its raylet heeds one. So what is to end it is a SIGKILL; to its group,
    since a raylet's agents take a minute to notice.
    """

    def __init__(self, command: list[str], preexec_fn: Callable[[], None] | None = None, **options: Any):
        def block() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            if preexec_fn:
                preexec_fn()

        super().__init__(command, preexec_fn=block, process_group=0, **options)

    def terminate(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Processes:
    """The processes of one start of Ray."""

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = Path()
        self._get_node: Callable[[str, str], dict[str, Any]] = services.get_node

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start one, as Ray does, but as :class:`_Spared` where it ends with this process by itself."""
        kind = _Spared if detect_fate_sharing_support() else subprocess.Popen
        process = kind(command, **options)
        self._started[Path(command[0]).name] = process
        for word in command:
            if word.startswith(_LOGS):
                self._logs = Path(word.removeprefix(_LOGS))
        return process

    def get_node(self, address: str, node: str) -> dict[str, Any]:
        """Return what Ray knows of a node, as Ray's own function does, which waits half a minute whatever happens.

        It is asked for in a thread of its own, since Ray does not answer while its server is gone.

        Raises:
            SearchError: a process has died, so that there is nothing to wait for.
            RuntimeError: the node is not there in time.
        """
        there, over = Event(), Event()
        Thread(target=_wait_for, args=[address, node, there, over], daemon=True).start()
        end = time.monotonic() + _START_SECONDS
        try:
            while not there.wait(_POLL_SECONDS):
                if fault := self.fault():
                    raise SearchError(fault)
                if time.monotonic() > end:
                    raise RuntimeError(f"no node {node}")
        finally:
            over.set()
        return self._get_node(address, node)

    def fault(self) -> str:
        """Return which process died as Ray started, and the log to read; a raylet names an agent that it needs."""
        text = "".join(_read(self._logs / f"raylet.{kind}") for kind in ("err", "out"))
        if agent := _AGENT.search(text):
            name, how = agent[1], "ended"
        elif dead := self._dead():
            name, how = dead
        else:
            return ""
        logs = [self._logs / f"{name}.{kind}" for kind in ("err", "log", "out")]
        log = next((log for log in logs if _read(log).strip()), logs[0])
        last = (_read(log).strip().splitlines() or ["nothing"])[-1].strip()
        last = f"{last[:_LONGEST_LINE]}{'...' if len(last) > _LONGEST_LINE else ''}"
        return f"Ray did not start: its {name} {how}.\nSee {log}, which ends with: {last}"

    def death(self) -> str:
        """Return which of them has ended, and how, "" while they run: "its raylet was ended by SIGKILL"."""
        dead = self._dead()
        return f"its {dead[0]} {dead[1]}" if dead else ""

    def end(self) -> None:
        """End what is left of a start that failed."""
        for process in self._started.values():
            process.terminate()
            process.wait()

    def _dead(self) -> tuple[str, str] | None:
        for name, process in self._started.items():
            code = process.poll()
            if code is not None:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return name, how
        return None


def _wait_for(address: str, node: str, there: Event, over: Event) -> None:
    """Set ``there`` once Ray knows the node; where it never does, ``over`` ends this, or Ray's server is gone."""
    state = GlobalState()
    state._initialize_global_state(services._get_gcs_client_options(address))
    with suppress(RaySystemError):  # it could not be connected to
        while not any(known["NodeID"] == node for known in state.node_table()):
            if over.wait(_POLL_SECONDS):
                return
        there.set()


def short_folder(say: Callable[[str], None]) -> str | None:
    """Return a new folder for Ray where its own is too deep for the paths of sockets, None where it is not.

    Raises:
        UsageError: there is no short one.
    """
    parent = get_default_system_temp_dir()
    most = _SOCKET_BYTES - len(f"/ray/{_SOCKET}")
    if len(os.fsencode(parent)) <= most:
        return None
    too_long = f"Ray needs a temporary folder whose path has at most {most} bytes, but got {parent}"
    try:
        folder = tempfile.mkdtemp(prefix="ray-", dir=_SHORT)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(
            f"{too_long}; {_SHORT} cannot be used: {reason}.\nSet RAY_TMPDIR to a shorter one."
        ) from error
    say(f"{too_long}: Ray takes {folder}.")
    return folder


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
