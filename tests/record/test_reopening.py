"""A study that is made longer: its journal is written anew, whatever ends the driver meanwhile."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution

from tests.studies import hand_made, make_study
from vae_tune.analysis.audit import audit
from vae_tune.analysis.progress import stopped_trials
from vae_tune.analysis.study import load_study
from vae_tune.cluster.slots import Slots
from vae_tune.config.errors import UsageError
from vae_tune.config.names import COMPLETE, FAIL, PRUNED, RUNNING
from vae_tune.config.settings import AshaConfig, SearchConfig
from vae_tune.config.space import DEFAULT_SPACE, Space
from vae_tune.images.datasets import Images
from vae_tune.record.lengths import refuse_length
from vae_tune.record.metadata import read_metadata, read_search_config
from vae_tune.record.trials import read_trials, row_from_trial
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping
from vae_tune.search.trial_states import READY
from vae_tune.tasks.search_plan import make_plan
from vae_tune.tasks.search_record import open_record

BLANK = np.zeros((1, 1, 28, 28), np.uint8)
SLOTS = Slots(count=1, cpus=1, gpus=0)


def longer(folder, max_epochs, **changes):
    """Return the settings that make a study longer."""
    config = replace(read_search_config(folder), **changes)
    return replace(config, trial=replace(config.trial, max_epochs=max_epochs))


def opened(config, say=lambda _: None):
    """Resume a study as a search does; return its record."""
    plan = make_plan(config, None, config.resume)
    view = SimpleNamespace(say=say, warn=pytest.fail)
    return open_record(plan, Images(BLANK, BLANK, BLANK), SLOTS, view)


def with_checkpoints(folder, trials):
    for number in trials:
        path = folder / "checkpoints" / f"trial_{number:05d}"
        path.mkdir(parents=True)
        (path / "epoch_0004.safetensors").touch()
    return folder


def rows_of(folder):
    return [row_from_trial(trial) for trial in read_trials(folder)]


def complete_in(folder):
    return [row.trial for row in rows_of(folder) if row.state == COMPLETE]


def unchanged(row):
    """Return what no reopening changes of a trial."""
    return row.trial, row.values, row.reports, row.started, row.node, row.audited


@pytest.mark.parametrize(("before", "after", "rungs"), [(4, 12, [1, 3, 9]), (9, 27, [1, 3, 9])])
def test_trials_with_a_checkpoint_go_on_and_the_others_keep_their_curves(tmp_path, before, after, rungs):
    folder = make_study(tmp_path / "s", max_epochs=before)
    complete = complete_in(folder)
    present = complete[1:4]
    with_checkpoints(folder, present)
    old, journal = rows_of(folder), (folder / "optuna.journal").read_bytes()
    said = []
    opened(longer(folder, after), said.append).close()
    new = rows_of(folder)
    assert list(map(unchanged, new)) == list(map(unchanged, old))
    going_on = {0, *present}
    for row, known in zip(new, old, strict=True):
        if row.trial in going_on:
            assert (row.state, row.ended, row.complete_at, row.closed) == (RUNNING, "", before, None)
        elif known.state == COMPLETE:
            assert (row.state, row.ended, row.complete_at, row.closed) == (PRUNED, known.ended, before, 0)
            assert row.reason.endswith(f"no checkpoint to go on from epoch {before}")
        else:
            assert row == known
    assert (folder / "optuna-1.journal").read_bytes() == journal
    without = len(complete) - len(going_on)
    assert said == [
        f"Reopened {len(going_on)} trials, from epoch {before} to {after}; stopped {without} without a checkpoint."
    ]
    study = load_study(folder)
    assert (study.max_epochs, study.config.trial.max_epochs, study.metadata["rungs"]) == (after, after, rungs)
    assert study.best_trial == min(complete, key=lambda number: old[number].loss)
    assert list(stopped_trials(study).index) == [row.trial for row in old if row.state == PRUNED]
    assert audit(folder) == []


@pytest.mark.parametrize("renames", range(6))
def test_a_driver_that_is_killed_leaves_the_old_study_or_the_new_one(tmp_path, renames):
    """Each file appears by a rename: the old journal's copy, the journal, epochs.csv, trials.csv, study.json."""
    folder = make_study(tmp_path / "s", max_epochs=4)
    present = complete_in(folder)[1:3]
    with_checkpoints(folder, present)
    child = os.fork()
    if not child:
        left, rename = iter(range(renames)), os.replace
        os.replace = lambda *paths: rename(*paths) if next(left, None) is not None else os._exit(9)
        try:
            opened(longer(folder, 12))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if renames < 5 else 1)
    is_new = renames > 1
    config = read_search_config(folder)
    assert config.trial.max_epochs == read_metadata(folder)["reference"]["max_epochs"] == (12 if is_new else 4)
    assert load_study(folder).max_epochs == config.trial.max_epochs
    opened(config).close()
    states = {row.trial: row.state for row in rows_of(folder)}
    assert {states[number] for number in (0, *present)} == {RUNNING if is_new else COMPLETE}
    assert json.loads((folder / "study.json").read_text())["reference"]["max_epochs"] == config.trial.max_epochs
    found = [line for line in audit(folder) if "the study is complete with" not in line]
    assert found == []
    assert not [*folder.glob(".*.tmp")]
    if not is_new:  # it can still be made longer
        opened(longer(folder, 12)).close()
    assert {row.state for row in rows_of(folder) if row.trial in (0, *present)} == {RUNNING}


def test_it_is_not_made_shorter_again(tmp_path):
    folder = make_study(tmp_path / "s", max_epochs=4)
    opened(longer(folder, 12)).close()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for epochs in (4, 11):
        with pytest.raises(
            UsageError, match=rf"max_epochs is 12 in this study, but got {epochs}: .*\nGo on with --max-epochs 12"
        ):
            make_plan(longer(folder, epochs), None, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert make_plan(longer(folder, 12), None, folder).reopening is None


def test_a_study_may_be_made_longer_twice(tmp_path):
    folder = make_study(tmp_path / "s", max_epochs=4)
    first = with_checkpoints(folder, complete_in(folder)) and (folder / "optuna.journal").read_bytes()
    opened(longer(folder, 8)).close()
    second = (folder / "optuna.journal").read_bytes()
    opened(longer(folder, 16)).close()
    assert [(folder / f"optuna-{number}.journal").read_bytes() for number in (1, 2)] == [first, second]
    before = read_metadata(folder)["vae_tune:reopened"]["before"]
    assert [(entry["max_epochs"], entry["complete"] > 0) for entry in before] == [(4, True), (8, False)]
    assert {row.complete_at for row in rows_of(folder) if row.state == RUNNING} == {4}
    assert audit(folder) == []


def test_a_trial_that_goes_on_is_not_collapsed_and_one_that_failed_stays_so(tmp_path):
    folder = hand_made(
        tmp_path / "s",
        {"losses": [9.0, 8.0, 7.0], "collapsed": True, "reason": "moved; collapsed: 1 of 20 latents active"},
        {"losses": [9.0], "state": FAIL, "reason": "diverged: x", "diverged": True},
    ).folder
    opened(longer(folder, 5)).close()
    first, second = rows_of(folder)
    assert (first.state, first.collapsed, first.reason) == (RUNNING, False, "moved")
    assert (second.state, second.diverged) == (FAIL, True)


def test_nothing_to_train_is_refused(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [9.0], "state": FAIL, "reason": "x"}, {"losses": [9.0, 8.0, 7.0]})
    with pytest.raises(UsageError, match=r"No trial can go on to epoch 5: .*\nAdd trials with --num-samples"):
        make_plan(longer(study.folder, 5), None, study.folder)
    assert make_plan(longer(study.folder, 5, num_samples=3), None, study.folder).remaining == 1


def test_a_study_that_may_train_no_more_epochs_is_not_made_longer(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [9.0, 8.0, 7.0]}, {"losses": [9.0, 8.0, 7.0]})
    folder = with_checkpoints(study.folder, [0, 1])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"trained 6 epochs, all that .*\n.* larger --max-total-epochs"):
        make_plan(longer(folder, 5, max_total_epochs=6), None, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert make_plan(longer(folder, 5, max_total_epochs=7), None, folder).remaining == 2


def test_the_trials_that_go_on_are_ready_and_a_rung_decides_where_the_last_epoch_was(tmp_path):
    folder = make_study(tmp_path / "s", max_epochs=9, trials=60)
    with_checkpoints(folder, complete_in(folder))
    config = longer(folder, 27)
    record = opened(config)
    reached = {row.trial for row in record.rows if row.state == RUNNING}
    scheduler = make_scheduler(config.asha, 27, config.trial.seed)
    searcher = StudySearcher(record, DEFAULT_SPACE, config.trial, "random", Stopping(), scheduler, 60)
    ready = set(searcher.trials.in_state(READY))
    assert {0} < ready < reached
    assert {row.trial for row in record.rows if row.epochs == 9 and row.state == PRUNED} == reached - ready
    record.set_status("interrupted")
    record.close()
    assert audit(folder) == []


@pytest.mark.parametrize(
    ("schedule", "space"),
    [
        ("cosine", Space({})),
        ("constant", Space({}, {"lr_schedule": "cosine"})),
        ("constant", Space({"lr_schedule": CategoricalDistribution(["constant", "cosine"])})),
    ],
)
def test_a_schedule_that_depends_on_the_end_is_refused(schedule, space):
    config = replace(SearchConfig().trial, lr_schedule=schedule)
    with pytest.raises(
        UsageError, match=r"max_epochs is 10 in this study, but got 30: lr_schedule cosine depends on it"
    ):
        refuse_length(config, 30, space)
    refuse_length(config, 10, space)


def test_epochs_that_the_space_fixes_stay():
    with pytest.raises(UsageError, match="max_epochs is 27 in the space of this study, but got 30"):
        refuse_length(SearchConfig().trial, 30, Space({}, {"max_epochs": 27}))


def test_a_refusal_changes_nothing(tmp_path):
    study = hand_made(tmp_path / "s", {"losses": [9.0, 8.0, 7.0]})
    folder = study.folder
    path = folder / "study.json"
    path.write_text(path.read_text().replace('"lr_schedule": "constant"', '"lr_schedule": "cosine"'))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="cosine"):
        make_plan(longer(folder, 5), None, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_promoting_study_can_be_audited_after_it_was_made_longer(tmp_path):
    losses = [[9.0 + number, 8.0 + number, 7.0 + number] for number in range(4)]
    trials = [{"losses": each, "started": 10.0 * number} for number, each in enumerate(losses)]
    asha = AshaConfig(scheduler="asha-promotion", grace_period=3)
    folder = hand_made(tmp_path / "s", *trials, asha=asha).folder
    assert audit(folder) == []
    with_checkpoints(folder, [1])
    opened(longer(folder, 9)).close()
    assert [row.state for row in rows_of(folder)] == [RUNNING, RUNNING, PRUNED, PRUNED]
    assert audit(folder) == []
