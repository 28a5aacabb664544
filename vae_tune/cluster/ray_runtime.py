"""Start Ray on this machine, or join a cluster; tell whether it still runs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path

import ray
import ray.exceptions

from vae_tune.cluster.auth_token import ensure_private_token
from vae_tune.cluster.gpus import Gpu, choose_gpus, only
from vae_tune.cluster.node_resources import own_resources
from vae_tune.cluster.ray_environment import set_ray_environment
from vae_tune.cluster.ray_folder import RayFolder, create_ray_folder, is_ray_folder
from vae_tune.cluster.ray_processes import RayDied, RayProcesses
from vae_tune.cluster.slots import count_slots
from vae_tune.cluster.slurm import NodeSteps, noticed_cancel, own_address, this_job, use_own_token
from vae_tune.cluster.worker_server import WorkerServer, worker_server
from vae_tune.config.compat.ray import (
    bootstrap_address,
    start_local,
    use_token_file,
)
from vae_tune.config.compat.ray_tune import lean_tune
from vae_tune.config.errors import SearchError, UsageError, telling_line
from vae_tune.config.machine_limits import niceness
from vae_tune.config.settings import SLURM, ResourceConfig

_PRELOAD = "vae_tune.cluster.worker_preload"
_STARTS = 3
_TOO_SLOW = "timed out during startup"
_CONNECT_SECONDS = 10
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""RFC 9113, section 3.4: the preface of a connection, and a SETTINGS frame (type 4), which a server answers by one."""
_PING_SECONDS = 20
_OWN_CODE = {"py_modules": [str(Path(__file__).parents[1])], "excludes": ["images/mnist/", "__pycache__/"]}
"""The code for workers on other machines; they get the images from the object store."""


@contextmanager
def running_ray(
    config: ResourceConfig,
    say: Callable[[str], None] = lambda _: None,
    interrupt: Callable[[], None] = lambda: None,
) -> Iterator[RunningRay]:
    """Start Ray on this machine, bound to loopback, or join the cluster at ``config.address``.

    The address "slurm" starts Ray on all nodes of this Slurm job; ``interrupt`` is called when the job is ended.
    A Ray that this process already runs is used, and left running. ``say`` gets a line about a cluster to join, and
    about nodes that are lost. Raises UsageError if there is no cluster at that address, or no folder for a Ray of this
    machine, SearchError if Ray does not start.
    """
    set_ray_environment()
    if ray.is_initialized():
        if config.address is not None:
            raise UsageError(f"Ray runs in this process already: leave out address {config.address!r}.")
        yield RunningRay()
        return
    with ExitStack() as running:
        if config.address is None:
            gpus, folder = choose_gpus(config, say), create_ray_folder()
            running.push(partial(_delete_unless_failed, folder))
            server = running.enter_context(worker_server())
            started = RunningRay(partial(_start, config, folder, server, gpus), gpus=gpus)
        elif config.address == SLURM:
            started = running.enter_context(_ray_of_job(config, say, interrupt))
        else:
            started = RunningRay(servers=_join(config.address, say))
        running.callback(_shut_down)
        running.enter_context(lean_tune(local=config.address in (None, SLURM)))
        yield started


def _delete_unless_failed(folder: RayFolder, kind: type[BaseException] | None, *_: object) -> None:
    """Delete the folder of a Ray; keep it, for its logs, if Ray did not start or a search failed."""
    if kind is None or issubclass(kind, (UsageError, KeyboardInterrupt, SystemExit)):
        folder.delete()


@contextmanager
def _ray_of_job(
    config: ResourceConfig, say: Callable[[str], None], interrupt: Callable[[], None]
) -> Iterator[RunningRay]:
    """Start Ray on this node of a Slurm job and let the others join; what it needs is the job's own."""
    job = this_job()
    use_own_token()
    ip, steps, folder = own_address(job), NodeSteps(job, say), create_ray_folder()

    def start(server: WorkerServer | None) -> RayProcesses:
        processes = _start_here(config, folder, server, ip)
        steps.join(ray.get_runtime_context().gcs_address)
        return processes

    with ExitStack() as running:
        running.push(partial(_delete_unless_failed, folder))
        server = running.enter_context(worker_server())
        running.enter_context(noticed_cancel(job, interrupt))
        running.callback(steps.end)
        yield RunningRay(partial(start, server))


class RunningRay:
    """The Ray that a search runs on."""

    def __init__(
        self,
        start: Callable[[], RayProcesses] | None = None,
        servers: Sequence[str] = (),
        gpus: Sequence[Gpu] = (),
    ):
        """Start it by calling ``start``, which can be repeated; without it, use one that runs already.

        ``servers`` are the addresses, host:port, without which a Ray that was joined is of no use. ``gpus`` are those
        that were chosen for a Ray of this machine; none where it takes all.
        """
        self._servers = servers
        self.gpus = gpus
        self.log = RayLog()
        self._start = start
        self._processes = start() if start else None

    @property
    def can_restart(self) -> bool:
        """Whether this process started it: a cluster that it joined is not its own to restart."""
        return self._start is not None

    def answers(self) -> bool:
        """Return whether the servers of a cluster that was joined still accept connections."""
        try:
            for server in self._servers:
                _check_server(server)
        except OSError:
            return False
        return True

    def check(self) -> None:
        """Raise RayDied if one of the processes of a Ray of this machine has exited. This costs next to nothing."""
        if self._processes and (exited := self._processes.exited()):
            raise RayDied(f"Ray has died: its {' '.join(exited)}.")

    def restart(self) -> None:
        """Start Ray again after it has died, and put back this process's handler of SIGTERM, which Ray replaces.

        Raises RayDied if it does not start; whatever killed its processes may still be there.
        """
        handler = signal.getsignal(signal.SIGTERM)
        _shut_down()
        if self._start:
            try:
                self._processes = self._start()
            except SearchError as error:
                raise RayDied(f"{' '.join(str(error).splitlines()).rstrip('.')}.") from error
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)


def _start(
    config: ResourceConfig, folder: RayFolder, server: WorkerServer | None, gpus: Sequence[Gpu]
) -> RayProcesses:
    """Start a Ray that only this machine can reach."""
    ensure_private_token()
    return _start_here(config, folder, server, "127.0.0.1", gpus)


def _start_here(
    config: ResourceConfig, folder: RayFolder, server: WorkerServer | None, ip: str, gpus: Sequence[Gpu] = ()
) -> RayProcesses:
    """Start Ray, whose workers ``server`` forks; try again if the half minute that Ray allows was too short.

    Ray gets no more CPUs than the trials use. Without a server, it starts one worker per CPU before any is requested;
    if each of these will train, it imports all that a trial needs at once, while this process prepares the study.
    """
    own = own_resources()
    own = replace(own, gpus=len(gpus) or own.gpus)
    trials = count_slots([{"CPU": own.cpus, "GPU": own.gpus or 0}], config).count  # if 0, find_slots reports it later
    resources = replace(own, cpus=trials * config.cpus_per_trial or own.cpus)
    preload = [_PRELOAD] if server is None and trials == resources.cpus else []
    for _ in range(_STARTS):
        processes = RayProcesses()
        try:
            launcher = server.listen(folder.path) if server else None
            with only(gpus):
                path = str(folder.path)
                start_local(resources, path, launcher, preload, processes.start, processes.get_node, ip)
        except Exception as error:  # Ray raises nothing more specific
            message, too_slow = processes.start_error(), processes.were_too_slow()
            processes.kill()
            if not too_slow and (message or isinstance(error, OSError)):
                raise SearchError(message or f"Ray did not start: {error}.") from error
            if not too_slow and _TOO_SLOW not in str(error):
                raise
        else:
            return processes
    raise SearchError(
        f"Ray did not start, {_STARTS} times, within the time that it waits: this machine is too busy.\n"
        "End other work, and try again."
    )


def _join(address: str, say: Callable[[str], None]) -> list[str]:
    """Connect to a cluster if a server answers there: if none does, Ray retries and prints lines for minutes.

    Return the addresses of the servers that this process depends on.
    """
    try:
        found = bootstrap_address(address, is_ray_folder)
        say(f"Joining the Ray cluster at {found} ...")
        _check_server(found)
        if address == "auto":
            use_token_file()
        ray.init(address if "://" in address else found, log_to_driver=False, runtime_env=_OWN_CODE)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"No Ray cluster at address {address!r}: {telling_line(error)}") from error
    _compare_niceness(say)
    if "://" in address:
        return [found]
    own = ray.get_runtime_context().get_node_id()
    here = [node for node in ray.nodes() if node["NodeID"] == own]
    return [found, *(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}" for node in here)]


def _compare_niceness(say: Callable[[str], None]) -> None:
    """Have ``say`` get a line, as soon as a worker answers, if workers have a higher niceness than this process."""
    own = niceness()

    def compare(answer: Future[int]) -> None:
        if answer.exception() is None and answer.result() > own:
            say(
                f"The cluster's workers have niceness {answer.result()}, this command has {own}: "
                "on a shared machine, other programs get the CPUs first.\n"
                "To change that, start Ray on each node with RAY_worker_niceness=0."
            )

    ray.remote(num_cpus=0)(niceness).remote().future().add_done_callback(compare)


def _check_server(address: str) -> None:
    """Raise OSError unless a gRPC server answers at ``address``, host:port."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):  # as Ray reads it
            return
        connection.sendall(_HTTP2_GREETING)
        if connection.recv(4, socket.MSG_WAITALL)[3:] != b"\x04":
            raise ConnectionError("what listens there is not Ray")


def _shut_down() -> None:
    with suppress(ray.exceptions.RayError, OSError, RuntimeError):  # raised for a Ray that has died
        ray.shutdown()


def ray_is_alive() -> bool:
    """Return whether Ray still runs a task that does nothing.

    Ray's own list of nodes would not do: it takes a while to notice that a node is gone.
    """
    try:
        return bool(ray.get(ray.remote(num_cpus=0)(lambda: True).remote(), timeout=_PING_SECONDS))
    except (ray.exceptions.RayError, RuntimeError, OSError):
        return False


class RayLog:
    """Holds back what Ray logs in this process until there is a file for it."""

    def __init__(self) -> None:
        self._handler = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        logger = logging.getLogger("ray")
        logger.handlers = [self._handler]
        logger.propagate = False

    def write_to(self, path: Path) -> None:
        """Write all of it to ``path``, from now on directly."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._handler.setTarget(file)
        self._handler.flush()
        logging.getLogger("ray").handlers = [file]
