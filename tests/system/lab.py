"""Several real hosts on one machine, which share its disk and nothing else.

Each host has its own address, process ids, host name, home, /tmp/ray, /dev/shm and ssh server. The switch between them
is in a network namespace of its own, which no wire leaves: labs never meet, and no packet reaches any other network.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.debian import install
from tests.system.conftest import ROOT, descendants, wait_for
from vae_tune.cluster.auth_token import make_token

PROGRAMS = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child")
ENVIRONMENT = {
    "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}
BOOT = """
    set -eu
    mount -t tmpfs -o size=1g tmpfs /dev/shm
    mount -t tmpfs tmpfs /run; mkdir /run/sshd
    mkdir -p /tmp/ray; mount --bind {folder}/ray /tmp/ray
    mount --bind {folder}/passwd /etc/passwd
    hostname {name}
    until ip link set eth0 up; do sleep 0.02; done 2>/dev/null
    ip addr add {address}/24 dev eth0; ip link set lo up
    ip route add default via {network}.254 # nobody has that address: it makes Ray find the host's own
    cd {folder}/home
    $(command -v sshd) -D -e -f /dev/null -h {lab}/key -o PidFile=none -o UsePAM=no -o StrictModes=no \
        -o PermitRootLogin=yes -o AuthorizedKeysFile={lab}/key.pub &
    while :; do sleep 3600 & wait -n || true; done # whoever lost its parent ends as a child of this shell
"""


class Remote:
    """A command on a host, over ssh."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait(self, timeout=300):
        """Return its exit code and all that it said."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def succeed(self, timeout=300):
        """Return what it said, once it has ended well."""
        code, output = self.wait(timeout)
        assert code == 0, output
        return output


class Lab:
    """The hosts, by number."""

    network = "10.78.0"

    def __init__(self, folder):
        self.folder, self.boots, self._commands = folder, {}, []
        self.cluster_name = f"vae-tune-{os.getpid()}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        make_token(folder / "auth_token")
        self.switch = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
        own = os.stat("/proc/self/ns/net").st_ino
        wait_for(lambda: os.stat(f"/proc/{self.switch.pid}/ns/net").st_ino != own)
        # with a fixed address, or the switch takes another one when a host goes, and the others talk to the old one
        for words in (
            "link add lab address 02:00:00:00:00:01 type bridge",
            f"addr add {self.network}.1/24 dev lab",
            "link set lab up",
        ):
            self._ip(words)

    @property
    def key(self):
        """The private key that opens every host."""
        return self.folder / "key"

    def address(self, host):
        return f"{self.network}.{10 + host}"

    def home(self, host):
        return self.folder / f"host{host}" / "home"

    def start(self, *hosts, token=True):
        """Switch hosts on; with the token of the lab in their homes, where nothing else ships it."""
        for host in hosts:
            folder = self.folder / f"host{host}"
            for part in ("ray", "home/.ray"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            if token:
                shutil.copy(self.folder / "auth_token", folder / "home" / ".ray")
            users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
            users = [[*user[:5], str(folder / "home"), "/bin/bash"] if user[2] == "0" else user for user in users]
            (folder / "passwd").write_text("".join(":".join(user) + "\n" for user in users))
            values = {"name": f"host{host}", "address": self.address(host), "network": self.network}
            boot = BOOT.format(folder=folder, lab=self.folder, **values)
            with (folder / "log").open("a") as log:
                self.boots[host] = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *self._inside(), "unshare", *NAMESPACES, "bash", "-c", boot],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        for host in hosts:
            (first,) = wait_for(lambda host=host: list(descendants(self.boots[host].pid))[:1])
            # with the address that it had before, as real ones, or the others talk to the old one for a while
            address = f"02:00:00:00:01:{host:02x}"
            self._ip(f"link add port{host} type veth peer name eth0 address {address} netns {first}")
            self._ip(f"link set port{host} master lab up")
        for host in hosts:
            wait_for(lambda host=host: self.ssh(host, "true").wait()[0] == 0)

    def kill(self, host):
        """Take the power from a host: all of its processes end at once."""
        self.boots[host].kill()
        self.boots[host].wait()

    def cut(self, host):
        """Pull the cable of a host."""
        self._ip(f"link set port{host} down")

    def plug(self, host):
        """Plug it in again."""
        self._ip(f"link set port{host} up")

    def ssh(self, host, command, **environment):
        """Begin a shell command on a host."""
        variables = {**ENVIRONMENT, "HOME": str(self.home(host)), **environment}
        words = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
        options = "-q -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5"
        target = ("-i", str(self.key), f"root@{self.address(host)}")
        self._commands.append(
            Remote([*self._inside(), "ssh", *options.split(), *target, f"export {words}; {command}"])
        )
        return self._commands[-1]

    def end(self):
        """Switch everything off."""
        for host in self.boots:
            self.kill(host)
        for command in self._commands:
            command.process.kill()
            command.process.wait()
            command.process.stdout.close()
        self.switch.kill()
        self.switch.wait()
        parts = (hashlib.sha256(text.encode()).hexdigest()[:10] for text in (getpass.getuser(), self.cluster_name))
        shutil.rmtree("/tmp/ray_ssh_{}/{}".format(*parts), ignore_errors=True)

    def _inside(self):
        return ["nsenter", "--net", "--target", str(self.switch.pid)]

    def _ip(self, words):
        done = subprocess.run([*self._inside(), "ip", *words.split()], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"ip {words}: {done.stderr}"


@contextlib.contextmanager
def running_lab(folder):
    """Make a lab in ``folder``; skip the test where that is impossible."""
    for program, package in PROGRAMS.items():
        if not shutil.which(program, path=ENVIRONMENT["PATH"]) and (problem := install(package)):
            pytest.skip(f"no hosts: {program} is not installed, and {problem}")
    tried = subprocess.run(["unshare", *NAMESPACES, "true"], check=False, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no hosts: {tried.stderr.strip()}")
    lab = Lab(folder)
    try:
        yield lab
    finally:
        lab.end()
