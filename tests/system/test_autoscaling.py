"""A search on a cluster that scales by itself: nodes come for its trials, and go when it has ended.

The nodes are raylets of Ray's own provider for tests, on this machine's loopback; the autoscaler is the real one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_TYPE

from tests.system.conftest import descendants, is_whole, table, wait_for
from tests.system.test_head import free_port

pytestmark = pytest.mark.system

LOOPBACK = {
    "RAY_AUTH_MODE": "token",  # to an address that it is given Ray shows its token only if told so
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray takes the machine's own address for loopback
}
CONFIG = {
    "cluster_name": "tests",
    "max_workers": 2,
    "provider": {
        "type": "external",  # its own type needs a file that is missing in Ray's wheel
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,  # they all share one
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {
            "resources": {"CPU": 1, "object_store_memory": 500_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "head_node_type": FAKE_HEAD_NODE_TYPE,
    "upscaling_speed": 100.0,
    "idle_timeout_minutes": 0.05,
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


@pytest.fixture
def head(tmp_path):
    """A head with an autoscaler, as `ray up` leaves it; yields its address. All that it started ends with it."""
    port = free_port()
    provider = {**CONFIG["provider"], "gcs_address": f"127.0.0.1:{port}"}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({**CONFIG, "provider": provider}))
    environment = {
        **os.environ,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **LOOPBACK,
    }
    sockets = tempfile.mkdtemp(prefix="vae", dir="/tmp")  # their paths must be short
    words = ["start", "--head", "--block", "--port", port, "--num-cpus", 0, "--include-dashboard", "false"]
    words += ["--node-ip-address", "127.0.0.1", "--temp-dir", sockets, "--ray-client-server-port", free_port()]
    words += ["--autoscaling-config", tmp_path / "cluster.yaml", "--disable-usage-stats"]
    command = [sys.executable, "-m", "ray.scripts.scripts", *map(str, words)]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"127.0.0.1:{port}", process.pid
    finally:
        left = [process.pid, *descendants(process.pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


def raylets(pid):
    """The raylets of other nodes than the head, below its process."""
    return [child for child, name in descendants(pid).items() if "/raylet/raylet " in name and "--head" not in name]


def test_nodes_come_for_the_trials_of_a_search_and_go_when_it_has_ended_or_was_killed(head, search, tmp_path):
    address, pid = head
    folder = tmp_path / "out" / "scaled"
    wait_for(lambda: "Ray runtime started" in (tmp_path / "head.log").read_text(), timeout=120)
    assert raylets(pid) == []
    small = ("--train-size", 3000, "--max-epochs", 4, "--scheduler", "none", "--results-dir", "out")
    running = search("--address", address, "--num-samples", 4, "--study-name", "scaled", *small, environment=LOOPBACK)
    running.wait_for_line("Waiting for a node")
    wait_for(lambda: len(raylets(pid)) == 2, running)  # as many as it may bring
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 2, running)
    os.kill(raylets(pid)[0], signal.SIGKILL)  # one goes away in a trial
    code, output = running.wait()
    assert code == 0, output
    is_whole(folder, trials=4)
    assert {row["state"] for row in table(folder / "trials.csv")} == {"COMPLETE"}
    wait_for(lambda: raylets(pid) == [])

    running = search("--address", address, "--num-samples", 4, "--study-name", "killed", *small, environment=LOOPBACK)
    wait_for(lambda: raylets(pid), running)
    running.kill()
    assert running.wait()[0] == -signal.SIGKILL
    wait_for(lambda: raylets(pid) == [])
