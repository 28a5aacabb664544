"""Ray itself: starting or joining it, quietly, and how many trials fit on it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import ray.exceptions

from vae_tune.cluster.auth_token import protect
from vae_tune.cluster.ray_processes import Processes, RayDied, short_folder
from vae_tune.cluster.slots import count_slots
from vae_tune.config.compat.ray import (
    NvidiaGPUAcceleratorManager,
    parameter,
    ray_constants,
    services,
    tune,
    utils,
    worker,
)
from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.settings import ResourceConfig, SearchError, UsageError

_PRELOAD = "vae_tune.cluster.worker_preload"
_STARTS = 3
_TOO_SLOW = "timed out during startup"
_KNOCK_SECONDS = 10
_PING_SECONDS = 20
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # Ray Tune imports MLflow wherever it is installed
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the view is ours
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record is ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Ray's own state is never read: resume asks the study
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class RunningRay:
    """The Ray that a search runs on."""

    def __init__(self, start: Callable[[], Processes] | None = None):
        """Start it with ``start`` where it is this process's own; it can be started again then."""
        self.log = RayLog()
        self._start = start
        self._processes = start() if start else None

    @property
    def can_restart(self) -> bool:
        """Whether it may be started again: a cluster that was joined is not ours to start."""
        return self._start is not None

    def check(self) -> None:
        """Raise RayDied if a process that was started for it has ended. It costs next to nothing."""
        if self._processes and (death := self._processes.death()):
            raise RayDied(f"Ray has died: {death}.")

    def restart(self) -> None:
        """Start it again after it has died; signals are heeded as before, though Ray puts a handler of its own there.

        Raises:
            RayDied: it does not start; what killed its processes may still be there.
        """
        heeded = signal.getsignal(signal.SIGTERM)
        _end()
        if self._start:
            try:
                self._processes = self._start()
            except SearchError as error:
                raise RayDied(f"{' '.join(str(error).splitlines()).rstrip('.')}.") from error
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, heeded)


@contextmanager
def running_ray(config: ResourceConfig, say: Callable[[str], None] = lambda _: None) -> Iterator[RunningRay]:
    """Start Ray on this machine, bound to loopback, or join the cluster at ``config.address``.

    A Ray that runs in this process already is used and left running. ``say`` hears what is not as usual.

    Raises:
        UsageError: there is no cluster at that address, or no folder for a Ray of this machine.
        SearchError: Ray does not start.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        if config.address is not None:
            raise UsageError(f"Ray runs in this process already: leave out address {config.address!r}.")
        yield RunningRay()
        return
    with ExitStack() as running:
        if config.address is None:
            folder = short_folder(say)
            started = RunningRay(partial(_start, config, folder))
            if folder:  # that of a start that failed has logs to read
                running.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            started = RunningRay()
            _join(config.address)
        running.callback(_end)
        running.enter_context(_lean_tune(local=config.address is None))
        yield started


def _join(address: str) -> None:
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, runtime_env=_own_code())
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"No Ray cluster at address {address!r}: {reason}") from error


def _end() -> None:
    with suppress(ray.exceptions.RayError, OSError, RuntimeError):  # a Ray that has died cannot be ended
        ray.shutdown()


def _start(config: ResourceConfig, folder: str | None) -> Processes:
    """Start Ray; again where the half minute that it gives itself was not enough for a busy machine.

    Without the autoscaler's monitor, which has no nodes to add here, the log monitor, whose lines nobody reads, and
    the dashboard with what reports to it: each is a Python process that needs a core just when the first trials want
    to start. And on loopback: where Ray knows clusters, so not on macOS, it replaces a loopback address by the
    machine's own, and its servers then listen on every address.

    Ray is told of no more CPUs than the trials get, and starts a worker for each before it is asked for one. Where
    each will train, it imports what a trial needs at once, while this process is still busy with the study.
    """
    protect()
    cpus = usable_cpus()
    trials = count_slots([{"CPU": cpus, "GPU": _gpus()}], config).count  # none: find_slots says why
    cpus = trials * config.cpus_per_trial or cpus
    each_trains = trials == cpus
    # Ray has no public option for these, and takes the second for a text
    lean = partial(parameter.RayParams, no_monitor=True, include_log_monitor=False)  # type: ignore[arg-type]
    for _ in range(_STARTS):
        processes = Processes()
        try:
            with (
                mock.patch.object(services, "ConsolePopen", processes.start),
                mock.patch.object(services, "get_node", processes.get_node),
                mock.patch.object(parameter, "RayParams", lean),
                mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),
                mock.patch.object(services, "start_api_server", _no_server),
                mock.patch.object(utils, "get_dashboard_dependency_error", _no_dashboard),
                mock.patch.object(worker, "listen_error_messages", _no_lines),
            ):
                ray.init(
                    "local",
                    include_dashboard=False,
                    log_to_driver=False,
                    num_cpus=cpus,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=folder,
                    _system_config={"preload_python_modules": [_PRELOAD]} if each_trains else None,
                )
        except Exception as error:  # Ray raises no more special one
            fault = processes.fault()
            processes.end()
            if fault or isinstance(error, OSError):
                raise SearchError(fault or f"Ray did not start: {error}.") from error
            if _TOO_SLOW not in str(error):
                raise
        else:
            return processes
    raise SearchError(
        f"Ray did not start, {_STARTS} times, within the 30 seconds that it waits: this machine is too busy.\n"
        "End other work, and try again."
    )


def _gpus() -> int:
    """Return how many NVIDIA GPUs Ray will find on this machine; of other makes it finds more."""
    visible = NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids()
    there = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return there if visible is None else min(there, len(visible))


def _own_code() -> dict[str, Any]:
    """Return what makes workers on other machines run the code of this process, whatever is installed there."""
    # workers get their images from the object store
    return {"py_modules": [str(Path(__file__).parents[1])], "excludes": ["images/mnist/", "__pycache__/"]}


@contextmanager
def _lean_tune(*, local: bool) -> Iterator[None]:
    """Keep Tune from what makes a search start late.

    It counts callbacks for its makers, though that is turned off, and for this imports MLflow where it is installed.
    And it gives its actors an environment of their own, so that they cannot take the workers that wait for them; it
    holds variables that the workers of this machine inherit from here anyway, and one for PyTorch Lightning.
    """
    usage, class_cache = tune()
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(usage, "tag_callbacks", _no_count))
        if local:
            patches.enter_context(
                mock.patch.multiple(class_cache, DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset())
            )
        yield


def _no_count(_: object) -> bool:
    return False


def _no_lines(*_: object) -> None:
    """Print nothing of what Ray says of its processes: where one dies, the search says so in a line of its own."""


def _no_server(*_: Any, **__: Any) -> tuple[str, None]:
    return "", None  # its address and its process


def _no_dashboard() -> ImportError:
    return ImportError("a search has no use for it")


def _knock(address: str) -> None:
    """Try a plain connection to host:port, since Ray tries for minutes where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def ray_is_alive() -> bool:
    """Whether Ray still runs anything: a task that does nothing is tried.

    Ray's own list of nodes is not asked: it takes a while to notice that a node is gone.
    """
    try:
        return bool(ray.get(ray.remote(num_cpus=0)(_nothing).remote(), timeout=_PING_SECONDS))
    except (ray.exceptions.RayError, RuntimeError, OSError):
        return False


def _nothing() -> bool:
    return True


class RayLog:
    """Holds back what Ray logs in the driver until there is a file for it."""

    def __init__(self) -> None:
        self._handler = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        logger = logging.getLogger("ray")
        logger.handlers = [self._handler]
        logger.propagate = False

    def write_to(self, path: Path) -> None:
        """Send all of it to ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._handler.setTarget(file)
        self._handler.flush()
        logging.getLogger("ray").handlers = [file]
