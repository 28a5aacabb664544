"""Private parts of Ray, checked with Ray 2.60: they are why pyproject.toml allows this one minor release.

No public name does what these do, and any release may change them. Allow another release when all tests pass with it,
those in tests/system too: these start Ray in each of the ways in which a search does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ray
import ray._raylet
import ray.actor
from ray._private import parameter, ray_constants, services, utils, worker
from ray._private.accelerators import NvidiaGPUAcceleratorManager
from ray._private.authentication import authentication_token_setup, authentication_utils
from ray._private.node import Node
from ray._private.state import GlobalState, state
from ray.exceptions import RaySystemError
from ray.experimental import internal_kv

from vae_tune.config.cuda_devices import visible_devices

_POLL_SECONDS = 0.05
_raylet: Any = ray._raylet
_GCS_ADDRESS, _TEMP_DIR = "--gcs-address=", "--temp_dir="
_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
"""Options of a raylet."""
_AGENT_PORTS = (
    _raylet.METRICS_AGENT_PORT_NAME,
    _raylet.METRICS_EXPORT_PORT_NAME,
    _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    _raylet.RUNTIME_ENV_AGENT_PORT_NAME,
)
_IDLE = "/bin/cat"
_LEAN = {"RAY_enable_pipe_based_agent_to_parent_health_check": "1", "RAY_prestart_worker_first_driver": "0"}
"""Variables of a raylet whose agents are idle, and whose workers start when they are needed."""

detect_fate_sharing_support: Callable[[], bool] = utils.detect_fate_sharing_support
is_token_auth_enabled: Callable[[], bool] = authentication_utils.is_token_auth_enabled
get_node: Callable[[str, str], dict[str, Any]] = services.get_node
"""Return what the Ray at an address knows of a node; wait for up to half a minute for it."""


def read_token_mode() -> None:
    """Let Ray read again whether connections need a token: it reads the environment once, when it is imported."""
    _raylet.Config.initialize("")


@contextmanager
def fork_safe_imports() -> Iterator[None]:
    """Let no import draw from Ray's random generator: two forks would draw the same IDs, and one of them ends.

    Ray draws an ID for each class of actors, and seeds its generator, once a thread, when it draws the first.
    """

    def draw() -> Any:
        return _raylet.ActorClassID(os.urandom(_raylet.ActorClassID.size()))

    with mock.patch.object(ray.actor, "ActorClassID", SimpleNamespace(from_random=draw)):
        yield


def draining_nodes() -> Mapping[str, int]:
    """Return the deadlines, by node ID, of the nodes that are about to be taken away."""
    nodes: Mapping[str, int] = state.get_draining_nodes()
    return nodes


def write_mark(name: str, value: bool) -> None:
    """Set a mark that every process of this Ray can read."""
    internal_kv._internal_kv_put(name, str(value), overwrite=True)


def read_mark(name: str) -> bool:
    """Return whether a mark is set."""
    return bool(internal_kv._internal_kv_get(name) == b"True")


def use_token_file() -> None:
    """Use this user's token, if there is one, unless RAY_AUTH_MODE is set; ``ray.init`` does so for "auto" only."""
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def bootstrap_address(address: str, is_private: Callable[[Path], bool]) -> str:
    """Return the host:port of the Ray at an address, given for instance "auto"; RAY_ADDRESS replaces that.

    For "auto", Ray would take the one that was started last, of any user: here only those of this user count, and of
    them none whose folder ``is_private``: it ends with the search that started it. Raises ValueError if the address is
    malformed, OSError if no Ray was found or the host is unknown.
    """
    if address.startswith("ray://"):
        return address.removeprefix("ray://")
    if address == "auto" and not os.environ.get(ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE):
        address = _own_address(is_private)
    found: str = services.canonicalize_bootstrap_address_or_die(address)
    return found


def _own_address(is_private: Callable[[Path], bool]) -> str:
    """Return the address of this user's Ray on this machine, of several that of the last ``ray start``."""
    found = list(running_rays())
    own = [one for one in found if one.user == os.getuid()]
    if shared := sorted(one.address for one in own if not is_private(one.folder)):
        last = None
        with suppress(OSError):  # another user's file
            last = utils.read_ray_address()
        return last if last in shared else shared[0]
    if own:
        raise OSError(f"{_listed(own)} belongs to a search, and ends with it.")
    if found:
        raise OSError(f"{_listed(found)} belongs to another user.")
    raise OSError("no Ray runs on this machine.")


def _listed(rays: Sequence[FoundRay]) -> str:
    return ", ".join(sorted({one.address for one in rays}))


@dataclass(frozen=True)
class FoundRay:
    """A Ray that has a process on this machine."""

    address: str
    """host:port of its head."""
    user: int
    folder: Path
    """In which it keeps its files."""


def running_rays() -> Iterator[FoundRay]:
    """Yield the Rays that run on this machine, of all users, from the command lines of their raylets."""
    for process in services.psutil.process_iter(["cmdline", "uids"]):  # type: ignore[attr-defined]
        command = process.info["cmdline"] or []
        if services._is_raylet_process(command) and process.info["uids"]:
            address, folder = (
                next((word.removeprefix(option) for word in command if word.startswith(option)), "")
                for option in (_GCS_ADDRESS, _TEMP_DIR)
            )
            if address:
                yield FoundRay(address, process.info["uids"].real, Path(folder))


def visible_gpus() -> int | None:
    """Return how many NVIDIA GPUs, or instances of partitioned ones, this process may use; None if there are none.

    Ray finds GPUs of other makes by itself. Of NVIDIA's, it would also count what CUDA ignores, such as "-1", and of
    the instances of a partitioned GPU only one.
    """
    installed = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    variable = os.environ.get(NvidiaGPUAcceleratorManager.get_visible_accelerator_ids_env_var())
    return len(visible_devices(variable, installed)) if installed else None


def object_store_bytes(memory: int) -> int:
    """Return the size of the object store on a machine with so many bytes of memory to use: by default 30% of them."""
    size: int = utils.resolve_object_store_memory(memory)
    return max(size, ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES)


@dataclass(frozen=True)
class NodeResources:
    """What Ray may use of a machine; None: what it finds itself."""

    cpus: int
    gpus: int | None
    store: int | None
    """Bytes of the object store."""
    memory: int | None
    """Bytes for trials."""


def start_local(
    resources: NodeResources,
    folder: str,
    launcher: str | None,
    preload: Sequence[str],
    start_process: Callable[..., Any],
    get_node: Any,
    ip: str = "127.0.0.1",
) -> None:
    """Start Ray on this machine and connect to it. It keeps its files in ``folder``.

    It starts without the autoscaler's monitor (there are no nodes to add), the log monitor (nobody reads its lines)
    and the dashboard with its agents: each is a Python process that takes a core while the first trials start. And it
    starts on loopback: where Ray supports clusters, so not on macOS, it replaces a loopback address by the machine's
    own, and its servers then listen on every address. Other nodes can join if ``ip`` is another address of this
    machine. ``start_process`` and ``get_node`` replace Ray's own functions.

    ``launcher`` replaces Ray's script that starts a worker; each worker then starts when Ray needs it. Else they start
    before, and each imports the modules in ``preload`` before its first task.
    """
    lean = partial(
        parameter.RayParams,
        no_monitor=True,
        include_log_monitor=False,  # type: ignore[arg-type]
        setup_worker_path=launcher,
    )
    with (
        _few_processes(launcher, start_process, get_node),
        mock.patch.object(services, "start_api_server", return_value=("", None)),  # its address and its process
        mock.patch.object(parameter, "RayParams", lean),
        mock.patch.object(worker, "listen_error_messages", return_value=None),  # a dying raylet prints through it
    ):
        ray.init(
            "local",
            include_dashboard=False,
            log_to_driver=False,
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            object_store_memory=resources.store,
            _memory=resources.memory,
            _node_ip_address=ip,
            _temp_dir=folder,
            _system_config={"preload_python_modules": list(preload)} if preload else None,
        )


def start_node(
    address: str,
    ip: str,
    resources: NodeResources,
    folder: str,
    launcher: str | None,
    start_process: Callable[..., Any],
    get_node: Any,
) -> None:
    """Start Ray on this machine as a further node of the Ray at ``address``, as lean as :func:`start_local`."""
    params = parameter.RayParams(
        gcs_address=address,
        node_ip_address=ip,
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        object_store_memory=resources.store,
        memory=resources.memory,
        temp_dir=folder,
        setup_worker_path=launcher,
        include_log_monitor=False,  # type: ignore[arg-type]
    )
    with _few_processes(launcher, start_process, get_node):
        Node(params, head=False, shutdown_at_exit=False, spawn_reaper=True)


@contextmanager
def _few_processes(launcher: str | None, start_process: Callable[..., Any], get_node: Any) -> Iterator[None]:
    start = partial(_start_lean, start_process) if launcher else start_process
    with (
        mock.patch.multiple(services, ConsolePopen=start, get_node=get_node),
        mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),
        mock.patch.object(utils, "get_dashboard_dependency_error", return_value=ImportError("unused")),
    ):
        yield


def _start_lean(start_process: Callable[..., Any], command: list[str], **options: Any) -> Any:
    """Start a process of Ray, a raylet without its agents: two Python processes that nothing here asks for anything.

    A raylet waits until each has written its ports, -1 where it serves nothing, and ends if one of them ends. So the
    ports are written here, and `cat` waits for the end of its input, which the raylet holds open if it is told to.

    And it starts no worker before it is asked for one: ``ray.init`` waits for those, and for ever if one of them dies.
    """
    if Path(command[0]).name == "raylet":
        options["env"] = {**options["env"], **_LEAN}
        given = dict(word.lstrip("-").split("=", 1) for word in command[1:] if "=" in word)
        for port in _AGENT_PORTS:
            _raylet.persist_port(given["session_dir"], given["node_id"], port, -1)
        command = [f"{word.partition('=')[0]}={_IDLE}" if word.startswith(_AGENTS) else word for word in command]
    return start_process(command, **options)


def wait_for_node(address: str, node: str, found: Event, canceled: Event) -> None:
    """Set ``found`` once the Ray at ``address`` lists the node; return early once ``canceled`` is set."""
    nodes = GlobalState()
    nodes._initialize_global_state(services._get_gcs_client_options(address))
    with suppress(RaySystemError):  # no connection
        while not any(known["NodeID"] == node for known in nodes.node_table()):
            if canceled.wait(_POLL_SECONDS):
                return
        found.set()


def validate_cluster_config(config: dict[str, Any]) -> None:
    """Raise whatever ``ray up`` raises at a configuration before it asks the provider for anything."""
    from ray.autoscaler._private import util  # takes a while

    util.validate_config(util.prepare_config(config))
