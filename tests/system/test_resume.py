"""Searches that are interrupted or killed, and resumed."""

import json
import os
import re
import signal

import pytest

from tests.system.conftest import alive, is_whole, table, wait_for
from vae_tune.analysis.audit import audit

pytestmark = pytest.mark.system

SMALL = ("--train-size", 5000, "--max-epochs", 3, "--results-dir", "out")


def is_told(path, status, report):
    """The command of --notify was given the end of the search."""
    message = json.loads(path.read_text())
    assert message["status"] == status
    assert (message["resume"] is None) == (status == "complete")
    assert (message["report"] or "").endswith(report)


def interrupt_in_order(running, folder):
    """Send SIGTERM to the process group, as ``timeout`` does, and to each process of Ray, as Slurm and systemd do."""
    os.killpg(running.process.pid, signal.SIGTERM)
    for pid in running.children("/ray/core/src/ray/"):
        os.kill(pid, signal.SIGTERM)
    code, output = running.wait()
    assert code == 130, output
    assert "Traceback" not in output
    assert "SIGTERM: the search is ending" in output
    assert "Winner: trial" in output
    assert "--resume" in output
    assert (folder / "report.html").exists()
    assert json.loads((folder / "best" / "metrics.json").read_text())["winner"]["validation"]
    assert not (folder / "forecast.json").exists()  # a replay would keep a person waiting


def interrupt_at_once(running, folder):
    """Press Ctrl-C twice."""
    running.kill(signal.SIGINT)
    running.wait_for_line("Ctrl-C: the search is ending, which takes some seconds. A second Ctrl-C ends it at once.")
    running.kill(signal.SIGINT)
    code, output = running.wait()
    assert code == 130, output
    assert "Traceback" not in output
    # on a busy machine the search can have ended before the second one came; its summary then has the command
    assert re.search(rf"^(To resume: |  ).*search.py --resume {folder}$", output, re.MULTILINE)


def test_interruptions_keep_everything_and_the_resume_completes_it(search, tmp_path):
    folder, epochs = tmp_path / "out" / "cut", tmp_path / "out" / "cut" / "epochs.csv"
    running = search("--num-samples", 6, "--study-name", "cut", "--notify", "cat > told.json", *SMALL)
    wait_for(lambda: len(table(epochs)) >= 2, running)
    interrupt_in_order(running, folder)
    is_told(tmp_path / "told.json", "interrupted", "out/cut/report.html")
    before = table(epochs)
    assert json.loads((folder / "study.json").read_text())["status"] == "interrupted"

    running = search("--resume", folder)
    wait_for(lambda: len(table(epochs)) > len(before), running)
    interrupt_at_once(running, folder)
    before = table(epochs)
    metadata = json.loads((folder / "study.json").read_text())
    assert metadata["status"] == "interrupted"
    assert all(run["ended"] for run in metadata["runs"])

    running = search("--resume", folder)
    running.wait_for_line("Evaluating the winner on the test images ...")
    os.killpg(running.process.pid, signal.SIGTERM)
    code, output = running.wait()
    assert code == 130, output
    assert "SIGTERM: the search is ending" in output
    assert json.loads((folder / "best" / "metrics.json").read_text())["winner"]["test"]
    assert json.loads((folder / "study.json").read_text())["status"] == "complete"
    assert "complete" in (folder / "report.html").read_text()
    assert table(folder / "epochs.csv")[: len(before)] == before
    trials = table(folder / "trials.csv")
    assert len(trials) == 6
    assert "RUNNING" not in {row["state"] for row in trials}
    seen = [(row["trial"], row["epoch"]) for row in table(folder / "epochs.csv")]
    assert len(seen) == len(set(seen))


def test_a_killed_driver_loses_no_trial_and_the_numbers_are_those_of_an_unbroken_search(search, tmp_path):
    one_at_a_time = ("--num-samples", 4, "--max-concurrent", 1, *SMALL)
    whole = search("--study-name", "whole", "--notify", "cat > whole.json", *one_at_a_time)
    code, output = whole.wait()
    assert code == 0, output
    assert "Report: out/whole/report.html" in output
    is_told(tmp_path / "whole.json", "complete", "out/whole/report.html")
    assert "Not enough data for a forecast: " in output  # of so few trials
    assert "Winner and reference" in (tmp_path / "out" / "whole" / "report.html").read_text()

    running = search(
        "--study-name", "killed", "--notify", "cat > killed.tmp; mv killed.tmp killed.json", *one_at_a_time
    )
    folder = tmp_path / "out" / "killed"
    for reports in (0, 1, 3):  # none: the study is there, and nothing reported
        wait_for((folder / "study.json").exists, running)
        wait_for(lambda count=reports: len(table(folder / "epochs.csv")) >= count, running)
        running.kill(signal.SIGKILL)
        running.wait()
        running = search("--resume", folder)
    is_told(wait_for(lambda: [*tmp_path.glob("killed.json")])[0], "killed", "")
    running.wait_for_line("Evaluating the winner")
    running.kill(signal.SIGKILL)
    running.wait()
    (folder / "report.html").unlink(missing_ok=True)
    (folder / "report.html").mkdir()  # nothing can be written there, which must harm nothing else
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    assert output.count("There is no report:") == 1
    assert audit(folder) == []
    assert "test" in json.loads((folder / "best" / "metrics.json").read_text())["winner"]
    columns = ("trial", "epoch", "train_loss", "val_loss", "val_reconstruction", "val_kl", "active_units")
    numbers = [
        [[row[name] for name in columns] for row in table(tmp_path / "out" / name / "epochs.csv")]
        for name in ("whole", "killed")
    ]
    assert numbers[0] == numbers[1]
    moments = ("started", "ended", "seconds")
    kept, expected = (
        [{name: cell for name, cell in row.items() if name not in moments} for row in table(place / "trials.csv")]
        for place in (folder, tmp_path / "out" / "whole")
    )
    assert kept == expected


def test_a_search_killed_in_the_middle_of_a_checkpoint_goes_on_from_the_one_before(search, tmp_path):
    large = (
        "--hidden-width",
        1024,
        "--train-size",
        1000,
        "--max-epochs",
        5,
        "--num-samples",
        2,
        "--max-concurrent",
        1,
    )
    running = search("--study-name", "torn", *large, "--results-dir", "out")
    folder = tmp_path / "out" / "torn"
    for _ in range(10):  # a checkpoint that was whole by the time of the kill does not count
        wait_for(lambda: list(folder.glob("checkpoints/*/*.safetensors")), running)
        workers = running.children("ray::ImplicitFunc")
        while not (half := list(folder.glob("checkpoints/*/.*.tmp"))):
            assert running.process.poll() is None, running.wait()
        for pid in (*workers, running.process.pid):
            os.kill(pid, signal.SIGKILL)
        assert "killed" in running.wait()[1]
        wait_for(lambda pids=workers: not [pid for pid in pids if alive(pid)])
        if half[0].exists():
            break
        running = search("--resume", folder)
    assert half[0].exists()
    before = table(folder / "epochs.csv")
    code, output = search("--resume", folder).wait()
    assert code == 0, output
    assert table(folder / "epochs.csv")[: len(before)] == before
    is_whole(folder, trials=2)
