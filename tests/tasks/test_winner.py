"""What is kept of a search's best trials, and what is deleted."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from vae_tune.cluster.slots import Slots
from vae_tune.config.names import DEVICE, NODE
from vae_tune.config.settings import AshaConfig, ResourceConfig, SearchConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.images.code_length import code_length
from vae_tune.record.metadata import as_reopened, new_metadata
from vae_tune.record.reopening import plan_reopening
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import read_trials
from vae_tune.tasks import winner, winner_listener
from vae_tune.tasks.winner import WinnerKeeper
from vae_tune.tasks.winner_listener import WinnerListener
from vae_tune.vae.checkpoint import (
    checkpoint_folder,
    newest_checkpoint,
    read_data,
    trials_with_checkpoints,
    write_checkpoint,
)
from vae_tune.vae.training import fit, new_state

CPU = torch.device("cpu")
BASE = TrialConfig(hidden_width=4, max_epochs=2, batch_size=20)


@pytest.fixture
def record(tmp_path, tiny):
    config = SearchConfig(trial=BASE)
    record = StudyRecord.create(tmp_path / "s", new_metadata("s", config, BASE, DEFAULT_SPACE, tiny))
    yield record
    record.close()


def train(record, images, learning_rate, *, epochs=2, state="COMPLETE", base=BASE):
    """Add a trial that was really trained, with its checkpoints; return its number."""
    trial = record.study.ask(dict(DEFAULT_SPACE.distributions))
    record.start(trial, {"learning_rate": learning_rate})
    config = replace(base, learning_rate=learning_rate)
    report_epochs(record, images, trial.number, config, new_state(config, images.shape, CPU), epochs)
    if state != "RUNNING":
        record.finish(trial.number, state)
    return trial.number


def go_on(record, images, number, *, epochs, max_epochs):
    """Train a trial further, from its newest checkpoint."""
    checkpoint = newest_checkpoint(checkpoint_folder(record.folder, number), CPU)
    config = replace(checkpoint.config, max_epochs=max_epochs)
    report_epochs(record, images, number, config, checkpoint.state, epochs)


def report_epochs(record, images, number, config, training, epochs):
    for report in fit(config, images, CPU, training):
        write_checkpoint(checkpoint_folder(record.folder, number), config, training, report)
        record.report(number, {**asdict(report), NODE: "host", DEVICE: "cpu"})
        if report.epoch == epochs:
            break


def kept(record):
    return {
        int(path.name.removeprefix("trial_")): sorted(file.name for file in path.iterdir())
        for path in (record.folder / "checkpoints").iterdir()
    }


@pytest.mark.parametrize("keep", [1, 3])
def test_checkpoints_stay_of_the_best_the_reference_and_what_runs_then_only_the_last_of_the_best(record, tiny, keep):
    keeper = WinnerKeeper(record, tiny, BASE.max_epochs, keep, pytest.fail)
    record.listeners.append(keeper)
    rates = (1e-4, 3e-3, 1e-2, 3e-2, 1e-3)  # the more, the better, on so few steps
    for rate in rates:
        train(record, tiny, rate)
    train(record, tiny, 2e-2, epochs=1, state="PRUNED")
    running = train(record, tiny, 2e-3, epochs=1, state="RUNNING")
    order = sorted(record.rows[: len(rates)], key=lambda row: row.val_loss)
    best = [row.trial for row in order[:keep]]
    both, first = ["epoch_0001.safetensors", "epoch_0002.safetensors"], ["epoch_0001.safetensors"]
    assert 0 not in best
    assert kept(record) == {**dict.fromkeys([*best, 0], both), running: first}

    keeper.finish()
    assert kept(record) == {**dict.fromkeys(best, both[1:]), running: first}
    metrics = json.loads((record.folder / "best" / "metrics.json").read_text())
    assert metrics["winner"]["trial"] == best[0]
    assert metrics["reference"]["trial"] == 0
    assert "test" in metrics["winner"]


def test_a_freeze_thaw_search_keeps_the_checkpoints_of_all_trials_that_have_not_failed(tmp_path, tiny):
    config = SearchConfig(trial=BASE, asha=AshaConfig(scheduler="freeze-thaw"))
    record = StudyRecord.create(tmp_path / "s", new_metadata("s", config, BASE, DEFAULT_SPACE, tiny))
    keeper = WinnerKeeper(record, tiny, BASE.max_epochs, 1, pytest.fail)
    record.listeners.append(keeper)
    for rate in (1e-4, 3e-3, 1e-2):
        train(record, tiny, rate)
    paused = train(record, tiny, 2e-2, epochs=1, state="PRUNED")
    failed = train(record, tiny, 2e-3, epochs=1, state="FAIL")
    first, last = ["epoch_0001.safetensors"], ["epoch_0002.safetensors"]
    assert kept(record) == {**dict.fromkeys(range(3), first + last), paused: first}
    keeper.finish()
    assert kept(record) == {**dict.fromkeys(range(3), last), paused: first}
    assert failed not in kept(record)
    record.close()


def made_longer(record, images, max_epochs, keep=1):
    """End a search of trials that were trained for 2 epochs, and open it again with a later end."""
    WinnerKeeper(record, images, 2, keep, pytest.fail).finish()
    record.close()
    present = trials_with_checkpoints(record.folder)
    reopening = plan_reopening(read_trials(record.folder), present, max_epochs, 2, paused=False)
    return StudyRecord.resume(record.folder, as_reopened(record.metadata, reopening.note(None)), reopening=reopening)


def test_of_a_search_that_is_made_longer_the_best_model_stays_until_a_trial_is_complete(record, tiny):
    for rate in (1e-4, 1e-2, 1e-3):
        train(record, tiny, rate)
    record = made_longer(record, tiny, 4)
    path = record.folder / "best" / "metrics.json"
    before = json.loads(path.read_text())
    assert [row.state for row in record.rows] == ["RUNNING", "RUNNING", "PRUNED"]
    keeper = WinnerKeeper(record, tiny, 4, 1, pytest.fail)
    record.listeners.append(keeper)
    base = replace(BASE, max_epochs=4)
    train(record, tiny, 1e-5, epochs=3, state="PRUNED", base=base)
    keeper.pause()
    assert json.loads(path.read_text())["winner"] == before["winner"]
    best = train(record, tiny, 2e-2, epochs=4, base=base)
    metrics = json.loads(path.read_text())
    assert (metrics["winner"]["trial"], metrics["winner"]["epochs"]) == (best, 4)
    record.close()


def test_of_a_search_that_is_made_longer_a_trial_that_goes_on_is_not_written_as_it_was_at_the_end_of_before(
    record, tiny
):
    for rate in (1e-4, 1e-2, 1e-3):
        train(record, tiny, rate)
    record = made_longer(record, tiny, 6, keep=2)
    path = record.folder / "best" / "metrics.json"
    first, second = (row.trial for row in sorted(record.rows, key=lambda row: row.val_loss)[:2])
    for number in (first, second):
        go_on(record, tiny, number, epochs=4, max_epochs=6)
    assert kept(record)[first] == ["epoch_0003.safetensors", "epoch_0004.safetensors"]
    WinnerKeeper(record, tiny, 6, 2, pytest.fail).pause()
    interrupted = path.read_text()
    winner = json.loads(interrupted)["winner"]
    assert (winner["trial"], winner["epochs"]) == (first, 4)

    record.listeners.append(WinnerKeeper(record, tiny, 6, 2, pytest.fail))
    record.finish(first, "FAIL", "diverged")
    assert path.read_text() == interrupted
    assert kept(record)[second] == ["epoch_0003.safetensors", "epoch_0004.safetensors"]
    record.close()


def test_a_damaged_summary_of_the_best_is_written_again(record, tiny):
    keeper = WinnerKeeper(record, tiny, BASE.max_epochs, 1, pytest.fail)
    record.listeners.append(keeper)
    train(record, tiny, 1e-3)
    path = record.folder / "best" / "metrics.json"
    assert read_data(path.parent) == (SearchConfig().data, tiny.sha256())
    whole = path.read_text()
    path.write_text(whole[:50])
    WinnerKeeper(record, tiny, BASE.max_epochs, 1, pytest.fail)
    assert path.read_text() == whole


def test_the_best_model_is_not_that_of_a_lost_trial_whose_number_was_given_again(record, tiny):
    record.listeners.append(WinnerKeeper(record, tiny, BASE.max_epochs, 1, pytest.fail))
    train(record, tiny, 1e-3)
    path = record.folder / "best" / "metrics.json"
    whole, lost = path.read_text(), json.loads(path.read_text())
    for who in ("winner", "reference"):
        lost[who]["validation"]["negative_elbo"] -= 1
    path.write_text(json.dumps(lost))
    WinnerKeeper(record, tiny, BASE.max_epochs, 1, pytest.fail)
    assert path.read_text() == whole


def test_of_a_study_on_object_storage_nothing_is_deleted_before_the_record_that_makes_it_superfluous_is_there(
    record, tiny
):
    waiting = []
    record.after_upload = waiting.append
    keeper = WinnerKeeper(record, tiny, BASE.max_epochs, 1, pytest.fail)
    record.listeners.append(keeper)
    for rate in (1e-4, 1e-2, 3e-2, 1e-3):
        train(record, tiny, rate)
    keeper.finish()
    both = ["epoch_0001.safetensors", "epoch_0002.safetensors"]
    assert kept(record) == dict.fromkeys(range(4), both)
    for action in waiting:
        action()
    best = min(record.rows, key=lambda row: row.val_loss)
    assert kept(record) == {best.trial: both[1:]}


@pytest.mark.parametrize(
    ("address", "count", "expected"),
    [(None, 2, 4), (None, 40, 5), ("slurm", 2, 4), ("slurm", 40, 5), ("10.0.0.1:6379", 40, 2)],
)
def test_the_winner_is_evaluated_on_the_cores_that_the_trials_had_on_this_machine(
    record, tiny, monkeypatch, address, count, expected
):
    def spied(*parts):
        threads.add(torch.get_num_threads())
        return evaluate(*parts)

    threads, evaluate = set(), winner.evaluate
    monkeypatch.setattr(winner, "evaluate", spied)
    monkeypatch.setattr(winner_listener, "usable_cpus", lambda: 5)
    config = SearchConfig(trial=BASE, resources=ResourceConfig(address=address))
    search = SimpleNamespace(
        record=record,
        images=tiny,
        slots=Slots(count=count, cpus=2, gpus=0),
        view=SimpleNamespace(warn=pytest.fail),
        plan=SimpleNamespace(base=BASE, config=config, metric=None),
    )
    train(record, tiny, 1e-3)
    with WinnerListener(search) as listener:
        listener.keeper.finish()
    assert threads == {expected}


def test_of_levels_the_code_length_of_the_test_images_is_written_at_the_end_and_computed_once(
    tmp_path, tiny, monkeypatch
):
    base = replace(BASE, likelihood="logistic", max_epochs=1)
    metadata = new_metadata("s", SearchConfig(trial=base), base, DEFAULT_SPACE, tiny)
    record = StudyRecord.create(tmp_path / "s", metadata)
    path = record.folder / "best" / "metrics.json"
    train(record, tiny, 1e-3, base=base)
    keeper = WinnerKeeper(record, tiny, 1, 1, pytest.fail)
    assert "code_length" not in json.loads(path.read_text())
    keeper.finish()
    expected = asdict(code_length(tiny.train, tiny.test))
    assert json.loads(path.read_text())["code_length"] == expected

    monkeypatch.setattr(winner, "code_length", None)  # a resume, with another winner
    train(record, tiny, 1e-2, base=base)
    WinnerKeeper(record, tiny, 1, 1, pytest.fail).finish()
    metrics = json.loads(path.read_text())
    assert (metrics["winner"]["trial"], metrics["code_length"]) == (1, expected)
    record.close()


def test_an_ended_trial_that_is_not_among_the_best_makes_the_keeper_read_no_other_row(record, tiny, monkeypatch):
    record.listeners.append(WinnerKeeper(record, tiny, BASE.max_epochs, 1, pytest.fail))
    for rate in (1e-4, 3e-2, 1e-4):
        train(record, tiny, rate)
    monkeypatch.setattr(StudyRecord, "rows", property(lambda _: pytest.fail("all rows were read")))
    train(record, tiny, 1e-4, epochs=1, state="PRUNED")
    assert sorted(kept(record)) == [0, 1]
