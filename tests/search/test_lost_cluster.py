"""An interrupted search ends in seconds also where its cluster is gone; in processes of their own, which end."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading, time
from types import SimpleNamespace
from vae_tune.search import lost_cluster
from vae_tune.search.stopping import Stopping

lost_cluster._POLL_SECONDS, lost_cluster._PATIENCE_SECONDS = 0.01, 0.1
owned, answers, interrupted = (word == "True" for word in sys.argv[1:])
ray, stopping = SimpleNamespace(can_restart=owned, answers=lambda: answers), Stopping()
if interrupted:
    stopping.interrupt()
with lost_cluster.ending_without_cluster(ray, stopping, lambda: print("recorded", flush=True)):
    threading.Event().wait({wait})
print("went on")
"""


def end(wait, *, owned=False, answers=False, interrupted=True):
    """Return the exit code and the output of a process whose search hangs for so many seconds."""
    words = [sys.executable, "-c", SCRIPT.replace("{wait}", str(wait)), *map(str, (owned, answers, interrupted))]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_a_search_that_hangs_without_its_cluster_is_recorded_and_ends():
    assert end(1000) == (130, "recorded\n")


@pytest.mark.parametrize("state", [{"owned": True}, {"answers": True}, {"interrupted": False}])
def test_no_other_search_is_ended(state):
    assert end(1, **state) == (0, "went on\n")
