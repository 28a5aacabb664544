import json
import sys
from dataclasses import replace

import pytest

from tests.search.test_searcher import drive
from vae_tune.analysis.audit import audit
from vae_tune.cli import main as cli
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import to_dict
from vae_tune.config.files import write_json
from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import winner
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping

BASE = TrialConfig(max_epochs=9)
CONFIG = SearchConfig(num_samples=12, trial=BASE, asha=AshaConfig(reduction_factor=3))


@pytest.fixture
def folder(tmp_path, tiny):
    """A complete study of twelve trials with rungs at 1 and 3."""
    record = StudyRecord.create(tmp_path / "s", new_metadata("s", CONFIG, BASE, DEFAULT_SPACE, tiny))
    scheduler = make_scheduler(CONFIG.asha, BASE.max_epochs, 0)
    drive(StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping(), scheduler), map(str, range(12)))
    best = winner(record.rows, BASE.max_epochs)
    (record.folder / "best").mkdir()
    numbers = {"trial": best.trial, "validation": {"negative_elbo": best.val_loss}}
    reference = {"trial": 0, "validation": {"negative_elbo": record.rows[0].val_loss}}
    metrics = {"kind": "grey", "winner": numbers, "reference": reference}
    metrics["improvement"] = {"validation": record.rows[0].val_loss - best.val_loss}
    write_json(record.folder / "best" / "metrics.json", metrics)
    write_json(record.folder / "best" / "config.json", to_dict(replace(BASE, **best.values)))
    record.set_status("complete")
    record.close()
    return record.folder


def change(path, old, new, count=1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def logs(folder):
    return [json.loads(line) for line in (folder / "optuna.journal").read_text().splitlines()]


def rewrite(folder, entries):
    (folder / "optuna.journal").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def reports(entries):
    """Every report in the journal with the trial that it belongs to."""
    for entry in entries:
        for key, value in entry.get("user_attr", {}).items():
            if key.startswith("report:"):
                yield entry["trial_id"], value


def test_a_whole_study_is_consistent(folder):
    assert audit(folder) == []


def test_a_flipped_loss_is_named(folder):
    entries = logs(folder)
    trial, report = next(reports(entries))
    report["val_loss"] += 1
    rewrite(folder, entries)
    assert any(f"trial {trial} epoch 1: the report says" in line for line in audit(folder))


def test_a_flipped_loss_that_hides_in_all_places_contradicts_the_rung(folder):
    entries = logs(folder)
    stopped = [entry["trial_id"] for entry in entries if entry["op_code"] == 6 and entry["state"] == 2]
    trial = stopped[0]
    for number, report in reports(entries):
        if number == trial and report["epoch"] == 1:
            old, report["val_loss"] = report["val_loss"], 1.0
    for entry in entries:
        if entry.get("trial_id") == trial and entry.get("intermediate_value") == old:
            entry["intermediate_value"] = 1.0
        if entry.get("trial_id") == trial and entry.get("values") == [old]:
            entry["values"] = [1.0]
    rewrite(folder, entries)
    for name in ("trials.csv", "epochs.csv"):
        change(folder / name, str(old), "1.0", count=-1)
    assert f"trial {trial} was stopped at epoch 1, where the rung lets it go on" in audit(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("trials.csv", "PRUNED", "COMPLETE", "has state='COMPLETE', the study 'PRUNED'"),
        ("trials.csv", ",host,cpu", ",host,gpu", "has device='gpu', the study 'cpu'"),
        ("epochs.csv", "\n0,3,", "\n0,4,", "has epoch='4', the study '3'"),
        ("study.json", '"num_samples": 12', '"num_samples": 13', "complete with 12 of 13 trials"),
        ("study.json", '"reduction_factor": 3', '"reduction_factor": 2', "where the rung"),
        ("best/metrics.json", '"trial": ', '"trial": 1', "as the winner, but it is trial"),
        ("best/metrics.json", '"kind": "grey"', '"kind": "static"', "has numbers of kind 'static', the study 'grey'"),
        ("best/metrics.json", '"validation": {', '"validations": {', "best is damaged: 'validation'"),
        ("best/metrics.json", '"trial": ', '"number": ', "best is damaged: 'trial'"),
        (
            "best/metrics.json",
            '"improvement": {\n    "validation": ',
            '"improvement": {\n    "validation": 7',
            "says improvement",
        ),
        ("study.json", '"rungs": [\n    1', '"rungs": [\n    2', "study.json has the rungs [2"),
        ("best/config.json", '"latent_size": ', '"latent_size": 1', "is not the winner's configuration"),
    ],
)
def test_a_changed_file_is_named(folder, name, old, new, message):
    change(folder / name, old, new)
    assert any(message in line for line in audit(folder))


@pytest.mark.parametrize("name", ["trials.csv", "epochs.csv"])
def test_a_lost_line_is_named(folder, name):
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(lines[:-1]))
    assert any(name in line for line in audit(folder))


def test_the_command_exits_1_and_names_the_contradiction(folder, monkeypatch, capsys):
    def run():
        monkeypatch.setattr(sys, "argv", ["vae-tune", "audit", str(folder)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().out

    assert run() == (0, f"{folder}: no contradictions.\n")
    change(folder / "trials.csv", "PRUNED", "COMPLETE")
    code, out = run()
    assert code == 1
    assert "has state='COMPLETE'" in out.splitlines()[0]


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no study"):
        audit(tmp_path)
