"""The searcher driven as Ray Tune drives it, one trial at a time, without Ray."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.samplers._tpe import _truncnorm
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from tests.record.test_study_record import METADATA
from vae_tune.cluster.ray_processes import RayDied
from vae_tune.cluster.slots import Slots
from vae_tune.config.compat.ray_tune import lean_tune
from vae_tune.config.errors import SearchError
from vae_tune.config.names import EPOCH, GPU_ERROR, GPU_MEMORY, GPUS, RUNNING, TRIAL, VAL_LOSS, VALUES
from vae_tune.config.settings import AshaConfig, TrialConfig
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.record.study_record import StudyRecord
from vae_tune.search import callbacks as module
from vae_tune.search.callbacks import FailureReasons, ForgetTrials
from vae_tune.search.scheduler_factory import make_scheduler
from vae_tune.search.searcher import StudySearcher
from vae_tune.search.stopping import Stopping

BASE = TrialConfig(max_epochs=9)


def result(epoch, loss):
    names = ("train_loss", "val_loss", "val_reconstruction", "val_kl", "seconds", "images_per_second")
    return {"epoch": epoch, **dict.fromkeys(names, loss), "active_units": 7, "hostname": "host", "device": "cpu"}


def loss_of(values, epoch):
    return 100 + math.log(values["learning_rate"] / 2e-3) ** 2 + 10 / epoch + 20 / values["latent_size"]


def make(record, sampler="tpe", seed=0, stopping=None, asha=None):
    base = TrialConfig(max_epochs=BASE.max_epochs, seed=seed)
    scheduler = make_scheduler(asha or AshaConfig(scheduler="none"), base.max_epochs, seed)
    return StudySearcher(record, DEFAULT_SPACE, base, sampler, stopping or Stopping(), scheduler)


def drive(searcher, names):
    """Run one trial after another to its end, as Ray Tune does with one slot."""
    for name in names:
        config = searcher.suggest(name)
        for epoch in range(1, BASE.max_epochs + 1):
            report = result(epoch, loss_of(config[VALUES], epoch))
            if not searcher.trials.report(name, report):
                searcher.on_trial_complete(name, report)
                break
            searcher.on_trial_result(name, report)


ASHA = AshaConfig(reduction_factor=3)


@pytest.fixture
def record(tmp_path):
    record = StudyRecord.create(tmp_path / "study", METADATA)
    yield record
    record.close()


def proposals(folder, sampler, seed, count=14):
    record = StudyRecord.create(folder, METADATA)
    drive(make(record, sampler, seed, asha=ASHA), [str(number) for number in range(count)])
    record.close()
    return [trial.params for trial in record.study.trials]


@pytest.mark.parametrize("seed", range(3))
def test_tpe_proposes_what_it_would_with_optunas_own_slow_arithmetic(tmp_path, monkeypatch, seed):
    quick = proposals(tmp_path / "quick", "tpe", seed, count=40)
    monkeypatch.setattr(_truncnorm, "_log_ndtr", lambda a: np.vectorize(_truncnorm._log_ndtr_single)(a).astype(float))
    slow = proposals(tmp_path / "slow", "tpe", seed, count=40)
    assert [list(values.values()) for values in slow] == [pytest.approx(list(values.values())) for values in quick]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_a_seed_repeats_the_proposals_of_every_sampler(tmp_path, sampler):
    first, again = (proposals(tmp_path / name, sampler, seed=1) for name in "ab")
    assert first == again
    assert len({tuple(params.values()) for params in first}) == len(first)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_another_seed_proposes_something_else(tmp_path, sampler):
    first, other = (proposals(tmp_path / str(seed), sampler, seed, count=4) for seed in (1, 2))
    assert first[0] == other[0]  # the reference
    assert not [pair for pair in zip(first[1:], other[1:], strict=True) if pair[0] == pair[1]]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_an_interruption_between_trials_changes_no_proposal(tmp_path, sampler):
    whole = proposals(tmp_path / "whole", sampler, seed=3)
    record = StudyRecord.create(tmp_path / "study", METADATA)
    drive(make(record, sampler, seed=3, asha=ASHA), map(str, range(6)))
    record.close()
    record = StudyRecord.resume(record.folder, METADATA)
    drive(make(record, sampler, seed=3, asha=ASHA), map(str, range(8)))
    record.close()
    assert [trial.params for trial in record.study.trials] == whole


def test_a_trial_that_was_asked_for_but_never_reported_is_handed_out_again(record):
    searcher = make(record)
    configs = [searcher.suggest(name) for name in "abc"]
    record.close()
    again = StudyRecord.resume(record.folder, METADATA)
    assert [make(again).suggest("x")] == configs[:1]
    searcher = make(again)
    assert [searcher.suggest(name) for name in "def"] == configs
    assert searcher.suggest("g")[TRIAL] == 3
    again.close()


def test_a_power_cut_in_the_middle_of_a_suggestion_leaves_a_whole_trial(record):
    searcher = make(record)
    searcher.suggest("a")
    expected = searcher.suggest("b")[VALUES]
    record.close()
    journal = record.folder / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b"learning_rate" in lines[-1]
    for cut in (1, 2, 3):  # the last parameter, the last two, all three
        journal.write_bytes(b"".join(lines[:-cut]))
        again = StudyRecord.resume(record.folder, METADATA)
        searcher = make(again)
        searcher.suggest("a")
        values = searcher.suggest("b")[VALUES]
        names = list(expected)
        assert [values[name] for name in names[:-cut]] == [expected[name] for name in names[:-cut]]
        assert again.study.trials[1].params == values
        assert set(values) == set(names)
        again.close()


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 5, 6])
def test_a_crash_in_the_very_first_suggestion_still_gives_the_reference(record, kept):
    make(record).suggest("a")
    record.close()
    journal = record.folder / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:kept]))
    again = StudyRecord.resume(record.folder, METADATA)
    searcher = make(again)
    handed = searcher.suggest("a")
    assert handed[TRIAL] == 0
    assert handed[VALUES] == {"latent_size": 20, "hidden_width": 400, "learning_rate": 1e-3}
    assert searcher.suggest("b")[TRIAL] == 1
    assert again.study.trials[0].params == {"latent_size": 20, "hidden_width": 400, "learning_rate": 1e-3}
    again.close()


def test_no_trial_is_handed_out_once_the_end_is_requested(record):
    stopping = Stopping()
    searcher = make(record, stopping=stopping)
    searcher.suggest("a")
    stopping.request("interrupted")
    assert searcher.suggest("b") == Searcher.FINISHED
    assert len(record.study.trials) == 1


def test_a_trial_stopped_by_the_end_of_the_search_stays_running(record):
    stopping = Stopping(target_loss=1.0)
    searcher = make(record, stopping=stopping)
    searcher.suggest("a")
    stopping.request("target loss reached")
    assert not searcher.trials.report("a", result(2, 50.0))
    searcher.on_trial_complete("a", result(2, 50.0))
    assert record.study.trials[0].state.name == "RUNNING"
    assert record.rows[0].epochs == 2


def test_a_diverged_trial_is_told_with_the_reason_that_it_gave(record):
    searcher = make(record)
    searcher.suggest("a")
    reason = "diverged: non-finite training loss in epoch 1"
    searcher.on_trial_complete("a", {"epoch": 1, "val_loss": math.nan, "reason": reason})
    assert record.study.trials[0].state.name == "FAIL"
    assert record.rows[0].reason == reason


def test_a_gpu_that_cannot_be_used_ends_the_search_and_blames_no_trial(record):
    stopping = Stopping()
    searcher = make(record, stopping=stopping)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {EPOCH: 0, VAL_LOSS: math.inf, GPU_ERROR: "no driver", "hostname": "host1"})
    assert stopping.error.startswith(
        "PyTorch cannot use the GPU that Ray found on host1: no driver. (--gpus-per-trial 0"
    )
    assert record.rows[0].state == RUNNING


def test_a_winner_whose_checkpoint_is_damaged_ends_the_search_but_not_the_trial(record):
    def keeper(row):
        raise SearchError("epoch_0009.safetensors is damaged")

    stopping = Stopping()
    searcher = make(record, stopping=stopping)
    searcher.suggest("a")
    record.listeners.append(keeper)
    searcher.on_trial_complete("a", result(9, 50.0))
    assert stopping.error == "epoch_0009.safetensors is damaged"
    assert record.study.trials[0].user_attrs["report:9"]["val_loss"] == 50.0


def test_the_searcher_pickles_to_nothing(record):
    import pickle

    assert pickle.loads(pickle.dumps(make(record))).__dict__ == {}


@pytest.mark.parametrize("retries_left", [True, False])
def test_a_trial_whose_worker_was_lost_before_it_began_is_handed_out_again(
    record, tmp_path, monkeypatch, retries_left
):
    """Ray Tune ends such a trial whatever is left of its retries: it was on its way to a worker, so PENDING."""
    monkeypatch.setattr(module, "ray_is_alive", lambda: True)
    searcher = make(record)
    first = searcher.suggest("a")
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at noon)\nThe actor 17 is unavailable: RpcError\n")
    trial = SimpleNamespace(trial_id="a", error_file=str(tmp_path / "error.txt"), should_recover=lambda: retries_left)
    searcher.on_trial_complete("a", error=True)
    FailureReasons(searcher.trials, Stopping()).on_trial_error(0, [], trial)
    again = searcher.suggest("b")
    assert (again == first) is retries_left
    assert record.rows[0].state == ("RUNNING" if retries_left else "FAIL")


def test_a_trial_whose_worker_is_lost_again_and_again_fails_in_the_end(record, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ray_is_alive", lambda: True)
    searcher = make(record)
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at noon)\nThe actor 17 is unavailable: RpcError\n")
    for name in "abcd":
        assert searcher.suggest(name)[TRIAL] == 0
        trial = SimpleNamespace(trial_id=name, error_file=str(tmp_path / "error.txt"), should_recover=lambda: True)
        FailureReasons(searcher.trials, Stopping()).on_trial_error(0, [], trial)
    assert record.rows[0].state == "FAIL"
    assert searcher.suggest("e")[TRIAL] == 1


def test_a_worker_that_died_with_ray_is_no_failure_of_its_trial_and_ray_is_not_waited_for(
    record, tmp_path, monkeypatch
):
    """Ray's core ends the driver within seconds after its raylet, and a ping takes up to twenty."""

    def check():
        raise RayDied("its raylet was ended by SIGKILL")

    monkeypatch.setattr(module, "ray_is_alive", lambda: pytest.fail("it was asked"))
    searcher = make(record)
    searcher.suggest("a")
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at noon)\nThe actor 17 died unexpectedly.\n")
    trial = SimpleNamespace(trial_id="a", error_file=str(tmp_path / "error.txt"), should_recover=lambda: False)
    with pytest.raises(RayDied):
        FailureReasons(searcher.trials, Stopping(), check).on_trial_error(0, [], trial)
    assert record.rows[0].state == "RUNNING"


def test_of_an_ended_trial_the_driver_keeps_only_its_state():
    trial = Trial("any", stub=True, config={"values": {"x": 1}}, evaluated_params={"values/x": 1})
    with lean_tune(local=True):
        trial.update_last_result({"training_iteration": 1, "val_loss": 2.0})
    trial.set_status(Trial.TERMINATED)
    forget = ForgetTrials()
    forget.on_trial_complete(0, [], trial)
    assert trial.last_result["val_loss"] == 2.0  # Ray Tune needs it until the end of its step
    assert trial.metric_analysis == {}
    forget.on_step_end(0, [])
    assert (trial.run_metadata.last_result, trial.config, trial.evaluated_params) == ({}, {}, {})
    assert trial.is_finished()


def with_memory(record, memory, need):
    """A searcher of two slots; each trial's need is a function of its number."""
    slots = Slots(2, 1, 0, memory=memory, on_a_node=2)
    known = {}

    def needs(config, on_gpu):
        assert not on_gpu
        return need(known.setdefault((config.latent_size, config.learning_rate), len(known)))

    return StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping(), None, 6, lambda: slots, needs)


def test_a_trial_that_does_not_fit_beside_the_running_ones_waits_and_is_the_next(record):
    searcher = with_memory(record, 10, lambda number: [6, 5, 3][number])
    assert searcher.suggest("a")[TRIAL] == 0
    assert searcher.suggest("b") is None
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", result(BASE.max_epochs, 100.0))
    assert searcher.suggest("b")[TRIAL] == 1
    assert searcher.suggest("c")[TRIAL] == 2
    assert [row.state for row in record.rows] == ["COMPLETE", "RUNNING", "RUNNING"]


def test_all_slots_are_taken_once_a_worker_got_nothing_until_a_trial_ends(record):
    searcher = with_memory(record, 10, lambda _: 5)
    assert not searcher.all_slots_are_taken
    for name in "ab":
        searcher.suggest(name)
        assert not searcher.all_slots_are_taken
    assert searcher.suggest("c") is None
    assert searcher.all_slots_are_taken
    searcher.on_trial_complete("a", result(BASE.max_epochs, 100.0))
    assert searcher.suggest("c")
    assert not searcher.all_slots_are_taken


def test_a_trial_that_never_fits_fails_with_both_numbers_and_the_next_one_is_handed_out(record):
    searcher = with_memory(record, 4_000_000_000, lambda number: [1, 5_500_000_000, 9_000_000_000, 1][number])
    assert searcher.suggest("a")[TRIAL] == 0
    assert searcher.suggest("b")[TRIAL] == 3
    assert [row.state for row in record.rows] == ["RUNNING", "FAIL", "FAIL", "RUNNING"]
    assert record.rows[1].reason == "needs about 5.5 GB of memory, but a trial can have 4.0 GB at most here"


def test_a_trial_that_ran_out_of_gpu_memory_gets_a_gpu_for_itself(record):
    """Of two GPUs that two trials each share: while it has one, the other two slots are those of the other one."""
    slots = Slots(4, 1, 0.5)
    searcher = StudySearcher(record, DEFAULT_SPACE, BASE, "random", Stopping(), None, 9, lambda: slots)
    assert [searcher.suggest(name)[GPUS] for name in "abcd"] == [0.5] * 4
    assert searcher.suggest("e") is None
    searcher.on_trial_complete("b", {EPOCH: 0, VAL_LOSS: math.inf, GPU_MEMORY: "it held nothing yet"})
    again = searcher.suggest("e")
    assert (again[TRIAL], again[GPUS]) == (1, 1.0)
    assert searcher.suggest("f") is None
    searcher.on_trial_complete("a", result(BASE.max_epochs, 100.0))
    assert searcher.suggest("f") is None  # two others run
    searcher.on_trial_complete("c", result(BASE.max_epochs, 100.0))
    assert searcher.suggest("f")[GPUS] == 0.5
    searcher.on_trial_complete("e", result(BASE.max_epochs, 100.0))
    assert [searcher.suggest(name)[GPUS] for name in "gh"] == [0.5] * 2


def test_a_search_of_which_no_trial_fits_ends(record):
    searcher = with_memory(record, 10, lambda _: 11)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert [row.state for row in record.rows] == ["FAIL"] * 6
