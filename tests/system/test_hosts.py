"""A search on several real hosts: brought up as docs/cluster.md says, and going on over all that happens to hosts."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from datetime import datetime
from itertools import product

import pytest
import yaml

from tests.system.conftest import ROOT, is_whole, table, wait_for
from tests.system.lab import running_lab
from tests.test_models_document import CLASSES
from vae_tune.config.files import read_json

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


def test_ray_up_brings_all_hosts_and_each_worker_trains_a_class_whose_file_only_the_head_has(
    lab, tmp_path, record_property
):
    lab.start(HEAD, FIRST, SECOND, token=False)
    file = lab.home(HEAD) / "my_vae.py"
    file.write_text(CLASSES[file.name])
    for host in (FIRST, SECOND):  # the hosts of the lab share the disk, but not what is mounted
        lab.ssh(host, f"mount -t tmpfs tmpfs {file.parent} && ! test -e {file}").succeed()
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

    small = f"--num-samples 6 --train-size 500 --max-epochs 2 --study-name small --model {file.name}:MyVAE"
    ray("submit", cluster, "search.py --", "--address auto", small, "--results-dir", tmp_path / "results")
    ray("down", "--yes", cluster)
    is_whole(tmp_path / "results" / "small", trials=6)
    assert "my_vae.py:MyVAE" in read_json(tmp_path / "results" / "small" / "study.json")["code"]
    nodes = [row["node"] for row in table(tmp_path / "results" / "small" / "trials.csv")]
    record_property("trials on each host", {node: nodes.count(node) for node in nodes})
    assert set(nodes) == {"host1", "host2"}


TRIALS, EPOCHS = 40, 8
LONG = ("--scheduler", "none", "--train-size", 2000, "--batch-size", 8)
SPACE = """
latent_size: {type: int, low: 2, high: 64, log: true}
hidden_width: {type: int, low: 64, high: 1024, log: true}
learning_rate: {type: float, low: 1.0e-4, high: 1.0e-3, log: true} # what is higher diverges with batches this small
"""
QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": 1000,
    "RAY_health_check_period_ms": 1000,
    "RAY_health_check_timeout_ms": 2000,
    "RAY_health_check_failure_threshold": 2,
}


SEARCH = f"python {ROOT}/search.py --address auto"
RAY_START = "ray start --disable-usage-stats --object-store-memory 200000000"


def start_ray(lab, head, *workers):
    """Start Ray on these hosts, one slot on each worker and none on the head."""
    lab.ssh(
        head, f"{RAY_START} --head --port 6379 --num-cpus 0 --include-dashboard false", **QUICK_TO_NOTICE
    ).succeed()
    join_ray(lab, head, *workers)


def join_ray(lab, head, *workers):
    """Start Ray on further hosts of the cluster, on all at once."""
    command = f"{RAY_START} --address {lab.address(head)}:6379 --num-cpus 1"
    for joining in [lab.ssh(worker, command, **QUICK_TO_NOTICE) for worker in workers]:
        joining.succeed()


def start_search(lab, host, study, trials=TRIALS, epochs=EPOCHS):
    """Begin a search on a host, over ssh, as a person does."""
    space = study.parent / "space.yaml"
    space.write_text(SPACE)
    place = ("--results-dir", study.parent, "--study-name", study.name)
    words = ("--num-samples", trials, "--max-epochs", epochs, "--space", space, *LONG, *place)
    return lab.ssh(host, f"{SEARCH} {' '.join(map(str, words))}")


class Checkpoints(threading.Thread):
    """Watches a study's folder for checkpoints that are written: one an epoch, by whichever host trained it."""

    def __init__(self, study):
        super().__init__(daemon=True)
        self._study, self._written, self._ended = study, set(), threading.Event()
        self.start()

    def run(self):
        while not self._ended.wait(0.02):
            self._look()

    def _look(self):
        for path in self._study.glob("checkpoints/*/epoch_*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # superseded meanwhile
                self._written.add((path.parent.name, path.name, path.stat().st_mtime_ns))

    def repeated(self):
        """Return how many epochs were trained to their end more than once so far."""
        self._look()
        written = set(self._written)
        return len(written) - len({(trial, epoch) for trial, epoch, _ in written})

    def end(self):
        """Watch no more, and return how many were repeated."""
        self._ended.set()
        self.join()
        return self.repeated()


def running_on(study, host):
    """The trials in the midst of their epochs on a host, with the epochs that the record has of them."""
    rows = [row for row in table(study / "trials.csv") if row["state"] == "RUNNING" and row["node"] == f"host{host}"]
    return {row["trial"]: int(row["epochs"]) for row in rows if 2 <= int(row["epochs"]) <= 5}


def first_epochs_after(study, interrupted):
    """When each of the interrupted trials went on, in seconds since 1970; nothing before all of them have."""
    rows = {(row["trial"], int(row["epoch"])): row["time"] for row in table(study / "epochs.csv")}
    times = [rows.get((trial, epochs + 2)) for trial, epochs in interrupted.items()]  # one was perhaps on its way
    return [datetime.fromisoformat(time).timestamp() for time in times if time] if all(times) else []


def has_all_epochs(study, trials=TRIALS, epochs=EPOCHS):
    is_whole(study, trials)
    found = [(int(row["trial"]), int(row["epoch"])) for row in table(study / "epochs.csv")]
    assert sorted(found) == list(product(range(trials), range(1, epochs + 1)))


def test_a_search_outlives_a_killed_host_a_cut_cable_a_host_that_comes_and_the_loss_of_its_head(
    lab, tmp_path, record_property
):
    """One after the other, in one search; no trial is lost, and nothing but what a cut-off host did is done twice."""
    study = tmp_path / "outlived"
    lab.start(HEAD, FIRST, SECOND)
    start_ray(lab, HEAD, FIRST, SECOND)
    checkpoints = Checkpoints(study)
    search = start_search(lab, HEAD, study)

    def trials_go_on(interrupted, since, what):
        continued = wait_for(lambda: first_epochs_after(study, interrupted), search)
        record_property(f"seconds until its trials went on: {what}", max(continued) - since)

    interrupted = wait_for(lambda: running_on(study, FIRST), search)
    lab.kill(FIRST)
    trials_go_on(interrupted, time.time(), "a host was killed")
    assert checkpoints.repeated() == 0  # but for the epoch in flight

    lab.start(FIRST)
    added = time.time()
    join_ray(lab, HEAD, FIRST)
    interrupted = wait_for(lambda: running_on(study, FIRST), search)
    record_property("seconds until a host that was added had trained two epochs", time.time() - added)

    lab.cut(FIRST)
    trials_go_on(interrupted, time.time(), "its cable was cut")
    lab.plug(FIRST)
    # cut off, but not from the disk that the hosts of the lab share, a host trains on; even the order to train another
    # epoch may arrive now, and is obeyed until the host has learned that it is no longer one of them
    lab.ssh(FIRST, "ray stop --force").succeed()
    twice = checkpoints.repeated()
    assert twice <= len(interrupted)

    interrupted = wait_for(lambda: running_on(study, SECOND), search)
    lab.kill(HEAD)
    killed = time.time()
    for host in (FIRST, SECOND):
        lab.ssh(host, "ray stop --force").succeed()
    before = table(study / "epochs.csv")
    begun = len(table(study / "trials.csv"))
    start_ray(lab, FIRST, SECOND)
    search = lab.ssh(FIRST, f"{SEARCH} --resume {study} --num-samples {begun}")
    trials_go_on(interrupted, killed, "the head was killed")
    search.succeed()
    assert table(study / "epochs.csv")[: len(before)] == before
    has_all_epochs(study, trials=begun)
    record_property("epochs repeated", checkpoints.end())
    assert checkpoints.repeated() == twice
