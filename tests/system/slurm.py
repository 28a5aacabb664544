"""A real Slurm on one machine: a controller and two nodes on loopback, which share the machine's disk.

Its daemons, its munge key and its ports are its own, so labs run side by side. It has no control groups, so what a job
starts is ended by the process tree.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.debian import install
from tests.system.conftest import ROOT, wait_for

PROGRAMS = {"slurmctld": "slurm-wlm", "munged": "munge"}
SCRIPT = ROOT / "cluster" / "slurm.sh"
NODES = ("n1", "n2")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
# a requeued job waits until the credentials of its steps have expired: two minutes by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1
MailProg=/bin/true
MpiDefault=none
# a job is requeued only if it asks for that
JobRequeue=0
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=10 State=UP
"""


class Slurm:
    """The controller and its nodes."""

    def __init__(self, folder, before=()):
        """``folder`` has a short path, and other users may enter it; ``before`` precedes the commands of daemons."""
        self.folder, self._before, self._daemons = folder, before, {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        own = {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self.environment = {**kept, **own, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self, cpus):
        """Start them, each node with so many CPUs."""
        folder = self.folder
        (folder / "state").mkdir()
        host, port, *ports = socket.gethostname(), *_free_ports(1 + len(NODES))
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={own} CPUs={cpus} State=UNKNOWN"
            for name, own in zip(NODES, ports, strict=True)
        ]
        text = CONFIGURATION.format(host=host, port=port, folder=folder, nodes="\n".join(lines))
        (folder / "slurm.conf").write_text(text)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": key, "pid-file": folder / "munge.pid", "seed-file": folder / "munge.seed"}
        files |= {"socket": folder / "munge.socket", "log-file": folder / "munge.log"}
        self._start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        wait_for((folder / "munge.socket").exists, timeout=10)
        self._start("slurmctld", "-D", "-f", folder / "slurm.conf")
        for name in NODES:
            self.boot(name)
        wait_for(lambda: self.states() == dict.fromkeys(NODES, "idle"), timeout=30)

    def boot(self, node):
        """Start the daemon of a node."""
        self._start("slurmd", "-D", "-N", node, "-f", self.folder / "slurm.conf", name=node)

    def kill(self, node):
        """Kill the daemon of a node with all that its jobs run there, as a power failure does."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        for pid in self.processes(SLURMD_NODENAME=node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *words, check=True, **how):
        """Run a command of Slurm, and return what it prints."""
        done = subprocess.run(
            [str(word) for word in words],
            check=False,
            **{"env": self.environment, "capture_output": True, "text": True, "timeout": 60, **how},
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *words, options=(), cwd, script=SCRIPT):
        """Submit a search, and return the job's id; its output goes into ``cwd``."""
        options = ("--parsable", f"--chdir={cwd}", "--output=%j.log", "--cpus-per-task=1", *options)
        return self.run("sbatch", *options, script, *words, cwd=cwd).strip()

    def queue(self, cwd):
        """Ids of the jobs of a folder that wait, run or end."""
        lines = self.run("squeue", "--noheader", "--format=%i %Z").splitlines()
        return [job for job, place in (line.split(maxsplit=1) for line in lines) if place == str(cwd)]

    def job(self, job):
        """What the controller knows of a job, by the names that ``scontrol show job`` gives."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job, cwd, timeout=600):
        """Wait for the end of a job, and return its state and all that it printed."""
        deadline = time.monotonic() + timeout
        while (state := self.job(job)["JobState"]) not in ENDED:
            assert time.monotonic() < deadline, self.output(job, cwd)
            time.sleep(0.5)
        return state, self.output(job, cwd)

    def wait_for(self, condition, job, cwd, timeout=300):
        """Wait until ``condition()`` is true and return what it returned; not beyond the end of the job."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.job(job)["JobState"] in ENDED or time.monotonic() > deadline
            if found := condition():
                return found
            assert not ended, self.output(job, cwd)
            time.sleep(0.2)

    def output(self, job, cwd):
        path = cwd / f"{job}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def states(self):
        """The state of each node."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %t", check=False)
        return dict(line.split() for line in lines.splitlines())

    def processes(self, **environment):
        """Ids of this lab's processes that were started with these variables."""
        wanted = {"SLURM_CONF": self.environment["SLURM_CONF"], **environment}
        entries, found = {f"{name}={value}".encode() for name, value in wanted.items()}, []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and entries <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.append(int(folder.name))
        return [pid for pid in found if pid not in (os.getpid(), *(daemon.pid for daemon in self._daemons.values()))]

    def end(self):
        """Cancel all jobs, and end all that runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("scancel", "--signal=KILL", "--full", "--user=root", check=False, timeout=10)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, program, *words, name=None):
        path = shutil.which(program, path=f"{self.environment['PATH']}:/usr/sbin:/sbin")
        with (self.folder / f"{name or program}.log").open("a") as log:
            self._daemons[name or program] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._before, path, *map(str, words)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running_slurm(cpus=1, before=()):
    """Start a Slurm, each node with so many CPUs; skip the test where that is impossible.

    ``before`` precedes the commands of its daemons, for instance to enter a namespace.
    """
    for program, package in PROGRAMS.items():
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") and (problem := install(package)):
            pytest.skip(f"no Slurm: {program} is not installed, and {problem}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    slurm = Slurm(folder, before)
    try:
        slurm.start(cpus)
        yield slurm
    finally:
        slurm.end()
