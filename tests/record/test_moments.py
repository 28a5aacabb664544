"""Every moment is the same in any zone of the world: of what is read, copied, shown and written anew."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vae_tune

OLD = Path(__file__).parents[1] / "old" / "search"
BERLIN, FAR = "Europe/Berlin", "Pacific/Kiritimati"
"""In Berlin summer time ends on 2026-10-25 at 01:00 UTC, in the middle of that study; Kiritimati is 14 hours ahead."""
LOOK = """
import json, os, sys, threading, time, urllib.request
from pathlib import Path
import optuna_dashboard
from vae_tune.analysis.audit import audit
from vae_tune.tasks.compare import side_by_side
from vae_tune.cli.dashboard import make_dashboard
from vae_tune.analysis.compute_cost import compute_cost
from vae_tune.record.metadata import read_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.analysis.study import load_studies, load_study
from vae_tune.record.trials import read_trials, row_from_trial


def look(folder):
    rows = [row_from_trial(trial) for trial in read_trials(folder) if trial.state.name != "WAITING"]
    seen = {"journal": [[row.started, row.ended] for row in rows]}
    seen["contradictions"] = audit(folder)
    record = StudyRecord.resume(folder, read_metadata(folder))
    seen["record"] = [[row.started, row.ended] for row in record.rows]
    record.close()
    seen["trials.csv"] = (folder / "trials.csv").read_text()
    study = load_study(folder)
    seen["table"] = study.trials[["started", "ended"]].to_json(date_format="iso")
    seen["cost"] = compute_cost(study).entries.to_json()
    seen["found"] = side_by_side(load_studies([folder])).to_json()
    server = make_dashboard(folder, 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/api/studies/0") as reply:
        trials = json.load(reply)["trials"]
    seen["dashboard"] = [[trial["datetime_start"], trial.get("datetime_complete")] for trial in trials]
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/api/studies/0/plot/timeline") as reply:
        seen["bars"] = len(json.load(reply)["data"])
    server.shutdown()
    return seen


for argument in sys.argv[1:]:  # a fork need not import anew
    zone, _, folder = argument.partition("=")
    if not (pid := os.fork()):
        os.environ["TZ"] = zone
        time.tzset()
        print(json.dumps({zone: look(Path(folder))}), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What there is to see of the study, by zone."""
    folders = {zone: tmp_path_factory.mktemp("zone") / "search" for zone in (BERLIN, FAR)}
    for folder in folders.values():
        shutil.copytree(OLD, folder, ignore=shutil.ignore_patterns("confirmation"))
    command = [sys.executable, "-c", LOOK, *(f"{zone}={folder}" for zone, folder in folders.items())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {zone: there for line in done.stdout.splitlines() for zone, there in json.loads(line).items()}


@pytest.mark.parametrize("zone", [BERLIN, FAR])
def test_a_trial_begins_and_ends_when_the_journal_says_so(seen, zone):
    ends = ["2026-10-25T00:40:17", "2026-10-25T00:46:17", "2026-10-25T00:56:17", "2026-10-25T01:02:17"]
    moments = seen[zone]["journal"]
    assert [ended for _, ended in moments] == [*(f"{end}.000+00:00" for end in ends), ""]
    assert [started for started, _ in moments][3:] == [
        "2026-10-25T00:58:17.000+00:00",
        "2026-10-25T01:04:17.000+00:00",
    ]
    assert seen[zone]["record"] == moments
    assert seen[zone]["dashboard"][3] == ["2026-10-25T00:58:17+00:00", "2026-10-25T01:02:17+00:00"]


def test_nothing_looks_different_in_another_zone(seen):
    assert seen[FAR] == seen[BERLIN]
    assert seen[FAR]["contradictions"] == []


def test_nothing_of_the_package_asks_for_a_local_time():
    """A call of these without a zone gives this machine's local time, or takes one for it."""
    zoned = {"now": 1, "fromtimestamp": 2}
    never = {"utcnow", "utcfromtimestamp", "today", "localtime", "mktime", "ctime", "strptime"}
    found = []
    for path in sorted(Path(vae_tune.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name, given = node.func.attr, len(node.args) + len(node.keywords)
                if name in never or (name == "astimezone" and not given):
                    found.append(f"{path}:{node.lineno} {name}")
                if name in zoned and given < zoned[name] and ast.unparse(node.func.value).startswith("datetime"):
                    found.append(f"{path}:{node.lineno} {name}")
    assert found == []
