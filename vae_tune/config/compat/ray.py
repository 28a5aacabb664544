"""Every private name of Ray that this package uses: they are why pyproject.toml allows one minor release of it, 2.60.

No public name does what these do, and any release may change them. Another release is allowed when all tests pass with
it, those in tests/system too: these start Ray in each of the ways in which a search does. Private as well are the
options ``_node_ip_address``, ``_temp_dir`` and ``_system_config`` of ``ray.init``.

- ``services``, ``utils``, ``ray_constants``, ``parameter``: starting Ray on this machine with its processes in a group
  of their own, which are seen to die; without monitor, log monitor, agent and dashboard; on loopback.
- ``GlobalState``: asking a Ray for its nodes before this process has joined it.
- ``detect_fate_sharing_support``: whether Ray's processes end with the driver.
- ``get_default_system_temp_dir``: where Ray puts its sockets.
- ``worker``: keeping a dying raylet's own lines out of the terminal.
- ``state``: which nodes are about to be taken away.
- ``NvidiaGPUAcceleratorManager``: which GPUs Ray will count.
- ``is_token_auth_enabled``: whether a cluster asks for a token.
- :func:`autoscaler`: what ``ray up`` refuses.
- :func:`tune`: Tune's counting of callbacks, and the environment that it gives its actors.
"""

from __future__ import annotations

from types import ModuleType

from ray._common.utils import get_default_system_temp_dir
from ray._private import parameter, ray_constants, services, utils, worker
from ray._private.accelerators import NvidiaGPUAcceleratorManager
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.state import GlobalState, state
from ray._private.utils import detect_fate_sharing_support

__all__ = [
    "GlobalState",
    "NvidiaGPUAcceleratorManager",
    "autoscaler",
    "detect_fate_sharing_support",
    "get_default_system_temp_dir",
    "is_token_auth_enabled",
    "parameter",
    "ray_constants",
    "services",
    "state",
    "tune",
    "utils",
    "worker",
]


def autoscaler() -> ModuleType:
    """Return the module with ``prepare_config`` and ``validate_config``; its import takes a while."""
    from ray.autoscaler._private import util

    module: ModuleType = util
    return module


def tune() -> tuple[ModuleType, ModuleType]:
    """Return the modules with ``tag_callbacks`` and with the environment of actors; they import Tune."""
    from ray.air._internal import usage
    from ray.tune.execution import class_cache

    return usage, class_cache
