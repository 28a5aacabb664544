"""Which GPUs trials get, and how many share one; NVIDIA's driver is replaced by what it would say."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pynvml
import pytest

from vae_tune.cluster import gpus as module
from vae_tune.cluster.gpus import Gpu, choose_gpus, most_per_gpu, only, visible_gpus
from vae_tune.config.errors import UsageError
from vae_tune.config.settings import ResourceConfig

GB = 10**9
UUIDS = ("GPU-aaaa-0", "GPU-bbbb-1", "GPU-bbcc-2")
MIG = "MIG-dddd-0"


class Driver:
    """Three GPUs of 80 GB, and a slice of 20 GB; ``processes`` are pairs of process id and bytes, by UUID."""

    NVMLError, NVMLError_LibraryNotFound = pynvml.NVMLError, pynvml.NVMLError_LibraryNotFound
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported

    def __init__(self):
        self.processes = {uuid: [] for uuid in (*UUIDS, MIG)}
        self.unseen = dict.fromkeys((*UUIDS, MIG), 0)
        """Bytes that programs in other containers take."""
        self.error = {}
        self.open = 0

    def _raise(self, name):
        if name in self.error:
            raise self.error[name]

    def nvmlInit(self):  # noqa: N802
        self._raise("init")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return UUIDS[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != MIG:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return handle

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        self._raise("memory")
        total = 20 * GB if handle == MIG else 80 * GB
        used = sum(memory or 0 for _, memory in self.processes[handle]) + self.unseen[handle]
        return SimpleNamespace(total=total, used=used, free=total - used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in self.processes[handle]]


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(module, "pynvml", driver)
    monkeypatch.setattr(module, "_ENDING_SECONDS", 0.05)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield driver
    assert driver.open == 0


def ids(**config):
    return [gpu.id for gpu in choose_gpus(ResourceConfig(**config), pytest.fail)]


def test_trials_run_on_all_gpus_that_nobody_uses(driver):
    assert ids() == list(UUIDS)
    assert visible_gpus()[1] == Gpu("GPU-bbbb-1", "GPU 1", 80 * GB, 80 * GB, 0)


def test_a_gpu_on_which_others_work_is_left_to_them_and_named(driver):
    driver.processes[UUIDS[1]] = [(1, 20 * GB), (2, None)]
    said = []
    assert [gpu.id for gpu in choose_gpus(ResourceConfig(), said.append)] == [UUIDS[0], UUIDS[2]]
    assert said == [
        "Others use GPU 1 (60.0 of 80.0 GB free, 2 programs): trials run elsewhere. "
        "--share-gpus uses what is free there too."
    ]
    assert ids(share_gpus=True) == list(UUIDS)


def test_memory_that_is_taken_by_no_program_that_can_be_seen_is_in_use_too(driver):
    driver.unseen[UUIDS[0]] = 3 * GB  # of a desktop
    assert len(ids()) == 3
    driver.unseen[UUIDS[0]] = 30 * GB
    assert [gpu.id for gpu in choose_gpus(ResourceConfig(), lambda _: None)] == list(UUIDS[1:])


def test_what_this_process_holds_itself_does_not_count(driver):
    driver.processes[UUIDS[0]] = [(os.getpid(), 50 * GB)]
    assert choose_gpus(ResourceConfig(), pytest.fail)[0].free == 80 * GB


def test_without_a_free_gpu_the_search_says_who_has_them_and_what_to_do(driver):
    for uuid in UUIDS:
        driver.processes[uuid] = [(1, 40 * GB)]
    with pytest.raises(UsageError) as raised:
        ids()
    first, second = str(raised.value).splitlines()
    assert first.startswith("Others use every GPU: GPU 0 (40.0 of 80.0 GB free, 1 program), GPU 1 (")
    assert "--share-gpus" in second
    assert "--gpus-per-trial 0" in second


def test_workers_of_a_killed_search_may_take_a_while_to_leave(driver, monkeypatch):
    for uuid in UUIDS:
        driver.processes[uuid] = [(1, 40 * GB)]
    monkeypatch.setattr(module, "_ENDING_SECONDS", 60.0)
    monkeypatch.setattr(module.time, "sleep", lambda _: driver.processes.update({UUIDS[2]: []}))
    assert [gpu.id for gpu in choose_gpus(ResourceConfig(), lambda _: None)] == [UUIDS[2]]


@pytest.mark.parametrize("config", [{"gpus_per_trial": 0.5}, {"gpus_per_trial": 0}, {"address": "auto"}])
def test_what_the_user_decides_or_other_machines_have_is_not_looked_at(driver, config):
    driver.error["init"] = AssertionError
    assert ids(**config) == []


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("2", [("2", "GPU 2")]),
        ("1, 0", [("1", "GPU 1"), ("0", "GPU 0")]),
        ("GPU-bbcc", [("GPU-bbcc", "GPU 2")]),
        (MIG, [(MIG, MIG)]),
        ("GPU-aaaa,GPU-zz,GPU-bbbb", [("GPU-aaaa", "GPU 0")]),
        ("0,7,1", [("0", "GPU 0")]),  # as CUDA reads it
        ("0,-1,1", [("0", "GPU 0")]),
        ("GPU-zz", []),
        ("NoDevFiles", []),
        ("", []),
    ],
)
def test_the_gpus_that_a_job_was_given_are_those_of_cuda_visible_devices(driver, monkeypatch, given, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert [(gpu.id, gpu.name) for gpu in visible_gpus(pytest.fail)] == found


def test_of_a_slice_its_own_memory_counts(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", MIG)
    driver.processes[MIG] = [(1, 5 * GB)]
    assert visible_gpus()[0] == Gpu(MIG, MIG, 15 * GB, 20 * GB, 1)


@pytest.mark.parametrize(
    ("where", "error", "line"),
    [
        ("init", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, None),
        ("init", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "NVIDIA's driver does not work: RM has detected"),
        ("memory", pynvml.NVML_ERROR_NOT_SUPPORTED, None),
        (
            "memory",
            pynvml.NVML_ERROR_GPU_IS_LOST,
            "NVIDIA's driver does not tell what is free on the GPUs: ",
        ),
    ],
)
def test_without_a_working_driver_ray_decides(driver, where, error, line):
    driver.error[where] = pynvml.NVMLError(error)
    said = []
    assert choose_gpus(ResourceConfig(), said.append) == []
    assert len(said) == (line is not None)
    assert all(text.startswith(line) for text in said)


def test_the_real_library_is_asked_in_the_same_way():
    """A machine without a driver has no library to load; one with a driver gives real GPUs."""
    found = visible_gpus(pytest.fail)
    assert all(0 < gpu.free <= gpu.total for gpu in found)
    for name in (name for name in dir(Driver) if name.startswith("nvml")):
        assert callable(getattr(pynvml, name))


@pytest.mark.parametrize("before", [None, "0,1"])
def test_processes_see_the_chosen_gpus_alone(monkeypatch, before):
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with only([]):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    with only([Gpu(uuid, "", 1, 1, 0) for uuid in UUIDS[:2]]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa-0,GPU-bbbb-1"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


@pytest.mark.parametrize(("needed", "count"), [(3, 6), (20, 1), (12, 1), (10, 2)])
def test_as_many_trials_share_a_gpu_as_fit_into_what_is_free_on_each(needed, count):
    gpus = [Gpu("a", "GPU 0", 80 * GB, 80 * GB, 0), Gpu("b", "GPU 1", 20 * GB, 80 * GB, 1)]
    assert most_per_gpu(gpus, needed * GB, pytest.fail) == count


def test_a_configuration_that_may_not_fit_alone_is_warned_of_with_both_numbers():
    said = []
    assert most_per_gpu([Gpu("a", "GPU 0", 20 * GB, 80 * GB, 1)], 24 * GB, said.append) == 1
    assert "needs about 24.0 GB of GPU memory, but of GPU 0 20.0 GB are free" in said[0]
