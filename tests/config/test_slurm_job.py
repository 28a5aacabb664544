"""What a Slurm job was given on a node, told from the variables that Slurm sets, which were seen with Slurm 22.05."""

import pytest

from vae_tune.config import machine_limits
from vae_tune.config.machine_limits import available_memory, usable_cpus
from vae_tune.config.slurm_job import job_cpus, job_id, job_memory, job_memory_left

BATCH = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "SLURM_CPUS_ON_NODE": "8"}
STEP = {**BATCH, "SLURM_STEP_ID": "0"}
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, None),  # salloc on a login node
        (STEP, "7"),
        ({**BATCH, "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}, "5_3"),
    ],
)
def test_a_job_has_the_id_that_slurm_shows(environment, job):
    assert job_id(environment) == job


@pytest.mark.parametrize(
    ("environment", "cpus"),
    [
        ({}, None),
        (BATCH, 8),
        ({**BATCH, "SLURM_CPUS_PER_TASK": "2"}, 8),  # of four tasks, all of which the batch script may stand for
        ({**STEP, "SLURM_CPUS_PER_TASK": "2"}, 2),
        ({**STEP, "SLURM_CPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "4"}, 1),  # left over from the batch script
        ({**STEP, "SLURM_CPUS_ON_NODE": "3"}, 3),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_CPUS_PER_NODE": "16(x2)"}, None),  # salloc on a login node
        ({**BATCH, "SLURM_CPUS_ON_NODE": "many"}, None),
    ],
)
def test_the_cpus_of_a_job_on_this_node_count(environment, cpus):
    assert job_cpus(environment) == cpus


@pytest.mark.parametrize(
    ("environment", "mebibytes"),
    [
        ({}, None),
        (BATCH, None),
        ({**BATCH, "SLURM_MEM_PER_NODE": "4096"}, 4096),
        ({**BATCH, "SLURM_MEM_PER_NODE": "0"}, None),  # --mem=0: all of the node's
        ({**BATCH, "SLURM_MEM_PER_CPU": "500"}, 4000),
        ({**BATCH, "SLURM_MEM_PER_GPU": "9000", "SLURM_GPUS_ON_NODE": "2"}, 18_000),
        ({**BATCH, "SLURM_MEM_PER_GPU": "9000"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "4096"}, None),
    ],
)
def test_the_memory_of_a_job_on_this_node_is_that_of_the_node_of_its_cpus_or_of_its_gpus(environment, mebibytes):
    assert job_memory(environment) == (None if mebibytes is None else mebibytes * MIB)


def process(root, pid, environment, private, shared):
    """A process with ``private`` and ``shared`` MiB of memory."""
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "environ").write_bytes(b"\0".join(word.encode() for word in environment))
    status = f"Name:\tx\nVmRSS:\t{1 << 20} kB\nRssAnon:\t{private << 10} kB\nRssShmem:\t{shared << 10} kB\n"
    (folder / "status").write_text(status)


def test_what_the_processes_of_the_job_use_is_gone_and_shared_memory_once(tmp_path):
    ours = ("HOME=/", "SLURM_JOB_ID=7")
    process(tmp_path, 10, ours, 300, 50)
    process(tmp_path, 11, ours, 200, 60)
    process(tmp_path, 12, ("SLURM_JOB_ID=77", "X=SLURM_JOB_ID=7"), 5000, 0)
    (tmp_path / "proc/13").mkdir()  # it has ended meanwhile
    process(tmp_path, 14, ours, 0, 0)
    (tmp_path / "proc/14/status").write_text("Name:\tkernel\n")
    environment = {**BATCH, "SLURM_MEM_PER_NODE": "4096"}
    assert job_memory_left(environment, tmp_path) == (4096 - 300 - 200 - 60) * MIB
    assert job_memory_left(BATCH, tmp_path) is None


def test_a_process_of_a_job_has_its_cpus_and_memory_rather_than_those_of_the_node(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_limits.os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 90000000 kB\nMemAvailable: 80000000 kB\n")
    assert (usable_cpus(tmp_path), available_memory(tmp_path)) == (64, 80_000_000 * 1024)
    for name, value in {**BATCH, "SLURM_MEM_PER_NODE": "100"}.items():
        monkeypatch.setenv(name, value)
    assert (usable_cpus(tmp_path), available_memory(tmp_path)) == (8, 100 * MIB)
    process(tmp_path, 10, ("SLURM_JOB_ID=7",), 130, 0)
    assert available_memory(tmp_path) == 0
    monkeypatch.setattr(machine_limits.os, "sched_getaffinity", lambda _: {0, 1})
    assert usable_cpus(tmp_path) == 2
