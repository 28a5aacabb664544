"""What a process may use of its machine, told by real affinity, and by control groups as files of a made-up root."""

import os
import subprocess
import sys

import pytest
import torch

from vae_tune.cluster import slots
from vae_tune.config import machine_limits
from vae_tune.config.errors import UsageError
from vae_tune.config.machine_limits import available_memory, control_groups, cpu_note, usable_cpus
from vae_tune.config.settings import ResourceConfig
from vae_tune.vae.threads import cpu_threads, limit_threads

TWO = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
ONE = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {root} /sys/fs/cgroup/cpuset rw,nosuid - cgroup cgroup rw,cpuset\n"
)


def machine(root, groups, mounts, files):
    """Lay out a file system with /proc and control groups; every machine of the tests has 64 CPUs."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def big(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize(
    ("groups", "mounts", "files", "cpus"),
    [
        ("0::/\n", TWO.format(root="/"), {}, 64),
        ("0::/\n", TWO.format(root="/"), {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", TWO.format(root="/"), {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", TWO.format(root="/"), {"cpu.max": "350000 100000\n"}, 3),
        ("0::/\n", TWO.format(root="/"), {"cpu.max": "50000 100000\n"}, 1),
        # the limit of a group that holds the own one, as Slurm and systemd set it
        (
            "0::/job/step\n",
            TWO.format(root="/"),
            {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"},
            2,
        ),
        ("0::/job\n", TWO.format(root="/"), {"job/cpu.max": "800000 100000", "other/cpu.max": "100000 100000"}, 8),
        # a container that sees only its own group, under the name that it has outside
        ("0::/docker/ab\n", TWO.format(root="/docker/ab"), {"cpu.max": "500000 100000"}, 5),
        ("0::/../cd\n", TWO.format(root="/../ab"), {"cpu.max": "600000 100000"}, 6),
        (
            "5:cpuset:/job\n4:cpu,cpuacct:/job\n0::/\n",
            ONE.format(root="/"),
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_control_groups_allow_cpus(tmp_path, groups, mounts, files, cpus):
    assert usable_cpus(machine(tmp_path, groups, mounts, files)) == cpus


def test_the_groups_that_limit_memory_are_found_in_both_versions(tmp_path):
    mounts = "40 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" + TWO.format(root="/")
    root = machine(tmp_path, "4:memory:/job\n0::/job\n", mounts, {"memory/job/a": "", "job/b": ""})
    found = [str(path.relative_to(root / "sys/fs/cgroup")) for path in control_groups("memory", root)]
    assert found == ["memory/job", "memory", "job", "."]


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "available"),
    [
        ("0::/\n", TWO.format(root="/"), {}, 8_000_000 * 1024),
        (
            "0::/job/step\n",
            TWO.format(root="/"),
            {
                "job/memory.max": "3000000000\n",
                "job/memory.current": "1800000000\n",
                "job/memory.stat": "anon 1000000000\ninactive_file 500000000\n",
                "job/step/memory.max": "max\n",
                "job/step/memory.current": "1700000000\n",
                "job/step/memory.stat": "anon 1000000000\ninactive_file 500000000\n",
            },
            1_700_000_000,
        ),
        (
            "4:memory:/job\n0::/\n",
            "40 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            {
                "memory/job/memory.limit_in_bytes": "2000000000\n",
                "memory/job/memory.usage_in_bytes": "1900000000\n",
                "memory/job/memory.stat": "cache 1\ntotal_inactive_file 300000000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "5000000000\n",
                "memory/memory.stat": "total_inactive_file 1\n",
            },
            400_000_000,
        ),
        # more is used than may be: nothing is available
        (
            "0::/\n",
            TWO.format(root="/"),
            {"memory.max": "1000\n", "memory.current": "2000\n", "memory.stat": "inactive_file 10\n"},
            0,
        ),
    ],
)
def test_memory_is_available_as_far_as_machine_and_control_groups_leave_it(tmp_path, groups, mounts, files, available):
    root = machine(tmp_path, groups, mounts, files)
    (root / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemFree: 90 kB\nMemAvailable: 8000000 kB\n")
    assert available_memory(root) == available


def test_where_the_system_does_not_tell_its_memory_nothing_is_known(tmp_path):
    assert available_memory(tmp_path) is None


def test_without_control_groups_the_affinity_alone_counts(tmp_path):
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))


def test_a_process_with_one_cpu_of_several_says_so():
    code = "from vae_tune.config.machine_limits import *; print(usable_cpus(), cpu_note())"
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        ["taskset", "-c", str(one), sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == f"1  (1 of {os.cpu_count()} CPUs may be used)\n"


def test_where_all_cpus_may_be_used_nothing_is_said(monkeypatch):
    monkeypatch.setattr(machine_limits, "usable_cpus", os.cpu_count)
    assert cpu_note() == ""


def test_a_trial_that_needs_more_cpus_than_may_be_used_is_refused_with_both_numbers(monkeypatch):
    nodes = [{"Alive": True, "NodeID": "a", "Resources": {"CPU": 1.0}}]
    monkeypatch.setattr(slots.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(slots, "draining_nodes", dict)
    monkeypatch.setattr(machine_limits, "usable_cpus", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    with pytest.raises(UsageError, match=r"this machine has 1 CPU and 0 GPUs \(1 of 64 CPUs may be used\)\.$"):
        slots.find_slots(ResourceConfig(cpus_per_trial=2))


def test_torch_takes_no_more_threads_than_cpus_that_may_be_used(monkeypatch):
    monkeypatch.setattr("vae_tune.vae.threads.usable_cpus", lambda: 2)
    for before, after in ((8, 2), (1, 1)):
        with cpu_threads(before):
            limit_threads()
            assert torch.get_num_threads() == after
