"""A process that imports all that a trial needs, once, and forks the workers of a Ray of this machine.

Python, torch and Ray then lie in memory once for all workers, and a worker starts in the time of a fork instead of
seconds of imports. Ray itself only starts a command for each worker, :mod:`vae_tune.cluster.worker_launcher`. It asks
for a fork; where there is no server, it starts an ordinary worker.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import NoReturn

from vae_tune.cluster.ray_environment import set_ray_environment
from vae_tune.cluster.worker_launcher import SOCKET

_LAUNCHER = Path(__file__).with_name("worker_launcher.py")
_CAN_FORK = sys.platform == "linux"
"""macOS ends a process that was forked after it had loaded some of its libraries."""
_MODULES = ("vae_tune.cluster.worker_preload",)
_MAIN = """
import json, os, sys
os.environ["RAY_RAYLET_PID"] = str(os.getpid())  # with which a worker ends; read once too
sys.path[:] = json.loads(sys.argv[3])
from vae_tune.cluster.worker_server import serve
serve(int(sys.argv[1]), json.loads(sys.argv[2]))
"""
_VARIABLES = {"RAY_JOB_ID": "ffffffff"}
"""Ray reads it once, when it is imported, and not again in a fork: the job of a worker that waits for its job."""
_LATER = {signal.SIGTERM, signal.SIGUSR1}
"""Signals that Ray's processes and its workers do not receive: see :mod:`vae_tune.cluster.ray_processes`."""


class WorkerServer:
    """The server, seen from the process that starts Ray; it ends with that process."""

    def __init__(self, modules: Sequence[str] = _MODULES) -> None:
        """Start the process, which begins by importing ``modules``."""
        self._control, other = socket.socketpair()
        command = [sys.executable, "-c", _MAIN, str(other.fileno()), json.dumps(modules), json.dumps(sys.path)]
        set_ray_environment()
        null, variables = subprocess.DEVNULL, os.environ | _VARIABLES
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LATER)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=null,
                stdout=null,
                stderr=null,
                env=variables,
                pass_fds=[other.fileno()],
                process_group=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            other.close()

    def listen(self, folder: Path) -> str:
        """Fork workers for the Ray whose folder this is; return the path of its launcher.

        If the server has ended, each worker starts by itself.
        """
        with socket.socket(socket.AF_UNIX) as listener:
            (folder / SOCKET).unlink(missing_ok=True)
            listener.bind(str(folder / SOCKET))
            listener.listen()
            with suppress(ConnectionError):
                socket.send_fds(self._control, [b"."], [listener.fileno()])
        return str(_LAUNCHER)

    def end(self) -> None:
        """End the server; workers that it has forked go on."""
        self._control.close()
        self._process.kill()
        self._process.wait()


_early: list[WorkerServer] = []


@contextmanager
def started_early(address: str | None) -> Iterator[None]:
    """Start the server while this process imports what a search needs; end it unless the block has taken it.

    ``address`` is that of the cluster to join: there is a server for a Ray of this machine alone.
    """
    if _CAN_FORK and address is None:
        _early.append(WorkerServer())
    try:
        yield
    finally:
        while _early:
            _early.pop().end()


@contextmanager
def worker_server() -> Iterator[WorkerServer | None]:
    """Yield the server that was started early, else a new one, and end it; None where it cannot fork safely."""
    server = None
    if _CAN_FORK:
        server = _early.pop() if _early else WorkerServer()
    try:
        yield server
    finally:
        if server:
            server.end()


def serve(control: int, modules: Sequence[str]) -> None:
    """Fork a worker for each launcher that connects, until the process at the other end of ``control`` has ended."""
    gc.disable()  # it would add a quarter to the time of these imports
    for module in modules:
        import_module(module)
    gc.freeze()  # a collection in a worker would write to all objects, and so copy their memory
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies
    listener: socket.socket | None = None
    with socket.socket(fileno=control) as driver:
        while True:
            ready, _, _ = select.select([driver, *([listener] if listener else [])], [], [])
            if driver in ready:
                said, descriptors, _, _ = socket.recv_fds(driver, 1, 1)
                if not said:
                    return
                if listener:
                    listener.close()
                listener = socket.socket(fileno=descriptors[0])
            elif listener:
                connection, _ = listener.accept()
                with connection:
                    if os.fork() == 0:
                        driver.close()
                        listener.close()
                        _become_worker(connection)


def _become_worker(launcher: socket.socket) -> NoReturn:
    """Take over the launcher's place in its system, and run Ray's own script of a worker.

    The connection stays open until the worker ends, and with it the launcher.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, descriptors, _, _ = socket.recv_fds(launcher, 1, 3)
    with launcher.makefile() as lines:
        request = json.loads(lines.readline())
    launcher.sendall(b".")
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(request["environment"])
    with suppress(OSError):  # raised where the launcher has ended
        os.setpgid(0, request["group"])
        os.setpriority(os.PRIO_PROCESS, 0, request["niceness"])
        Path("/proc/self/oom_score_adj").write_text(request["oom_score"])
    os.chdir(request["folder"])
    if raylet := os.environ.get("RAY_RAYLET_PID"):
        Thread(target=_end_with, args=[int(raylet)], daemon=True).start()
    if private_ray := sys.modules.get("vae_tune.config.compat.ray"):
        private_ray.read_token_mode()
    if numpy := sys.modules.get("numpy"):  # Python draws a new state for its own generator at a fork
        numpy.random.seed()
    sys.argv = request["words"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def _end_with(process: int) -> None:
    """End this process when that one has ended."""
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(process)], [], [])
    os._exit(1)
