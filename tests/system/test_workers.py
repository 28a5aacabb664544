"""What Ray starts on one machine, and the workers that wait there for the first trials."""

import os
import sys

import pytest
import ray
from ray.tune.execution.class_cache import _ActorClassCache

from tests.system.conftest import SLOTS, descendants, wait_for
from vae_tune.cluster.ray_folder import is_ray_folder
from vae_tune.config.compat.ray import running_rays

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]


def test_ray_starts_only_what_a_search_on_one_machine_uses():
    commands = " ".join(descendants(os.getpid()).values())
    assert "raylet/raylet" in commands
    assert "monitor.py" not in commands  # neither the autoscaler's nor the one of the logs
    assert "dashboard.py" not in commands


def test_the_ray_of_a_search_is_none_for_address_auto():
    address = ray.get_runtime_context().gcs_address
    assert [is_ray_folder(one.folder) for one in running_rays() if one.address == address] == [True]


def test_trials_take_the_workers_that_ray_started_before_them_and_that_have_imported_torch():
    class Trial:
        def where(self):
            return os.getpid(), "vae_tune.cluster.trainable" in sys.modules

    waiting = wait_for(lambda: [pid for pid, name in descendants(os.getpid()).items() if name.startswith("ray::IDLE")])
    actor = _ActorClassCache().get(Trial).options(num_cpus=1).remote()
    pid, imported = ray.get(actor.where.remote())
    assert imported
    assert pid in waiting or len(waiting) < SLOTS.count  # not all had come up when they were listed
    assert ray.get_runtime_context().runtime_env == {}


def test_a_trial_has_the_niceness_of_the_command_that_started_the_search():
    class Trial:
        def niceness(self):
            return os.getpriority(os.PRIO_PROCESS, 0)

    actor = _ActorClassCache().get(Trial).options(num_cpus=1).remote()
    assert ray.get(actor.niceness.remote()) == os.getpriority(os.PRIO_PROCESS, 0)
