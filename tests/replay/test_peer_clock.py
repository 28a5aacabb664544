"""The clock on which all libraries search, against schedules worked by hand and against the replay of our searches."""

import math
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from ask_tell import Job, Task
from peer_clock import Epoch, OwnSearch, PeerFailed, PeerProcess, described, run_search
from peer_measures import Search
from peer_searches import own_setting

from vae_tune.config.names import COMPLETE
from vae_tune.config.space import DEFAULT_SPACE
from vae_tune.replay.curves import Curve, Tabular, load_curves
from vae_tune.replay.simulator import simulate

TABLE = Path(__file__).parents[1] / "curves"


class Scripted:
    """A peer that hands out given jobs, and lets a trial train on unless its epoch is in ``stops``."""

    def __init__(self, *jobs, stops=()):
        self._jobs, self._stops, self.reports = list(jobs), stops, []

    def ask(self):
        return self._jobs.pop(0) if self._jobs else None

    def report(self, trial, epoch, loss):
        self.reports.append((trial, epoch, loss))
        return (trial, epoch) not in self._stops


def task(**changed):
    return Task(**({"method": "", "space": (), "reference": None, "max_epochs": 3, "total_epochs": 100} | changed))


def job(trial, until=3, pace=1.0, losses=(9.0, 8.0, 7.0)):
    return Job(trial, {"curve": Curve(np.array(losses), np.full(3, pace))}, until)


def run(peer, workers, num_samples=None, **changed):
    return run_search(peer, task(workers=workers, seed=0, **changed), lambda values: values["curve"], num_samples)


def schedule(log):
    return [(one.seconds, one.trial, one.epoch) for one in log]


def test_workers_train_side_by_side_and_free_ones_ask():
    log = run(Scripted(job(0, pace=2), job(1, pace=3), job(2, pace=1), stops={(1, 1)}), workers=2)
    assert schedule(log) == [(2, 0, 1), (3, 1, 1), (4, 0, 2), (4, 2, 1), (5, 2, 2), (6, 0, 3), (6, 2, 3)]


def test_a_continued_trial_trains_from_its_last_epoch_alone():
    peer = Scripted(job(0, until=1), job(1, until=1), job(0, until=3))
    assert schedule(run(peer, workers=1)) == [(1, 0, 1), (2, 1, 1), (3, 0, 2), (4, 0, 3)]
    assert peer.reports == [(0, 1, 9.0), (1, 1, 9.0), (0, 2, 8.0), (0, 3, 7.0)]


def test_a_search_ends_with_its_epochs_or_its_configurations():
    jobs = [job(0), job(1), job(2)]
    assert schedule(run(Scripted(*jobs), workers=1, total_epochs=4))[-1] == (4, 1, 1)
    assert schedule(run(Scripted(*jobs), workers=1, num_samples=2))[-1] == (6, 1, 3)


def test_a_diverged_trial_frees_its_worker_whatever_the_peer_says():
    log = run(Scripted(job(0, losses=(9.0, math.inf, math.inf)), job(1)), workers=1)
    assert schedule(log) == [(1, 0, 1), (2, 0, 2), (3, 1, 1), (4, 1, 2), (5, 1, 3)]


@pytest.mark.parametrize("second", [job(0, until=1), job(1, until=4)])
def test_a_job_without_epochs_to_train_is_an_error(second):
    with pytest.raises(PeerFailed, match="of at most 3 epochs"):
        run(Scripted(job(0, until=1), second), workers=1)


@pytest.mark.parametrize("method", ["ours", "ours:asha-promotion/2"])
def test_our_search_is_that_of_a_replay(method):
    source, setting = Tabular(load_curves(TABLE)), own_setting(method, workers=2)
    own = task(method=method, max_epochs=4, total_epochs=1000, workers=2, seed=3)
    log = run_search(OwnSearch(source, setting, own, 20), own, source.curve)
    replayed = simulate(source, setting, num_samples=20, seed=3)
    complete = sorted(trial.spent for trial in replayed if trial.state == COMPLETE)
    assert [spent for spent, _, _ in Search.of(log, 4).completed] == complete
    assert log[-1].seconds == max(trial.ended for trial in replayed)


def test_a_space_is_described_for_all_peers():
    space = {**DEFAULT_SPACE.distributions, "activation": optuna.distributions.CategoricalDistribution(["relu", 2])}
    assert described(space)[1:] == [
        {"name": "hidden_width", "type": "int", "low": 64, "high": 1024, "log": True},
        {"name": "learning_rate", "type": "float", "low": 1e-4, "high": 1e-2, "log": True},
        {"name": "activation", "type": "categorical", "choices": ["relu", 2]},
    ]
    with pytest.raises(ValueError, match=r"width has steps of 8"):
        described({"width": optuna.distributions.IntDistribution(8, 64, step=8)})


PEER = """
from ask_tell import Job, serve

class Doubling:
    def __init__(self, task):
        self.task, self.started = task, 0
    def ask(self):
        print("chatter of a library")
        self.started += 1
        return Job(self.started - 1, {"x": self.task.seed}, self.task.max_epochs) if self.started < 3 else None
    def report(self, trial, epoch, loss):
        if loss > 100:
            raise ArithmeticError("too much")
        return loss < 8.5

serve(Doubling, ["optuna"])
"""


def test_a_peer_in_another_process_searches_again_and_again(tmp_path):
    script = tmp_path / "ask_doubling.py"
    script.write_text(PEER)
    process = PeerProcess(Path(sys.executable), script)
    expected = [(1, 0, 1, 8.0), (2, 0, 2, 9.0), (3, 1, 1, 8.0), (4, 1, 2, 9.0)]
    for seed in (1, 2):
        one = task(workers=1, seed=seed)
        process.start(one)
        log = run_search(process, one, lambda values: Curve(np.array([8.0, 9.0, 7.0]), np.full(3, values["x"])))
        assert log == [Epoch(n * seed, trial, epoch, loss) for n, trial, epoch, loss in expected]
        assert process.end() >= 0
    assert process.versions == {"optuna": optuna.__version__}
    process.start(task(workers=1, seed=0))
    with pytest.raises(PeerFailed, match=r"(?s)exit code 1: .*ArithmeticError: too much"):
        process.report(0, 1, math.inf)
    process.close()
