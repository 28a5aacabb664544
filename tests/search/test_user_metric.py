"""A search that a user's metric ranks decides as one ranked by the loss that the metric mirrors."""

from dataclasses import replace

import pytest

from tests.record.test_study_record import METADATA
from tests.search.test_searcher import ASHA, BASE, VALUES, loss_of, make, result
from tests.studies import SCORE
from vae_tune.config.errors import UsageError
from vae_tune.config.names import FAIL
from vae_tune.config.settings import AshaConfig, SearchConfig
from vae_tune.record import sampler_view
from vae_tune.record.metadata import refuse_other_metric
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import winner
from vae_tune.tasks.search_start import make_stopping

RANKED = METADATA | {"metric": SCORE.describe()}


def report(epoch, loss, *, mirrored):
    """A worker's report; the validation loss of a mirrored search says nothing."""
    own = SCORE.report({"score": -loss, "half": loss / 2})
    return result(epoch, 1.0 + epoch) | own if mirrored else result(epoch, loss)


def search(folder, sampler, asha, *, mirrored, count=14, stopping=None):
    """Run a search in an order that pauses and resumes; return its record, closed."""
    record = StudyRecord.create(folder, RANKED if mirrored else METADATA)
    searcher = make(record, sampler, 1, stopping=stopping, asha=asha)
    for name in map(str, range(count)):
        config = searcher.suggest(name)
        if isinstance(config, str):
            break
        for epoch in range(config["epochs"] + 1, BASE.max_epochs + 1):
            one = report(epoch, loss_of(config[VALUES], epoch), mirrored=mirrored)
            if not searcher.trials.report(name, one):
                searcher.on_trial_complete(name, one)
                break
    record.close()
    return record


@pytest.mark.parametrize("scheduler", ["asha", "asha-promotion"])
@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc"])
def test_proposals_and_stops_are_those_of_the_loss(tmp_path, sampler, scheduler):
    asha = AshaConfig(scheduler=scheduler, audit_fraction=0.3 if scheduler == "asha" else 0.0)
    loss, score = (search(tmp_path / str(own), sampler, asha, mirrored=own) for own in (False, True))
    assert [trial.params for trial in score.study.trials] == [trial.params for trial in loss.study.trials]
    assert [(row.state, row.epochs, row.audited) for row in score.rows] == [
        (row.state, row.epochs, row.audited) for row in loss.rows
    ]
    assert [trial.value for trial in score.study.trials] == [
        None if trial.value is None else -trial.value for trial in loss.study.trials
    ]
    assert winner(score.rows, BASE.max_epochs).trial == winner(loss.rows, BASE.max_epochs).trial
    assert score.study.best_trial.number == winner(score.rows, BASE.max_epochs).trial


def test_of_a_long_history_the_sampler_sees_the_same_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler_view, "MOST", 6)
    monkeypatch.setattr(sampler_view, "_BEST", 3)
    loss, score = (search(tmp_path / str(own), "tpe", ASHA, mirrored=own, count=25) for own in (False, True))
    assert [trial.params for trial in score.study.trials] == [trial.params for trial in loss.study.trials]


def test_a_resume_reads_the_record_as_it_was_written(tmp_path):
    record = search(tmp_path / "s", "random", ASHA, mirrored=True)
    tables = [(record.folder / name).read_text() for name in ("trials.csv", "epochs.csv")]
    again = StudyRecord.resume(record.folder, RANKED)
    assert again.rows == record.rows
    again.close()
    assert [(record.folder / name).read_text() for name in ("trials.csv", "epochs.csv")] == tables
    assert tables[1].splitlines()[0].endswith("images_per_second,score,half,time")


def test_the_target_is_a_value_in_the_users_sign(tmp_path):
    whole = search(tmp_path / "whole", "random", AshaConfig(scheduler="none"), mirrored=True, count=4)
    values = [row.reports[-1]["score"] for row in whole.rows]
    stopping = make_stopping(SearchConfig(metric="mine.py:score", maximize=True, target_loss=values[0]))
    for row in whole.rows[:1]:
        stopping.listen(row)
    assert stopping.reason == "target loss reached"
    stopping = make_stopping(SearchConfig(metric="mine.py:score", maximize=True, target_loss=max(values) + 1e-9))
    for row in whole.rows:
        stopping.listen(row)
    assert not stopping.reason


def test_a_metric_that_fails_fails_its_trial_without_divergence(tmp_path):
    record = StudyRecord.create(tmp_path / "s", RANKED)
    searcher = make(record, "random", asha=ASHA)
    searcher.suggest("a")
    assert searcher.trials.report("a", report(1, 5.0, mirrored=True))
    failed = {"epoch": 2, "val_loss": float("nan"), "metric_error": "mine.py:1 in score: ValueError, in epoch 2"}
    assert not searcher.trials.report("a", failed)
    record.close()
    (row,) = record.rows
    assert (row.state, row.reason, row.diverged, row.epochs) == (FAIL, failed["metric_error"], False, 1)


def test_only_the_same_code_ranks_a_resumed_study():
    metadata = {"metric": SCORE.describe()}
    again = replace(SCORE, ranking=replace(SCORE.ranking, columns=()))
    assert refuse_other_metric(metadata, again) == SCORE
    assert refuse_other_metric(METADATA, None) is None
    other = replace(again, code=replace(SCORE.code, texts={"mine": "def score(): return 1"}))
    for found, given in ((metadata, other), (metadata, None), (METADATA, again)):
        with pytest.raises(UsageError, match="its trials could not be compared"):
            refuse_other_metric(found, given)
