"""A search on a cluster whose nodes come and go: several raylets on this machine's loopback."""

import json
import math
import os
import shutil
import time
from dataclasses import replace

import pytest
import ray
import torch
from ray import tune
from ray._private.internal_api import node_stats
from ray._raylet import GcsClient
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.system.conftest import ROOT, descendants, is_whole, table, wait_for
from vae_tune.cluster.ray_runtime import running_ray
from vae_tune.cluster.slots import Slots, find_slots
from vae_tune.config.settings import AshaConfig, DataConfig, ResourceConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.images.datasets import load_images
from vae_tune.record.metadata import new_metadata, read_metadata
from vae_tune.record.run_slots import slots_of_run
from vae_tune.record.study_record import StudyRecord
from vae_tune.search.stopping import Stopping
from vae_tune.search.tuner import run_trials
from vae_tune.vae.checkpoint import checkpoint_folder
from vae_tune.vae.training import fit

pytestmark = pytest.mark.system

CPU = torch.device("cpu")

SMALL = ("--train-size", 3000, "--max-epochs", 4, "--scheduler", "none", "--results-dir", "out")


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs, as in cluster.yaml."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "5")  # unlike that of a search
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "2000")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield found
    found.shutdown()


def test_a_search_waits_for_a_node_uses_another_and_survives_the_loss_of_the_first(cluster, search, tmp_path):
    folder = tmp_path / "out" / "nodes"
    running = search("--address", cluster.address, "--num-samples", 6, "--study-name", "nodes", *SMALL)
    running.wait_for_line("Waiting for a node")
    first = cluster.add_node(num_cpus=1)
    running.wait_for_line("1 trial at a time")
    wait_for(lambda: len(table(folder / "epochs.csv")) >= 2, running)
    cluster.add_node(num_cpus=1)
    running.wait_for_line("now has room for 2 trials side by side")
    wait_for(lambda: len({row["trial"] for row in table(folder / "epochs.csv")}) >= 2, running)
    assert asked_for(cluster.address)
    before = len(table(folder / "epochs.csv"))
    cluster.remove_node(first, allow_graceful=False)
    wait_for(lambda: len(table(folder / "epochs.csv")) >= before + 4, running)
    code, output = running.wait()
    assert code == 0, output
    assert not asked_for(cluster.address)
    is_whole(folder, trials=6)
    assert {row["state"] for row in table(folder / "trials.csv")} == {"COMPLETE"}
    reports = [(row["trial"], row["epoch"]) for row in table(folder / "epochs.csv")]
    assert len(reports) == len(set(reports)) == 24
    assert [each.count for each in slots_of_run(read_metadata(folder)["runs"][0])][:2] == [1, 2]


def asked_for(address):
    """What the autoscaler is asked for, whichever version of it runs."""
    client = GcsClient(address)
    first = client.internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None)
    constraints = get_cluster_resource_state(client).cluster_resource_constraints
    return json.loads(first or "[]") + [request for one in constraints for request in one.resource_requests]


def test_a_trial_on_a_node_that_is_to_be_taken_away_is_saved_in_the_middle_of_its_epoch(cluster, search, tmp_path):
    """The notice of a spot market, which Ray calls draining; the epoch is far longer than the time that is left."""
    first = cluster.add_node(num_cpus=1)
    folder = tmp_path / "out" / "spot"
    midway = checkpoint_folder(folder, 0) / "midway.safetensors"
    long = ("--batch-size", 8, "--hidden-width", 128, "--train-size", 40_000, "--max-epochs", 1)
    where = ("--study-name", "spot", "--results-dir", "out")
    running = search("--address", cluster.address, "--num-samples", 1, *long, *where)
    wait_for(
        lambda: [name for name in descendants(os.getpid()).values() if "ray::ImplicitFunc.train" in name], running
    )
    accepted, why = GcsClient(cluster.address).drain_node(
        first.node_id,
        DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "spot",
        int(1000 * (time.time() + 300)),
    )
    assert accepted, why
    wait_for(midway.exists, running)
    assert not table(folder / "epochs.csv")
    cluster.remove_node(first, allow_graceful=False)
    mark(midway, seconds=1000.0)
    cluster.add_node(num_cpus=1)
    code, output = running.wait()
    assert code == 0, output
    is_whole(folder, trials=1)
    (report,) = table(folder / "epochs.csv")
    assert float(report["seconds"]) > 1000.0  # so it went on from there
    config = TrialConfig(batch_size=8, hidden_width=128, max_epochs=1)
    (expected,) = fit(config, load_images(DataConfig(train_size=40_000)), CPU)
    assert float(report["val_loss"]) == expected.val_loss


def mark(path, **changes):
    """Change what a checkpoint in the middle of an epoch says of its progress."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    progress = json.loads(metadata["progress"])
    assert progress["step"] > 0
    save_file(load_file(path), path, {**metadata, "progress": json.dumps({**progress, **changes})})


def test_a_node_gets_the_images_once_and_the_code_of_the_driver(cluster, search, tmp_path):
    """Two workers on it. They have the package of this checkout; the driver has another, which only it can see.

    It also says that they have a higher niceness than it has itself.
    """
    node, own = cluster.add_node(num_cpus=2), os.getpriority(os.PRIO_PROCESS, 0)
    other = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "vae_tune", other / "vae_tune", ignore=shutil.ignore_patterns("__pycache__"))
    training = other / "vae_tune" / "vae" / "training.py"
    change(training, "ACTIVE_UNIT_THRESHOLD).sum())", "ACTIVE_UNIT_THRESHOLD).sum()) + 1000")
    folder = tmp_path / "out" / "shared"
    program = ("-c", "import sys; from vae_tune.cli.main import main; main(['search', *sys.argv[1:]])")
    words = ("--address", cluster.address, "--num-samples", 2, "--study-name", "shared", *SMALL)
    running = search(*words, program=program, environment={"PYTHONPATH": str(other)})
    wait_for(lambda: len({row["trial"] for row in table(folder / "epochs.csv")}) == 2, running)
    images = load_images(DataConfig(train_size=3000))
    size = sum(part.nbytes for part in (images.train, images.validation, images.test))
    assert size <= stored_bytes(node) < 1.5 * size
    code, output = running.wait()
    assert code == 0, output
    assert f"workers have niceness {own + 5}, this command has {own}" in output
    is_whole(folder, trials=2)
    assert all(int(row["active_units"]) >= 1000 for row in table(folder / "epochs.csv"))


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def stored_bytes(node):
    """What the object store of a node holds."""
    return node_stats(node.node_ip_address, node.node_manager_port, False).store_stats.object_store_bytes_used


def test_nodes_with_and_without_a_gpu_share_the_trials_of_a_search(cluster, tmp_path):
    """Ray takes a GPU to be there where it is told so; a trial tells which it was given, and trains nothing.

    The first one runs out of its memory where it has a share of it only.
    """
    cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=2, num_gpus=1)

    def train(config):
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        alone = " alone" if config["gpus"] == 1 else ""
        if config["trial"] == 0 and not alone:
            tune.report({"epoch": 0, "val_loss": math.inf, "gpu_memory": "it held nothing yet"})
            return
        parts = {"train_loss": 1.0, "val_reconstruction": 1.0, "val_kl": 0.0, "active_units": 1}
        times = {"seconds": 0.0, "images_per_second": 1.0, "device": f"GPU {gpus[0]}{alone}" if gpus else "CPU"}
        tune.report({"epoch": 1, "val_loss": 1.0, **parts, **times})

    resources = ResourceConfig(address=cluster.address)
    config = SearchConfig(num_samples=20, asha=AshaConfig(scheduler="none"), trial=TrialConfig(max_epochs=1))
    config = replace(config, resources=resources)
    images = load_images(DataConfig(train_size=100))
    metadata = new_metadata("mixed", config, config.trial, DEFAULT_SPACE, images)
    with running_ray(resources):
        slots = find_slots(resources)
        record = StudyRecord.create(tmp_path / "mixed", metadata)
        run_trials(train, config, DEFAULT_SPACE, record, lambda: slots, Stopping())
        record.close()
    assert replace(slots, memory=None) == Slots(count=4, cpus=1, gpus=0.5, without_gpu=2, on_a_node=2)
    trials = table(tmp_path / "mixed" / "trials.csv")
    assert [row["state"] for row in trials] == ["COMPLETE"] * 20
    assert {row["device"] for row in trials} == {"GPU 0 alone", "GPU 0", "CPU"}
    assert trials[0]["device"] == "GPU 0 alone"
