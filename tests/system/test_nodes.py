"""A search on a cluster whose nodes come and go: several raylets on this machine's loopback."""

import pytest
from ray.cluster_utils import Cluster

from tests.system.conftest import is_whole, table, wait_for

pytestmark = pytest.mark.system

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
    before = len(table(folder / "epochs.csv"))
    cluster.remove_node(first, allow_graceful=False)
    wait_for(lambda: len(table(folder / "epochs.csv")) >= before + 4, running)
    code, output = running.wait()
    assert code == 0, output
    is_whole(folder, trials=6)
    assert {row["state"] for row in table(folder / "trials.csv")} == {"COMPLETE"}
    reports = [(row["trial"], row["epoch"]) for row in table(folder / "epochs.csv")]
    assert len(reports) == len(set(reports)) == 24
