import numpy as np
import pandas as pd
import pytest

from tests.test_record import report
from vae_tune import SearchConfig, load_study
from vae_tune.config import UsageError
from vae_tune.manifest import new_manifest
from vae_tune.record import StudyRecord
from vae_tune.space import DEFAULT_SPACE

CONFIG = SearchConfig(num_samples=4)


@pytest.fixture
def folder(tmp_path, tiny):
    """A study with a complete, a pruned, a failed and a running trial."""
    base = CONFIG.trial
    record = StudyRecord.create(tmp_path / "s", new_manifest("s", CONFIG, base, DEFAULT_SPACE, tiny))
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


def test_the_best_trial_follows_the_one_rule(folder):
    assert load_study(folder).best.name == 0


def test_a_study_without_a_report_has_no_best(tmp_path, tiny):
    manifest = new_manifest("s", CONFIG, CONFIG.trial, DEFAULT_SPACE, tiny)
    StudyRecord.create(tmp_path / "s", manifest).close()
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
