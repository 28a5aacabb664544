"""What the end of a search needs is imported while its trials train."""

import subprocess
import sys


def test_an_import_that_outlasts_the_search_says_nothing():
    """A second Ctrl-C can end it so early; modules that register something for the end are refused then."""
    code = """
import threading
from vae_tune.tasks.winner_listener import import_ahead
def late():
    threading.main_thread().join()
    import_ahead(50)
    print("tried")
threading.Thread(target=late).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("tried\n", "")
