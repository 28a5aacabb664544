"""A search on a cluster whose nodes come and go: several raylets on this machine's loopback."""

import json
import os
import time

import pytest
import torch
from ray._raylet import GcsClient
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.system.conftest import descendants, is_whole, table, wait_for
from vae_tune.checkpoint import checkpoint_folder
from vae_tune.config import DataConfig, TrialConfig
from vae_tune.data import load_images
from vae_tune.training import fit

pytestmark = pytest.mark.system

CPU = torch.device("cpu")

SMALL = ("--train-size", 3000, "--max-epochs", 4, "--scheduler", "none", "--results-dir", "out")


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs, as in cluster.yaml."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
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
    long = ("--batch-size", 8, "--train-size", 40_000, "--max-epochs", 1, "--results-dir", "out")
    running = search("--address", cluster.address, "--num-samples", 1, "--study-name", "spot", *long)
    wait_for(
        lambda: [name for name in descendants(os.getpid()).values() if "ray::ImplicitFunc.train" in name], running
    )
    accepted, why = GcsClient(cluster.address).drain_node(
        first.node_id,
        DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "spot",
        int(1000 * (time.time() + 60)),
    )
    assert accepted, why
    wait_for(midway.exists, running, timeout=60)
    assert not table(folder / "epochs.csv")
    cluster.remove_node(first, allow_graceful=False)
    mark(midway, seconds=1000.0)
    cluster.add_node(num_cpus=1)
    code, output = running.wait()
    assert code == 0, output
    is_whole(folder, trials=1)
    (report,) = table(folder / "epochs.csv")
    assert float(report["seconds"]) > 1000.0  # so it went on from there
    (expected,) = fit(TrialConfig(batch_size=8, max_epochs=1), load_images(DataConfig(train_size=40_000)), CPU)
    assert float(report["val_loss"]) == expected.val_loss


def mark(path, **changes):
    """Change what a checkpoint in the middle of an epoch says of its progress."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    progress = json.loads(metadata["progress"])
    assert progress["step"] > 0
    save_file(load_file(path), path, {**metadata, "progress": json.dumps({**progress, **changes})})
