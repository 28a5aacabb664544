"""Two users on one machine: their searches run at once, also beside a head of Ray, and nothing of them collides."""

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

    def start(self, user, *words):
        """Start Python as a user, in the home of that user."""
        uid, home = IDS[user], self.place / user
        environment = {"HOME": home, "USER": user, "LOGNAME": user, "PATH": os.environ["PATH"], "PYTHONPATH": ROOT}
        environment |= {"TMPDIR": self.place / "tmp", "RAY_USAGE_STATS_ENABLED": 0}
        variables = (f"{name}={value}" for name, value in environment.items())
        inside = ["nsenter", "--mount", "--target", self.boot.pid, "setpriv", "--reuid", uid, "--regid", uid]
        command = [*inside, "--clear-groups", "env", "-i", "-C", home, *variables, sys.executable, *words]
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
        return self.start(user, ROOT / "search.py", *SMALL.split(), *options)

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
    head = machine.start("bob", "-m", "ray.scripts.scripts", *words, "--disable-usage-stats")
    wait_for((machine.place / "tmp/ray/ray_current_cluster").exists, timeout=60)
    wait_for(lambda: any("raylet/raylet" in command for command in descendants(head.pid).values()), timeout=60)
    refused = machine.search("ada", "--address", "auto")
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2, output
    assert "No Ray cluster at address 'auto': " in output
    assert " belongs to another user." in output
    searches = {
        ("ada", "first"): machine.search("ada", "--study-name", "first"),
        ("ada", "second"): machine.search("ada", "--study-name", "second"),
        ("bob", "third"): machine.search("bob", "--study-name", "third", "--address", "auto"),
    }
    for (user, name), running in searches.items():
        output, _ = running.communicate(timeout=120)
        assert running.returncode == 0, output
        is_whole(machine.place / user / "results" / name, trials=2)
    assert head.poll() is None
    (folder,) = (machine.place / "tmp").iterdir()  # that of the head; the others are gone
    assert {path.lstat().st_uid for path in (folder, *folder.rglob("*"))} == {IDS["bob"]}
