"""The processes of a Ray that this machine starts: their process groups, exits and logs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from vae_tune.config.compat.ray import (
    detect_fate_sharing_support,
    get_node,
    wait_for_node,
)
from vae_tune.config.errors import SearchError

_AGENT = re.compile(r"because one Ray agent failed, agent_name = (\w+)")
"""A raylet logs this before it exits too, which can take 15 seconds."""
_TOO_SLOW = "Timed out waiting for file"
_LOGS = "--log_dir="
_LONGEST_LINE = 160
_START_SECONDS = 30.0
_POLL_SECONDS = 0.05

NO_TASK = "Ray has died: it no longer runs tasks."


class RayDied(BaseException):
    """Ray no longer runs anything; the text says why.

    It is not an Exception: on those, Ray Tune first waits for its trials for up to a minute, but Ray's core ends this
    process within five seconds of its raylet's death.
    """


class _IsolatedProcess(subprocess.Popen[bytes]):
    """A process that does not receive this process's SIGTERM, SIGUSR1 or Ctrl-C.

    ``timeout`` and a terminal send these to the process group, Slurm and systemd to every process of a control group;
    and Ray's core ends this process at once if its raylet obeys one. So only SIGKILL ends it; sent to its group, since
    the agents of a raylet take a minute to notice that it is gone.
    """

    def __init__(self, command: list[str], preexec_fn: Callable[[], None] | None = None, **options: Any):
        def block() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
            if preexec_fn:
                preexec_fn()

        super().__init__(command, preexec_fn=block, process_group=0, **options)

    def terminate(self) -> None:
        """Kill its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class RayProcesses:
    """The processes of one start of Ray."""

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = Path()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process, isolated if Ray makes it exit together with this process; called by Ray."""
        kind = _IsolatedProcess if detect_fate_sharing_support() else subprocess.Popen
        process = kind(command, **options)
        self._started[Path(command[0]).name] = process
        for word in command:
            if word.startswith(_LOGS):
                self._logs = Path(word.removeprefix(_LOGS))
        return process

    def get_node(self, address: str, node: str) -> dict[str, Any]:
        """Return what Ray knows of a node, as Ray's own function does, but without waiting if a process has exited.

        A thread asks for it, since Ray does not answer while its server is down. Raises SearchError if a process has
        exited, RuntimeError if the node did not appear in time.
        """
        found, canceled = Event(), Event()
        Thread(target=wait_for_node, args=[address, node, found, canceled], daemon=True).start()
        end = time.monotonic() + _START_SECONDS
        try:
            while not found.wait(_POLL_SECONDS):
                if error := self.start_error():
                    raise SearchError(error)
                if time.monotonic() > end:
                    raise RuntimeError(f"no node {node}")
        finally:
            canceled.set()
        return get_node(address, node)

    def start_error(self) -> str:
        """Return which process exited while Ray was starting and its log file, "" if none did.

        The process may be one that the raylet's log blames: an agent that it needs.
        """
        text = "".join(_read(self._logs / f"raylet.{kind}") for kind in ("err", "out"))
        agent = _AGENT.search(text)
        exited = (agent[1], "ended") if agent else self.exited()
        if exited is None:
            return ""
        name, how = exited
        logs = [self._logs / f"{name}.{kind}" for kind in ("err", "log", "out")]
        log = next((log for log in logs if _read(log).strip()), logs[0])
        last = (_read(log).strip().splitlines() or ["nothing"])[-1].strip()
        last = f"{last[:_LONGEST_LINE]}{'...' if len(last) > _LONGEST_LINE else ''}"
        return f"Ray did not start: its {name} {how}.\nSee {log}, which ends with: {last}"

    def were_too_slow(self) -> bool:
        """Return whether the raylet ended because an agent that it needs took too long to start."""
        return _TOO_SLOW in _read(self._logs / "raylet.err")

    def kill(self) -> None:
        """Kill what is left of a failed start."""
        for process in self._started.values():
            process.terminate()
            process.wait()

    def exited(self) -> tuple[str, str] | None:
        """Return which process has exited and how, such as "raylet" and "was ended by SIGKILL"; None while all run."""
        for name, process in self._started.items():
            if (code := process.poll()) is not None:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return name, how
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
