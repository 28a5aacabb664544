"""What the tests of the live views share: trials as values, servers that are killed, a socket that hangs."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time

from tests.studies import iso
from vae_tune.config.names import COMPLETE, RUNNING
from vae_tune.record.trials import TrialRow

VALUES = {"latent_size": 20, "hidden_width": 400, "learning_rate": 1e-3}
SECONDS = 30  # for what takes milliseconds


def trial(number, *losses, state=None, values=VALUES, reason="", max_epochs=2):
    """A trial with these losses, one an epoch; RUNNING before ``max_epochs``, where ``state`` says nothing else."""
    reports = tuple(
        {
            "epoch": epoch,
            "train_loss": loss + 1,
            "val_loss": loss,
            "val_reconstruction": loss - 20,
            "val_kl": 20.0,
            "active_units": 7,
            "seconds": 2.5,
            "images_per_second": 1000.0,
            "time": iso(number + epoch),
        }
        for epoch, loss in enumerate(losses, start=1)
    )
    state = state or (COMPLETE if len(losses) == max_epochs else RUNNING)
    ended = "" if state == RUNNING else iso(number + len(losses))
    return TrialRow(number, values, iso(number), state, reason, reports, ended=ended, node="host", device="cpu")


class Warnings:
    """What a view warned of."""

    def __init__(self):
        self.lines = []
        self._one = threading.Event()

    def __call__(self, text):
        self.lines.append(text)
        self._one.set()

    def first(self):
        """Wait for the first warning."""
        assert self._one.wait(SECONDS)
        return self.lines[0]


class Server:
    """A server in processes of its own, on loopback; it is up when it takes connections."""

    def __init__(self, command, port, log, user=None):
        self.command, self.port, self.log, self.user = [str(word) for word in command], port, log, user
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                user=self.user,
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def kill(self):
        """Kill the server and what it started: they have a process group of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def hanging_port():
    """A port that takes connections and never answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]
