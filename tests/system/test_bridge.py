"""The bridge under a real Ray Tune, with trainables that cost nothing.

Each trial that loses its worker, and each search, takes new workers: these do not import this module.
"""

import math
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.conftest import SLOTS, table, wait_for
from tests.system.trainables import MAX_EPOCHS, good, loss_of, report
from vae_tune.config.settings import AshaConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE, load_space
from vae_tune.record.metadata import new_metadata
from vae_tune.record.study_record import StudyRecord
from vae_tune.search.stopping import Stopping
from vae_tune.search.tuner import run_trials

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]

CONFIG = SearchConfig(num_samples=12, trial=TrialConfig(max_epochs=MAX_EPOCHS))


def run(tmp_path, tiny, trainable, config=CONFIG, space=DEFAULT_SPACE, ending=None):
    folder = tmp_path / "study"
    record = StudyRecord.create(folder, new_metadata("study", config, config.trial, space, tiny))
    run_trials(trainable, config, space, record, lambda: SLOTS, ending or Stopping())
    record.close()
    return record


def states(record):
    return [trial.state.name for trial in record.study.trials]


def test_trials_end_as_what_they_are(tmp_path, tiny):
    record = run(tmp_path, tiny, good)
    assert len(record.study.trials) == CONFIG.num_samples
    assert set(states(record)) == {"COMPLETE", "PRUNED"}
    for trial in record.study.trials:
        epochs = sorted(trial.intermediate_values)
        assert epochs == list(range(1, epochs[-1] + 1))
        expected = {e: loss_of({"values": trial.params}, e) for e in epochs}
        assert trial.intermediate_values == pytest.approx(expected)
        if trial.state.name == "COMPLETE":
            assert epochs[-1] == MAX_EPOCHS
            assert trial.value == trial.intermediate_values[MAX_EPOCHS]
        else:
            assert epochs[-1] in CONFIG.asha.rungs(MAX_EPOCHS)
    reference = record.study.trials[0]
    assert reference.state.name == "COMPLETE"
    assert reference.params == {"latent_size": 20, "hidden_width": 400, "learning_rate": 1e-3}


def test_trials_csv_shows_all_that_run_before_any_has_reported(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(
        "vae_tune.record.tables._SHARE", 0.001
    )  # the second start comes too soon to be written at once

    def patient(config):
        wait_for(lambda: len(table(tmp_path / "study" / "trials.csv")) == 2)
        good(config)

    config = replace(CONFIG, num_samples=2, asha=AshaConfig(scheduler="none"))
    assert states(run(tmp_path, tiny, patient, config)) == ["COMPLETE"] * 2


def test_promotion_pauses_trials_and_goes_on_with_the_best_where_they_were(tmp_path, tiny):
    def going_on(config):  # as the real trainable does, from its checkpoint
        path = tmp_path / f"epoch-{config['trial']}"
        done = int(path.read_text()) if path.exists() else 0
        for epoch in range(max(done, 1), MAX_EPOCHS + 1):
            path.write_text(str(epoch))
            report(epoch, loss_of(config, epoch))

    asha = AshaConfig(scheduler="asha-promotion", reduction_factor=2)
    record = run(tmp_path, tiny, going_on, replace(CONFIG, num_samples=6, asha=asha))
    assert len(record.rows) == 6
    assert set(states(record)) == {"COMPLETE", "PRUNED"}
    promoted = [row for row in record.rows[1:] if row.epochs > 1]
    assert promoted
    for row in record.rows:
        assert [report["epoch"] for report in row.reports] == list(range(1, row.epochs + 1))
    rest = [row for row in record.rows[1:] if row.epochs == 1]
    assert max(row.reports[0]["val_loss"] for row in rest) > min(row.reports[0]["val_loss"] for row in promoted)


def test_a_diverging_trial_fails_at_its_first_non_finite_report(tmp_path, tiny):
    def diverging(config):
        for epoch in range(1, MAX_EPOCHS + 1):
            bad = config["trial"] % 2 == 1 and epoch == 2
            report(epoch, (math.nan, math.inf)[config["trial"] == 3] if bad else 100.0 - epoch - config["trial"])

    config = replace(CONFIG, num_samples=6, asha=AshaConfig(scheduler="none"))
    record = run(tmp_path, tiny, diverging, config)
    for trial in record.study.trials[1::2]:
        assert trial.state.name == "FAIL"
        loss = "inf" if trial.number == 3 else "nan"
        assert trial.user_attrs["reason"] == f"diverged: val_loss {loss} in epoch 2"
        assert list(trial.intermediate_values) == [1]
    assert set(states(record)[::2]) == {"COMPLETE"}


def test_a_worker_out_of_memory_costs_only_its_trial(tmp_path, tiny):
    def greedy(config):
        report(1, 100.0 - config["trial"])
        if config["trial"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does; it will at each attempt
        if config["trial"] == 1:
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, resource.RLIM_INFINITY))
            try:
                bytearray(2**30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        report(MAX_EPOCHS, 90.0)

    record = run(tmp_path, tiny, greedy, replace(CONFIG, num_samples=4))
    assert states(record) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert "MemoryError" in record.study.trials[1].user_attrs["reason"]
    assert record.study.trials[2].user_attrs["reason"].startswith("worker died: ")


def test_a_broken_trial_fails_with_the_last_line_of_its_error_and_the_search_goes_on(tmp_path, tiny):
    attempts = tmp_path / "attempts"

    def broken(config):
        report(1, 100.0 - config["trial"])
        if config["trial"] == 1:
            with attempts.open("a") as file:
                file.write("x")
            raise RuntimeError("first line\nout of luck")
        report(MAX_EPOCHS, 90.0)

    record = run(tmp_path, tiny, broken, replace(CONFIG, num_samples=4))
    assert states(record)[1] == "FAIL"
    assert "out of luck" in record.study.trials[1].user_attrs["reason"]
    assert len(attempts.read_text()) == 4  # the first try and three more
    assert states(record)[0] == states(record)[2] == states(record)[3] == "COMPLETE"


def test_a_trial_whose_worker_exits_is_tried_again_and_nothing_is_recorded_twice(tmp_path, tiny):
    def dying(config):
        marker = Path(tmp_path / f"died-{config['trial']}")
        for epoch in range(1, MAX_EPOCHS + 1):
            report(epoch, 100.0 - config["trial"] - epoch)
            if epoch == 3 and config["trial"] == 1 and not marker.exists():
                marker.touch()
                os._exit(1)

    record = run(tmp_path, tiny, dying, replace(CONFIG, num_samples=3, asha=AshaConfig(scheduler="none")))
    assert (tmp_path / "died-1").exists()
    assert states(record) == ["COMPLETE"] * 3
    lines = (record.folder / "epochs.csv").read_text().splitlines()[1:]
    seen = [tuple(line.split(",")[:2]) for line in lines]
    assert len(seen) == len(set(seen)) == 3 * MAX_EPOCHS


def test_a_reference_outside_of_the_space_is_trained_all_the_same(tmp_path, tiny):
    path = tmp_path / "space.yaml"
    path.write_text("latent_size: {type: int, low: 2, high: 8}\nencoder_activation: relu\n")
    space = load_space(path, CONFIG.trial)
    record = run(tmp_path, tiny, lambda config: report(MAX_EPOCHS, 1.0), replace(CONFIG, num_samples=3), space)
    assert record.rows[0].values == {"latent_size": 20}
    assert record.study.trials[0].params == {}
    assert all(2 <= trial.params["latent_size"] <= 8 for trial in record.study.trials[1:])


def test_a_target_loss_ends_the_search_and_a_resume_takes_up_what_was_left(tmp_path, tiny):
    ending = Stopping(target_loss=1000.0)  # the reference reaches it
    config = replace(CONFIG, num_samples=30)
    folder = tmp_path / "study"
    metadata = new_metadata("study", config, config.trial, DEFAULT_SPACE, tiny)
    record = StudyRecord.create(folder, metadata)
    record.watchers.append(ending.listen)
    run_trials(good, config, DEFAULT_SPACE, record, lambda: SLOTS, ending)
    record.close()
    assert ending.reason == "target loss reached"
    before = record.rows
    assert sum(row.state == "COMPLETE" for row in before) >= 1
    assert len(before) < 30

    again = StudyRecord.resume(folder, metadata)
    run_trials(good, config, DEFAULT_SPACE, again, lambda: SLOTS, Stopping())
    again.close()
    assert len(again.rows) == 30
    assert "RUNNING" not in states(again)
    for row in before:
        if row.state != "RUNNING":
            assert again.rows[row.trial].cells() | {"started": ""} == row.cells() | {"started": ""}
