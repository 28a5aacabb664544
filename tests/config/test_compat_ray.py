"""The private parts of Ray that config/compat names; a start, and what Tune needs, are tested in tests/system too."""

import copy
import inspect
import os
import signal
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from unittest import mock

import pytest
import ray
import yaml
from ray._private.accelerators import NvidiaGPUAcceleratorManager
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError
from ray.tune.experiment import Trial

import vae_tune
from vae_tune.config.compat import ray as private_ray
from vae_tune.config.compat import ray_tune as private_tune

ROOT = Path(vae_tune.__file__).parents[1]


def test_ray_is_pinned_to_the_release_that_was_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    pins = {line.partition("]")[2] for line in requirements if line.startswith("ray[")}
    assert pins == {">=2.60,<2.61"}
    assert ray.__version__.startswith("2.60.")


AGENTS = ["--dashboard_agent_command=python agent.py --port=1", "--runtime_env_agent_command=python main.py"]


@pytest.mark.parametrize("launcher", ["launcher.py", None])
def test_rays_start_is_given_its_private_options(monkeypatch, tmp_path, launcher):
    given = {}

    def init(*_, **options):
        """See what is patched while Ray starts; mock refuses to patch a name that is not there."""
        services, parameter = private_ray.services, private_ray.parameter
        given.update(options, node=services.get_node, params=parameter.RayParams())
        services.ConsolePopen(["/bin/raylet", f"--session_dir={tmp_path}", "--node_id=7", *AGENTS], env={"A": "1"})
        services.ConsolePopen(["/bin/gcs_server", *AGENTS], env={})

    source = inspect.getsource(ray.init)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(private_ray._raylet, "persist_port", lambda *_: None)
    start, own = mock.Mock(), private_ray.NodeResources(2, None, 7, 9)
    private_ray.start_local(own, str(tmp_path), launcher, ["os"], start, len)
    raylet, server = start.call_args_list
    agents, added = AGENTS, {}
    if launcher:
        agents, added = [f"{word.partition('=')[0]}=/bin/cat" for word in AGENTS], private_ray._LEAN
    assert (raylet.args[0][-2:], raylet.kwargs["env"]) == (agents, {"A": "1", **added})
    assert (server.args[0][-2:], server.kwargs["env"]) == (AGENTS, {})
    params = given["params"]
    assert (given["node"], params.setup_worker_path) == (len, launcher)
    assert (params.no_monitor, params.include_log_monitor) == (True, False)
    assert (given["num_cpus"], given["num_gpus"], given["object_store_memory"]) == (2, None, 7)
    for name in ("_memory", "_node_ip_address", "_temp_dir", "_system_config"):
        assert given[name]
        assert f'"{name}"' in source
    assert private_ray.services.get_node is private_ray.get_node
    assert list(inspect.signature(private_ray.get_node).parameters) == ["gcs_address", "node_id"]


def test_a_raylet_finds_the_ports_of_its_agents_where_they_are_written_and_knows_its_variables(tmp_path):
    services = inspect.getsource(private_ray.services.start_raylet)
    assert all(f'"{option}{{}}"' in services for option in private_ray._AGENTS)
    command = ["raylet", f"--session_dir={tmp_path}", "--node_id=7"]
    private_ray._start_lean(lambda *_, **__: None, command, env={})
    for port in private_ray._AGENT_PORTS:
        assert private_ray._raylet.wait_for_persisted_port(str(tmp_path), "7", port, timeout_ms=1000) == -1
    raylet = Path(private_ray.services.RAYLET_EXECUTABLE).read_bytes()
    assert all(name.encode() in raylet for name in private_ray._LEAN)


def test_ray_knows_the_options_of_its_start():
    known = set(inspect.signature(private_ray.parameter.RayParams).parameters)
    assert {"no_monitor", "include_log_monitor", "gcs_address", "node_ip_address", "num_cpus", "temp_dir"} <= known
    assert "setup_worker_path" in known
    assert {"num_gpus", "memory", "object_store_memory"} <= known
    assert {"head", "shutdown_at_exit", "spawn_reaper"} <= set(inspect.signature(private_ray.Node).parameters)


def test_a_mark_is_read_as_it_was_written(monkeypatch):
    kept = {}
    store = private_ray.internal_kv
    assert {"overwrite"} <= set(inspect.signature(store._internal_kv_put).parameters)
    monkeypatch.setattr(
        store, "_internal_kv_put", lambda name, value, overwrite: kept.update({name: str(value).encode()})
    )
    monkeypatch.setattr(store, "_internal_kv_get", kept.get)
    assert not private_ray.read_mark("a")
    for value in (True, False):
        private_ray.write_mark("a", value)
        assert private_ray.read_mark("a") is value


@pytest.mark.parametrize("local", [True, False])
def test_tune_counts_no_callbacks_takes_no_signal_and_gives_actors_of_this_machine_no_environment(local):
    from ray.air._internal import usage
    from ray.tune import tune
    from ray.tune.execution import class_cache

    before = class_cache.DEFAULT_ENV_VARS
    with private_tune.lean_tune(local=local):
        assert usage.tag_callbacks([object()]) is False
        handler = signal.getsignal(signal.SIGUSR1)
        assert not tune._setup_signal_catching().is_set()
        assert signal.getsignal(signal.SIGUSR1) is handler
        assert ({} if local else before) == class_cache.DEFAULT_ENV_VARS
        assert bool(class_cache.ENV_VARS_TO_PROPAGATE) is not local
    assert class_cache.DEFAULT_ENV_VARS is before != {}


@pytest.mark.parametrize("error", [ActorDiedError(), OutOfMemoryError("killed")])
def test_a_trial_whose_worker_ends_while_it_trains_fails_alone(error):
    from ray.air.execution._internal import actor_manager, tracked_actor, tracked_actor_task

    told = []
    actor = tracked_actor.TrackedActor("a", on_error=lambda *about: told.append(about))
    task = tracked_actor_task.TrackedActorTask(actor, on_error=lambda *about: told.append(about))
    manager = mock.Mock()
    with private_tune.lean_tune(local=True):
        actor_manager.RayActorManager._actor_task_failed(manager, task, error)
    manager._cleanup_actor.assert_called_once_with(tracked_actor=actor)
    assert told == [(actor, error), (actor, error)]


def test_gpus_that_are_hidden_do_not_count(monkeypatch):
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", lambda: 4)
    for visible, count in (("0,2", 2), ("", 0), ("-1", 0), ("MIG-a,MIG-b,MIG-c,MIG-d,MIG-e", 5), (None, 4)):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert private_ray.visible_gpus() == count
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", lambda: 0)
    assert private_ray.visible_gpus() is None


def test_the_object_store_is_a_share_of_the_memory_that_there_is_and_no_smaller_than_ray_allows():
    assert private_ray.object_store_bytes(2 * 10**9) == 6 * 10**8
    smallest = private_ray.object_store_bytes(10**6)
    assert smallest == private_ray.ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES


def test_what_ray_knows_of_itself_is_asked_for_by_these_names():
    assert private_ray.detect_fate_sharing_support() is (sys.platform == "linux")
    for name in ("_initialize_global_state", "node_table", "get_draining_nodes"):
        assert callable(getattr(private_ray.state, name))
    assert callable(private_ray.services._get_gcs_client_options)


@pytest.mark.parametrize(("mode", "enabled"), [("disabled", False), ("token", True)])
def test_ray_knows_whether_it_asks_for_a_token(mode, enabled):
    """In a process of its own: Ray reads the mode once."""
    code = "from vae_tune.config.compat.ray import is_token_auth_enabled; print(is_token_auth_enabled())"
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "0" * 64}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout == f"{enabled}\n"


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """A trial of Ray Tune; a running Ray would give it its folder."""
    monkeypatch.setattr(Trial, "local_path", str(tmp_path))
    return Trial("any", stub=True)


def test_of_a_trial_tune_keeps_the_last_report_and_when_it_has_ended_only_the_state(trial):
    loss, rate = 1234.5678901234, 0.98765432101234  # no digits of a moment or a duration
    trial.set_config({"rate": rate})
    trial.evaluated_params = {"rate": rate}
    with private_tune.lean_tune(local=True):
        trial.update_last_result({"training_iteration": 1, "val_loss": loss})
    trial.set_status(Trial.TERMINATED)

    def holding(number):
        kept = {**vars(trial), **vars(trial.run_metadata)}
        return {name for name, value in kept.items() if str(number) in repr(value)}

    assert holding(loss) == {"last_result"}
    assert holding(rate) == {"config", "evaluated_params"}
    trial._Trial__unresolved_config = trial.config
    private_tune.forget_trial(trial)
    assert holding(loss) | holding(rate) == set()
    assert trial.is_finished()


@pytest.mark.parametrize(
    ("error", "line", "worker_died"),
    [
        (ActorDiedError(), "The actor died unexpectedly before finishing this task.", True),
        (ActorUnavailableError("RpcError", None), "The actor None is unavailable: RpcError.", True),
        (OutOfMemoryError("2 workers killed due to the node running low on memory."), "2 workers killed", False),
        (RayTaskError("train", "Traceback\n  File\nValueError: no", ValueError("no")), "Traceback", False),
    ],
)
def test_tune_writes_the_newest_failure_of_a_trial_in_this_form(trial, error, line, worker_died):
    assert private_tune.last_failure(trial) == ["failed without a message"]
    for each in (ValueError("earlier"), error):
        trial.handle_error(each)
    failure = private_tune.last_failure(trial)
    assert failure[0].startswith(line)
    assert private_tune.is_worker_death(failure) is worker_died
    assert private_tune.is_out_of_memory(failure) is isinstance(error, OutOfMemoryError)


def test_ray_validates_the_configuration_of_a_cluster():
    config = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())
    private_ray.validate_cluster_config(copy.deepcopy(config))
    with pytest.raises(Exception, match="no_such_key"):
        private_ray.validate_cluster_config({**config, "no_such_key": 1})
