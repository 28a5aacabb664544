"""What the end of a search needs is imported while its trials train."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


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


def test_the_end_of_a_search_imports_nothing_but_what_was_imported_ahead(tmp_path):
    code = """
import sys
from tests.studies import make_study
from vae_tune.analysis.advice import final_findings
from vae_tune.analysis.study import load_study
from vae_tune.tasks.winner_listener import import_ahead
folder = make_study(sys.argv[1])
import_ahead(40)
ahead = set(sys.modules)
from vae_tune.replay.forecast import write_forecast
from vae_tune.views.report.page import write_report
write_forecast(load_study(folder), 60)
write_report(folder)
final_findings(load_study(folder))
print(*{name.partition(".")[0] for name in set(sys.modules) - ahead})
"""
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    late = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert not {*late} & {"vae_tune", "jinja2", "optuna", "plotly", "scipy", "sklearn", "torch"}
