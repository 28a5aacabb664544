"""What Ray starts on one machine, and how the workers of trials start there."""

import os
import signal
import sys

import pytest
import ray
from ray.tune.execution.class_cache import _ActorClassCache

from tests.system.conftest import descendants
from vae_tune.cluster.ray_folder import is_ray_folder
from vae_tune.config.compat.ray import running_rays

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]


def test_ray_starts_only_what_a_search_on_one_machine_uses():
    commands = " ".join(descendants(os.getpid()).values())
    assert "raylet/raylet" in commands
    assert "monitor.py" not in commands  # neither the autoscaler's nor the one of the logs
    assert "dashboard.py" not in commands
    assert "Agent" not in commands
    assert list(descendants(os.getpid()).values()).count("/bin/cat ") == 2


def test_the_ray_of_a_search_is_none_for_address_auto():
    address = ray.get_runtime_context().gcs_address
    assert [is_ray_folder(one.folder) for one in running_rays() if one.address == address] == [True]


@pytest.fixture
def trial():
    """Return a function that starts an actor as Tune starts that of a trial."""
    started = []

    class Trial:
        def about(self):
            imported = "vae_tune.cluster.trainable" in sys.modules
            return {"parent": os.getppid(), "imported": imported, "niceness": os.getpriority(os.PRIO_PROCESS, 0)}

    def start():
        started.append(_ActorClassCache().get(Trial).options(num_cpus=1).remote())
        return started[-1]

    yield start
    for actor in started:
        ray.kill(actor)


def test_workers_start_when_trials_need_them_and_are_forks_that_have_imported_torch(trial):
    assert [name for name in descendants(os.getpid()).values() if name.startswith("ray::")] == []
    actors = [trial(), trial()]
    for about in ray.get([actor.about.remote() for actor in actors]):
        assert about["imported"]
        assert "worker_server" in descendants(os.getpid())[about["parent"]]
        assert about["niceness"] == os.getpriority(os.PRIO_PROCESS, 0)  # that of the command that started the search
    assert ray.get_runtime_context().runtime_env == {}


def test_workers_start_by_themselves_once_the_process_that_forks_them_was_killed(trial):
    (server,) = [pid for pid, name in descendants(os.getpid()).items() if "worker_server" in name]
    os.kill(server, signal.SIGKILL)
    about = ray.get(trial().about.remote())
    assert not about["imported"]
    assert "raylet/raylet" in descendants(os.getpid())[about["parent"]]
