"""What Ray Tune asks of Ray: the events of its workers, each handled once and in a fair order; its trainables."""

import itertools
from types import SimpleNamespace

import pytest
import ray
from ray.air.execution._internal import RayActorManager
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.tune import registry
from ray.tune.experiment import Trial

from vae_tune.config.compat import ray_tune
from vae_tune.config.compat.ray_tune import busy_steps, lean_tune


class Task:
    """In place of an object reference: what a worker returns, or the error that it raises, once there is one."""

    def __init__(self, name, result=None):
        self.name = name
        self.result = result

    def __repr__(self):
        return self.name


class Worker:
    """In place of an actor: keeps its tasks."""

    def __init__(self, name):
        self.tasks = []
        self.__ray_ready__ = self._method(f"{name} starts", ready=True)
        self.__ray_terminate__ = self._method(f"{name} stops", ready=True)
        self.train = self._method(f"{name} trains", ready=False)

    def _method(self, name, *, ready):
        def remote():
            self.tasks.append(Task(name, "done" if ready else None))
            return self.tasks[-1]

        return SimpleNamespace(remote=remote)


class Room:
    """In place of a manager of resources: there is room for every worker at once."""

    def request_resources(self, resource_request):
        """Promise it."""

    def has_resources_ready(self, _):
        return True

    def acquire_resources(self, _):
        return SimpleNamespace(annotate_remote_entities=lambda kinds: kinds)

    def free_resources(self, acquired_resource):
        """Take it back."""

    def get_resource_futures(self):
        return []


class Search:
    """A manager of actors, with workers that train an epoch after another, and the events that it handled."""

    def __init__(self, count):
        self.events = []
        self.manager = RayActorManager(Room())
        self.workers, self.actors = [], []
        for number in range(count):
            self.workers.append(Worker(f"w{number}"))
            self.actors.append(self._add(self.workers[-1], f"w{number}"))
        self.manager.next(timeout=0)
        while len(self.events) < count:
            self.manager.next(timeout=0)
        self.events.clear()

    def _add(self, worker, name):
        def note(event):
            return lambda *details: self.events.append(" ".join([name, event, *map(repr, details[1:])]))

        kind = ray.remote(Worker)
        kind.remote = lambda: worker
        on = {"on_start": note("started"), "on_stop": note("stopped"), "on_error": note("lost")}
        return self.manager.add_actor(kind, {}, "a slot", **on)

    def train(self, *numbers, then=lambda: None):
        """Let workers train an epoch; ``then`` is called when it was reported."""
        for number in numbers:

            def report(_, result, name=f"w{number}"):
                self.events.append(f"{name} {result}")
                then()

            def fail(_, error, name=f"w{number}"):
                self.events.append(f"{name} {type(error).__name__}")

            self.manager.schedule_actor_task(self.actors[number], "train", on_result=report, on_error=fail)

    def end(self, *numbers, result="epoch"):
        """Let the epochs of workers end."""
        for number in numbers:
            self.workers[number].tasks[-1].result = result

    def handled(self):
        """Take a step; return what was called."""
        before = len(self.events)
        assert self.manager.next(timeout=0) is (len(self.events) > before)
        return self.events[before:]


@pytest.fixture
def looks(monkeypatch):
    """In place of Ray's core; how many references each look at them had."""
    counts = []

    def wait(tasks, num_returns=1, timeout=None):
        counts.append(len(tasks))
        ready = [task for task in tasks if task.result is not None][:num_returns]
        return ready, [task for task in tasks if task not in ready]

    def get(task):
        if isinstance(task.result, Exception):
            raise task.result
        return task.result

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", get)
    with lean_tune(local=True):
        yield counts


def test_all_epochs_that_have_ended_are_reported_one_per_step_in_the_order_in_which_they_started(looks):
    search = Search(100)
    search.train(*range(99, -1, -1))
    search.end(*range(0, 100, 2))
    looks.clear()
    assert [search.handled() for _ in range(50)] == [[f"w{number} epoch"] for number in range(98, -1, -2)]
    assert len(looks) == 1
    assert search.handled() == []
    search.end(1)
    assert search.handled() == ["w1 epoch"]


def test_a_worker_that_always_has_a_report_does_not_keep_others_waiting(looks):
    search = Search(3)

    def again():
        search.train(0, then=again)
        search.end(0)

    search.train(0, then=again)
    search.train(1, 2)
    search.end(0, 2)
    assert [search.handled() for _ in range(3)] == [["w0 epoch"], ["w2 epoch"], ["w0 epoch"]]
    search.end(1)
    assert ["w1 epoch"] in [search.handled() for _ in range(2)]


def test_an_epoch_that_was_canceled_after_it_ended_is_not_reported(looks):
    search = Search(3)
    search.train(0, then=lambda: search.manager.clear_actor_task_futures(search.actors[1]))
    search.train(1, 2)
    search.end(0, 1, 2)
    assert [search.handled() for _ in range(3)] == [["w0 epoch"], ["w2 epoch"], []]


def test_a_worker_that_starts_or_stops_comes_before_epochs_that_have_ended(looks):
    search = Search(3)
    search.train(1, 2)
    search.end(1, 2)
    assert search.handled() == ["w1 epoch"]
    search.manager.remove_actor(search.actors[0])
    assert search.handled() == ["w0 stopped"]
    search.manager.remove_actor(search.actors[1], kill=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "kill", lambda _: None)
        assert search.handled() == ["w1 stopped"]
    assert search.handled() == ["w2 epoch"]


@pytest.mark.parametrize("kind", [ActorDiedError, ActorUnavailableError])
def test_a_worker_that_is_lost_is_seen_and_its_other_tasks_are_not_waited_for(looks, kind):
    search = Search(2)
    search.train(0, 0, 1)
    error = kind("RpcError", None) if kind is ActorUnavailableError else kind()
    search.end(0, result=error)
    search.end(1)
    assert search.handled() == [f"w0 lost {error!r}", f"w0 {kind.__name__}"]
    assert search.manager.is_actor_failed(search.actors[0])
    assert search.handled() == ["w1 epoch"]
    assert search.manager.num_actor_tasks == 0


def test_an_error_of_a_trials_own_code_reaches_its_trial_alone(looks):
    search = Search(2)
    search.train(0, 1)
    search.end(0, result=RayTaskError("train", "Traceback", ValueError("no")))
    search.end(1)
    assert [search.handled() for _ in range(2)] == [["w0 RayTaskError"], ["w1 epoch"]]
    assert not search.manager.is_actor_failed(search.actors[0])


def test_an_error_of_ray_that_no_trial_caused_ends_the_search(looks):
    search = Search(1)
    search.train(0)
    search.end(0, result=OSError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        search.manager.next(timeout=0)


def goes_on(search, *numbers):
    """Let workers train on after each report."""
    for number in numbers:
        search.train(number, then=lambda number=number: goes_on(search, number))


def test_a_step_handles_the_reports_of_busy_workers_until_one_of_them_has_nothing_to_train(looks):
    search = Search(5)
    with busy_steps(lambda: True):
        goes_on(search, 0, 1)
        search.train(2)
        goes_on(search, 3, 4)
        search.end(*range(5))
        assert search.handled() == ["w0 epoch", "w1 epoch", "w2 epoch"]
        assert search.handled() == ["w3 epoch", "w4 epoch"]
        assert search.handled() == []
        search.end(0, 3)
        search.end(1, result=ActorDiedError())
        assert search.handled() == ["w0 epoch", "w1 lost ActorDiedError()", "w1 ActorDiedError"]
        assert search.handled() == ["w3 epoch"]


def test_a_step_handles_one_report_while_a_slot_is_free_and_lasts_a_twentieth_of_a_second_at_most(looks, monkeypatch):
    search = Search(4)
    with busy_steps(lambda: False):
        goes_on(search, *range(4))
        search.end(*range(4))
        assert search.handled() == ["w0 epoch"]
    clock = itertools.count(step=0.02)
    monkeypatch.setattr(ray_tune, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with busy_steps(lambda: True):
        assert search.handled() == ["w1 epoch", "w2 epoch", "w3 epoch"]
        search.end(*range(4))
        assert search.handled() == ["w0 epoch", "w1 epoch", "w2 epoch"]
        assert search.handled() == ["w3 epoch"]


def test_no_worker_is_asked_for_a_result_before_its_trials_first_report():
    actor = Worker("w0")
    with lean_tune(local=True):
        trial = Trial("any", stub=True)
        trial.set_ray_actor(actor)
        assert trial.temporary_state.ray_actor is actor
        assert trial.last_result == {"trial_id": trial.trial_id}
    assert actor.tasks == []


def test_a_trainable_is_read_once_until_another_one_is_registered(monkeypatch):
    stored, reads = {}, []

    def read(key):
        reads.append(key)
        return stored.get(key)

    monkeypatch.setattr(registry, "_internal_kv_initialized", lambda: True)
    monkeypatch.setattr(registry, "_internal_kv_get", read)
    monkeypatch.setattr(registry, "_internal_kv_put", lambda key, value, overwrite: stored.update({key: value}))
    monkeypatch.setattr(registry, "_internal_kv_del", stored.pop)
    with lean_tune(local=True):
        job = registry._Registry(prefix="job")
        assert not job.contains("trainable_class", "train")
        job.register("trainable_class", "train", "first")
        reads.clear()
        for _ in range(3):
            assert (job.get("trainable_class", "train"), job.contains("trainable_class", "train")) == ("first", True)
        assert len(reads) == 1
        job.register("trainable_class", "train", "second")
        assert job.get("trainable_class", "train") == "second"
        job.unregister("trainable_class", "train")
        assert not job.contains("trainable_class", "train")
