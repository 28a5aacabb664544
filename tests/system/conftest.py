import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vae_tune.analysis.audit import audit
from vae_tune.cluster.ray_runtime import running_ray
from vae_tune.cluster.slots import Slots
from vae_tune.config.settings import ResourceConfig
from vae_tune.record.trials import read_trials

ROOT = Path(__file__).parents[2]
SLOTS = Slots(count=2, cpus=1, gpus=0)


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for all tests of a module that run cheap trainables in this process."""
    with running_ray(ResourceConfig()):
        yield


def descendants(pid):
    """All processes below ``pid``, by id and command line."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # ended meanwhile
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    below, frontier = {}, {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        for child in frontier:
            with contextlib.suppress(OSError):
                below[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return below


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class Command:
    """A search in a process of its own, as a person starts it."""

    def __init__(self, *options, cwd, environment=None, program=(ROOT / "search.py",)):
        self.options = [str(option) for option in options]
        self.process = subprocess.Popen(
            [sys.executable, *map(str, program), *self.options],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait(self, timeout=600):
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def wait_for_line(self, text):
        """Read what the search prints up to the line that has ``text`` in it."""
        said = ""
        for line in self.process.stdout:
            said += line
            if text in line:
                return
        raise AssertionError(f"{text!r} was not said before the end, exit code {self.process.wait()}, but:\n{said}")

    def children(self, pattern=""):
        """Ids of the processes below the search whose command line has ``pattern`` in it."""
        return [pid for pid, command in descendants(self.process.pid).items() if pattern in command]

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)


@pytest.fixture
def search(tmp_path):
    """Start searches in ``tmp_path``; whatever of them is left at the end is killed by process group."""
    started = []

    def start(*options, **how):
        started.append(Command(*options, cwd=tmp_path, **how))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()


def wait_for(condition, running=None, timeout=300.0):
    """Wait until ``condition()`` is true and return what it returned; not beyond the end of a search ``running``."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended = running is not None and running.process.poll() is not None
        if result := condition():
            return result
        assert not ended, running.wait()
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout} s: {condition}")


def table(path):
    """The rows of a CSV file of the record, none where it is not written yet."""
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def is_whole(folder, trials=4):
    assert audit(folder) == []
    found = read_trials(folder)
    assert len(found) == trials
    ended_well = ("COMPLETE", "PRUNED")
    assert {trial.number: trial.user_attrs for trial in found if trial.state.name not in ended_well} == {}
    assert not list(folder.rglob("*.tmp"))
