"""The end of an interrupted command: its exit code, its last words, and that it comes at all."""

import subprocess
import sys

import pytest

HELD = """
import dataclasses, signal, sys, threading
from vae_tune.cli import main
from vae_tune.config import local_copies

def interrupted(_):
    threading.Thread(target=threading.Event().wait).start()  # waits forever, as for a lock that nobody releases
    local_copies._copies.append(copy)
    signal.raise_signal(getattr(signal, name))  # os.kill may pick the other thread, and be late

signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell script ignores it
copy, name = sys.argv.pop(), sys.argv.pop()
command = dataclasses.replace(main.load_command("list"), run=interrupted)
main.load_command = lambda _: command
main.main(["list"])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_command_ends_although_a_thread_of_it_never_does(tmp_path, name, code):
    copy = tmp_path / "copy"
    copy.mkdir()
    words = [sys.executable, "-c", HELD, name, copy]
    ended = subprocess.run(words, check=False, capture_output=True, text=True, timeout=100)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr == ("Interrupted.\n" if name == "SIGINT" else "")
    assert not copy.exists()


DROPPED = """
import dataclasses, signal, sys, threading, weakref
from vae_tune.cli import main

class Anything:
    pass

def interrupted(_):
    anything = Anything()
    watch = weakref.ref(anything, lambda _: signal.raise_signal(getattr(signal, name)))
    del anything  # Python prints what the callback raises, and drops it
    threading.Event().wait(100)

signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
signal.signal(signal.SIGINT, signal.default_int_handler)
name = sys.argv.pop()
command = dataclasses.replace(main.load_command("list"), run=interrupted)
main.load_command = lambda _: command
main.main(["list"])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interruption_that_python_drops_comes_again(name, code):
    words = [sys.executable, "-c", DROPPED, name]
    ended = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr == ("Interrupted.\n" if name == "SIGINT" else "")
