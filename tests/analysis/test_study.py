import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from optuna.distributions import CategoricalDistribution, IntDistribution
from torch import nn

import vae_tune
from tests.record.test_study_record import report
from tests.studies import hand_made, make_study
from vae_tune import SearchConfig, TrialConfig, load_studies, load_study
from vae_tune.config.errors import UsageError
from vae_tune.config.space import DEFAULT_SPACE, Space, load_space
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.replay.curves import load_curves
from vae_tune.vae.checkpoint import write_model
from vae_tune.vae.model import build_model

ACTIVATIONS = Space({"encoder_activation": CategoricalDistribution(("linear", "relu"))})
BATCHES = Space({"batch_size": CategoricalDistribution((64, 128, 256)), "latent_size": IntDistribution(2, 64)})
CONFIG = SearchConfig(num_samples=4)


@pytest.fixture
def folder(tmp_path, tiny):
    """A study with a complete, a pruned, a failed and a running trial."""
    base = CONFIG.trial
    record = StudyRecord.create(tmp_path / "s", new_metadata("s", CONFIG, base, DEFAULT_SPACE, tiny))
    for state, epochs in (("COMPLETE", base.max_epochs), ("PRUNED", 1), ("FAIL", 0), ("RUNNING", 2)):
        trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
        record.start(trial, trial.params)
        for epoch in range(1, epochs + 1):
            record.report(trial.number, report(epoch, 120.0 - epoch))
        if state != "RUNNING":
            record.finish(trial.number, state, "NA" if state == "FAIL" else "")
    record.close()
    return tmp_path / "s"


def test_a_study_loads_with_right_types(folder):
    study = load_study(folder)
    assert list(study.trials.state) == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert list(study.trials.index) == [0, 1, 2, 3]
    assert study.trials.val_loss.dtype == np.float64
    assert np.isnan(study.trials.val_loss[2])
    assert study.trials.reason[2] == "NA"  # a text that pandas would take for a missing value
    assert study.trials.reason[0] == ""
    assert study.trials.latent_size.dtype == pd.Int64Dtype()
    assert isinstance(study.trials.started.dtype, pd.DatetimeTZDtype)
    assert isinstance(study.epochs.time.dtype, pd.DatetimeTZDtype)
    assert len(study.epochs) == 13
    assert study.config == CONFIG
    assert study.name == "s"
    assert study.manifest == study.metadata  # its name in version 0.1.0


def test_the_best_trial_follows_the_one_rule(folder):
    assert load_study(folder).best.name == 0


def test_a_study_without_a_report_has_no_best(tmp_path, tiny):
    metadata = new_metadata("s", CONFIG, CONFIG.trial, DEFAULT_SPACE, tiny)
    StudyRecord.create(tmp_path / "s", metadata).close()
    study = load_study(tmp_path / "s")
    assert study.best is None
    assert len(study.trials) == len(study.epochs) == 0
    assert study.metrics is None


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"config": {"num_samples": -1}}'])
def test_a_folder_that_is_no_study_is_refused_in_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(UsageError, match="is no study") as error:
        load_study(tmp_path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("load", [vae_tune.load_study, vae_tune.load_model])
@pytest.mark.parametrize("path", [None, 3, ""])
def test_what_is_no_path_is_refused_in_one_line(load, path):
    with pytest.raises(UsageError) as error:
        load(path)
    assert str(error.value) == f"A path is a text or a pathlib.Path that is not empty, but got {path!r}."


def test_the_types_do_not_depend_on_what_a_study_holds(tmp_path):
    whole = load_study(make_study(tmp_path / "whole", trials=20))
    for name, options in {
        "empty": {"trials": 0},
        "failed": {"trials": 3, "failed": 1.0},
        "one": {"trials": 1},
    }.items():
        study = load_study(make_study(tmp_path / name, **options))
        assert study.trials.dtypes.equals(whole.trials.dtypes)
        assert study.epochs.dtypes.equals(whole.epochs.dtypes)


def test_choices_keep_their_type_and_order(tmp_path):
    batches = hand_made(
        tmp_path / "b", {"losses": [3, 2, 1]}, {"losses": [3], "values": {"batch_size": 256}}, space=BATCHES
    )
    assert list(batches.trials.batch_size) == [128, 256]
    assert list(batches.trials.batch_size.cat.categories) == [64, 128, 256]


def test_a_reference_that_is_no_choice_is_kept(tmp_path):
    reference = TrialConfig(encoder_activation="tanh", max_epochs=2)
    study = load_study(make_study(tmp_path / "s", trials=2, reference=reference, space=ACTIVATIONS))
    assert study.trials.encoder_activation[0] == "tanh"


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_is_being_written_does_not_count_yet(tmp_path, cut):
    folder = make_study(tmp_path / "s", ended=5, status="running")
    whole = load_study(folder).epochs
    path = folder / "epochs.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    assert load_study(folder).epochs.equals(whole[:-1])


@pytest.mark.parametrize("load", [load_study, load_curves])
def test_each_file_of_a_study_is_read_once(tmp_path, monkeypatch, load):
    folder = make_study(tmp_path / "s", trials=5)
    opened, io_open = Counter(), io.open
    monkeypatch.setattr(
        io, "open", lambda file, *options, **more: opened.update([file]) or io_open(file, *options, **more)
    )
    load(folder)
    names = ("study.json", "trials.csv", "epochs.csv", "best/metrics.json", "optuna.journal")  # of it, two lines
    assert {path: opened[path] for path in opened if folder in path.parents} == {folder / name: 1 for name in names}


def test_an_interrupted_study_shows_what_was_done(tmp_path):
    study = load_study(make_study(tmp_path / "s", ended=5, status="interrupted"))
    assert list(study.trials.state).count("RUNNING") == 2
    assert study.trials.ended.isna().sum() == 2
    assert study.best is not None


@pytest.mark.parametrize("name", ["trials.csv", "epochs.csv"])
@pytest.mark.parametrize("content", [None, "", "nonsense\n", "trial,state\n1,WHAT"])
def test_a_damaged_table_is_refused_in_one_line_that_names_it(tmp_path, name, content):
    folder = make_study(tmp_path / "s", trials=1)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UsageError, match=f"{name} cannot be read") as error:
        load_study(folder)
    assert len(str(error.value).splitlines()) == 1


def test_damaged_metrics_are_refused_by_name(tmp_path):
    folder = make_study(tmp_path / "s", trials=1)
    (folder / "best" / "metrics.json").write_text("{")
    with pytest.raises(UsageError, match=r"metrics.json cannot be read"):
        load_study(folder)


def test_max_epochs_that_the_space_fixes_are_the_studys(tmp_path):
    study = load_study(make_study(tmp_path / "s", trials=3, max_epochs=4))
    assert study.max_epochs == study.reference.max_epochs == 4
    assert study.rungs == (1, 3)


def test_several_studies_stack_with_their_names(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        make_study(tmp_path / name, trials=10, seed=seed)
    both = load_studies([tmp_path / "a", tmp_path / "b"])
    assert list(both.trials.columns[:2]) == ["study", "trial"]
    assert both.trials.study.value_counts().to_dict() == {"a": 10, "b": 10}
    single = load_study(tmp_path / "b")
    assert both.epochs[both.epochs.study == "b"].val_loss.tolist() == single.epochs.val_loss.tolist()
    assert both.trials.drop(columns=["study", "trial"]).dtypes.equals(single.trials.dtypes)
    assert [study.name for study in both.studies] == ["a", "b"]


def test_studies_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    folders = [make_study(tmp_path / name / "s", trials=1) for name in ("x", "y")]
    assert list(load_studies(folders).trials.study) == [str(folder) for folder in folders]


def test_studies_of_different_spaces_stack_without_losing_types(tmp_path):
    other = Space({"encoder_activation": CategoricalDistribution(("gelu", "linear")), **BATCHES.distributions})
    folders = [
        make_study(tmp_path / "a", trials=3, space=ACTIVATIONS),
        make_study(tmp_path / "b", trials=3, space=other),
    ]
    trials = load_studies(folders).trials
    assert list(trials.encoder_activation.cat.categories) == ["linear", "relu", "gelu"]
    assert trials.latent_size.dtype == pd.Int64Dtype()
    assert list(trials.latent_size.isna()) == [True] * 3 + [False] * 3


def test_no_study_at_all_is_refused():
    with pytest.raises(UsageError, match="at least one folder"):
        load_studies([])


def test_studies_whose_losses_are_of_different_kinds_are_not_stacked(tmp_path):
    folders = [make_study(tmp_path / name, trials=2) for name in "ab"]
    text = (folders[1] / "study.json").read_text()
    (folders[1] / "study.json").write_text(text.replace('"kind": "grey"', '"kind": "dynamic"'))
    with pytest.raises(UsageError, match=r"different kinds cannot be compared \(.*a: grey, .*b: dynamic\)"):
        load_studies(folders)


def test_the_winners_model_is_loaded_from_study_folder_and_file(tmp_path, monkeypatch):
    study = load_study(make_study(tmp_path / "s", trials=4))
    model = build_model(study.reference, (1, 28, 28))
    write_model(tmp_path / "s" / "best", model, study.reference)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    monkeypatch.chdir(tmp_path / "s" / "best")
    places = (tmp_path / "s", str(tmp_path / "s"), tmp_path / "s" / "best", "model.safetensors", "..", ".")
    for loaded in (study.load_model(), *map(vae_tune.load_model, places)):
        assert (isinstance(loaded, nn.Module), loaded.training) == (True, False)
        assert torch.equal(loaded.encode(images), model.encode(images))


def test_a_study_without_a_model_says_so(tmp_path):
    study = load_study(make_study(tmp_path / "s", trials=0, status="running"))
    with pytest.raises(UsageError, match="has no model: none of its trials has succeeded yet"):
        study.load_model()
    with pytest.raises(UsageError, match="No usable model in"):
        vae_tune.load_model(tmp_path / "nowhere")


WIDE = load_space(Path("wide"), TrialConfig())


@pytest.mark.parametrize("made", [{}, {"trials": 0, "status": "running"}, {"failed": 1.0}, {"space": WIDE}])
def test_a_study_is_shown_on_a_screen(tmp_path, made):
    study = load_study(make_study(tmp_path / "s", **made))
    text = repr(study)
    assert text.startswith("Study s: search, ")
    assert len(text.splitlines()) <= 8
    assert max(map(len, text.replace(str(tmp_path), "").splitlines())) <= 80
    assert ("best: trial" in text) == (study.best is not None)
    assert repr(load_studies([tmp_path / "s"])) == "Studies(s)"


@pytest.mark.parametrize("module", ["vae_tune", "vae_tune.plots"])
def test_a_module_shows_what_there_is_before_it_is_imported(module):
    ours = "{name for name in dir(m) if not name.startswith('__')}"
    code = f"import {module} as m; print({ours} ^ set(m.__all__), 'torch' in __import__('sys').modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set() False\n"
