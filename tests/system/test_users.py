"""Two users on one machine: their searches run at once, also beside a head of Ray, and nothing of them collides.

Some of the searches are jobs of Slurm on one node.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, descendants, is_whole, wait_for
from tests.system.slurm import SCRIPT, running_slurm

pytestmark = pytest.mark.system

IDS = {"ada": 41_001, "bob": 41_002}
SMALL = "--num-samples 2 --train-size 500 --max-epochs 1 --scheduler none --hidden-width 16"
SETUP = """
    set -eu
    mount --bind {place}/passwd /etc/passwd
    {opened}
    echo ready; exec sleep infinity
"""
OPENED = """
    mkdir {hold}; mount --bind {folder} {hold}; mount -t tmpfs -o mode=755 tmpfs {folder}
    for part in {parts}; do mkdir -p {folder}/$part; mount --bind {hold}/$part {folder}/$part; done
"""


class Machine:
    """This machine as both users see it: with their names, and with the program where they may read it."""

    def __init__(self, place):
        self.place, self.commands = place, []
        place.chmod(0o755)
        (place / "tmp").mkdir()
        (place / "tmp").chmod(0o1777)
        lines = Path("/etc/passwd").read_text()
        for name, uid in IDS.items():
            home = place / name
            home.mkdir(mode=0o700)
            os.chown(home, uid, uid)
            lines += f"{name}:x:{uid}:{uid}::{home}:/bin/bash\n"
        (place / "passwd").write_text(lines)
        setup = SETUP.format(place=place, opened="\n".join(self._opened()))
        self.boot = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "bash", "-c", setup], stdout=subprocess.PIPE
        )
        assert self.boot.stdout.readline() == b"ready\n"

    def _opened(self):
        """Yield the commands that let everybody pass through folders that hide the program, such as /root."""
        needed = {Path(path).resolve() for path in (ROOT, sys.prefix, sys.base_prefix)}
        hiding = {}
        for path in needed:
            for parent in reversed(path.parents):
                if not parent.stat().st_mode & 0o001:
                    hiding.setdefault(parent, []).append(str(path.relative_to(parent)))
                    break
        for number, (folder, parts) in enumerate(hiding.items()):
            yield OPENED.format(hold=self.place / f"hold{number}", folder=folder, parts=" ".join(parts))

    @property
    def inside(self):
        """What precedes a command that sees the machine so."""
        return ["nsenter", "--mount", f"--target={self.boot.pid}"]

    def start(self, user, *words, environment=None):
        """Start a command as a user, in the home of that user."""
        uid, home = IDS[user], self.place / user
        path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
        variables = {"HOME": home, "USER": user, "LOGNAME": user, "PATH": path, "PYTHONPATH": ROOT}
        variables |= {"TMPDIR": self.place / "tmp", "RAY_USAGE_STATS_ENABLED": 0, **(environment or {})}
        as_user = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "env", "-i", "-C", home]
        command = [*self.inside, *as_user, *(f"{name}={value}" for name, value in variables.items()), *words]
        self.commands.append(
            subprocess.Popen(
                list(map(str, command)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return self.commands[-1]

    def search(self, user, *options):
        """Start a small search of a user."""
        return self.start(user, sys.executable, ROOT / "search.py", *SMALL.split(), *options)

    def submit(self, user, slurm, *options):
        """Start a small search of a user as a job on the first node; the command ends with it."""
        command = ["sbatch", "--wait", "--nodelist=n1", "--cpus-per-task=1", "--output=job.log", SCRIPT]
        environment = {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
        return self.start(user, *command, *SMALL.split(), *options, environment=environment)

    def end(self):
        """End all that was started."""
        for command in self.commands:
            left = [command.pid, *descendants(command.pid)]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            command.wait()
            command.stdout.close()
        self.boot.kill()
        self.boot.wait()
        self.boot.stdout.close()


@pytest.fixture
def machine():
    if os.geteuid():
        pytest.skip("only root can be two users")
    place = Path(tempfile.mkdtemp(prefix="users-", dir="/tmp"))  # short, for the sockets of the head
    found = Machine(place)
    try:
        yield found
    finally:
        found.end()
        shutil.rmtree(place)


def test_searches_of_two_users_run_at_once_two_of_one_and_one_on_the_head_of_the_other(machine):
    words = ["start", "--head", "--block", "--port", 0, "--num-cpus", 1, "--include-dashboard", "false"]
    head = machine.start("bob", sys.executable, "-m", "ray.scripts.scripts", *words, "--disable-usage-stats")
    wait_for((machine.place / "tmp/ray/ray_current_cluster").exists, timeout=60)
    wait_for(lambda: any("raylet/raylet" in command for command in descendants(head.pid).values()), timeout=60)
    refused = machine.search("ada", "--address", "auto")
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2, output
    assert "No Ray cluster at address 'auto': " in output
    assert " belongs to another user." in output
    with running_slurm(cpus=2, before=machine.inside) as slurm:
        searches = {
            ("ada", "first"): machine.search("ada", "--study-name", "first"),
            ("ada", "second"): machine.submit("ada", slurm, "--study-name", "second"),
            ("bob", "third"): machine.submit("bob", slurm, "--study-name", "third"),
            ("bob", "fourth"): machine.search("bob", "--study-name", "fourth", "--address", "auto"),
        }
        for (user, name), running in searches.items():
            output, _ = running.communicate(timeout=120)
            log = machine.place / user / "job.log"
            assert running.returncode == 0, output + (log.read_text() if log.exists() else "")
            is_whole(machine.place / user / "results" / name, trials=2)
    assert head.poll() is None
    (folder,) = (machine.place / "tmp").iterdir()  # that of the head; the others are gone
    assert {path.lstat().st_uid for path in (folder, *folder.rglob("*"))} == {IDS["bob"]}
