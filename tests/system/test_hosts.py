"""A search on several real hosts: brought up as docs/cluster.md says, and going on over all that happens to hosts."""

from __future__ import annotations

import sys
import time

import pytest
import yaml

from tests.system.conftest import ROOT, is_whole, table
from tests.system.lab import running_lab

pytestmark = pytest.mark.system

HEAD, FIRST, SECOND, LAPTOP = 0, 1, 2, 3
JOINED = """
import ray, time
ray.init("auto", log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 120
while (count := len([node for node in ray.nodes() if node["Alive"]])) < 3 and time.monotonic() < deadline:
    time.sleep(0.1)
print("hosts that joined:", count)
"""


@pytest.fixture
def lab(tmp_path):
    """A lab without hosts yet."""
    with running_lab(tmp_path) as lab:
        yield lab


def write_cluster(lab):
    """Write cluster/local.yaml for the lab, where everything is installed already, with one slot on each worker."""
    text = (ROOT / "cluster" / "local.yaml").read_text()
    for old, new in (
        ("ray start --head", "ray start --head --num-cpus=0"),
        ("ray start --add", "ray start --num-cpus=1 --add"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    cluster = yaml.safe_load(text)
    cluster["cluster_name"] = lab.cluster_name
    cluster["provider"] |= {"head_ip": lab.address(HEAD), "worker_ips": [lab.address(FIRST), lab.address(SECOND)]}
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.key)}
    installing = cluster["setup_commands"].pop()
    assert "pip install" in installing
    cluster["setup_commands"].append("echo 'export PYTHONPATH=~/vae_tune' >> ~/.bashrc")  # the code that was shipped
    for host in (HEAD, FIRST, SECOND):
        (lab.home(host) / "vae").symlink_to(sys.prefix)
    path = lab.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster))
    return path


def test_ray_up_brings_all_hosts_and_a_search_uses_each_worker(lab, tmp_path, record_property):
    lab.start(HEAD, FIRST, SECOND, token=False)
    lab.start(LAPTOP)
    cluster = write_cluster(lab)

    def ray(*words):
        return lab.ssh(LAPTOP, f"cd {ROOT} && ray {' '.join(map(str, words))}", TMPDIR=lab.home(LAPTOP)).succeed()

    (lab.folder / "joined.py").write_text(JOINED)
    begun = time.monotonic()
    ray("up", "--yes", cluster)
    record_property("seconds of ray up", time.monotonic() - begun)
    assert "hosts that joined: 3" in ray("submit", cluster, lab.folder / "joined.py")
    record_property("seconds until all hosts joined", time.monotonic() - begun)

    small = "--num-samples 6 --train-size 500 --max-epochs 2 --study-name small"
    ray("submit", cluster, "search.py --", "--address auto", small, "--results-dir", tmp_path / "results")
    ray("down", "--yes", cluster)
    is_whole(tmp_path / "results" / "small", trials=6)
    nodes = [row["node"] for row in table(tmp_path / "results" / "small" / "trials.csv")]
    record_property("trials on each host", {node: nodes.count(node) for node in nodes})
    assert set(nodes) == {"host1", "host2"}
