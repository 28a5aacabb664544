"""Private parts of Ray Tune, checked with Ray 2.60: see :mod:`vae_tune.config.compat.ray`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partialmethod
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_STEP_SECONDS = 0.05
"""How long a step of Tune's loop may handle further events."""


@contextmanager
def lean_tune(*, local: bool) -> Iterator[None]:
    """Keep Tune from work that delays a search's trials, and from the signals of this process.

    It counts callbacks for usage statistics even where these are turned off, and imports MLflow for this. And it gives
    its actors an environment of their own, so that they cannot use workers that were started before. That environment
    holds one variable for PyTorch Lightning, and variables that the workers of this machine inherit anyway. It would
    put a handler of its own in the place of one of SIGUSR1, and end the search without a reason. And it would end the
    search where Ray ends a worker for want of memory while that trains, since this is no error of an actor in Ray.

    For each event it would look at the tasks of all actors (:func:`_next_event`), for each trial it would ask Ray for
    the trainable (:func:`_trainables_are_kept`) and the worker for a result before the first, of each report it would
    update averages of all numbers. At the end it would write the state of all trials, and look for files of results of
    each: for 10,000 trials this takes seconds and memory, and nothing here reads it.
    """
    from ray.air._internal import usage
    from ray.air.execution._internal import RayActorManager, actor_manager
    from ray.tune import tune
    from ray.tune.execution import class_cache, tune_controller
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial
    from ray.tune.trainable.metadata import _TrainingRunMetadata

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def set_actor(trial: Trial, actor: Any) -> None:
        trial.temporary_state.ray_actor = actor

    def no_analysis(**_: Any) -> Any:
        return SimpleNamespace(trials=())

    deaths = (RayActorError, OutOfMemoryError)
    no_environment = mock.patch.multiple(class_cache, DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset())
    with (
        mock.patch.object(usage, "tag_callbacks", return_value=False),
        mock.patch.object(tune, "_setup_signal_catching", Event),
        mock.patch.object(tune, "ExperimentAnalysis", no_analysis),
        mock.patch.object(actor_manager, "RayActorError", deaths),
        mock.patch.object(tune_controller, "RayActorError", deaths),
        mock.patch.multiple(TuneController, checkpoint=nothing, _mark_trial_to_checkpoint=nothing),
        mock.patch.object(_TrainingRunMetadata, "update_metric", nothing),
        mock.patch.object(Trial, "set_ray_actor", set_actor),
        mock.patch.object(RayActorManager, "next", partialmethod(_next_event, RayActorManager.next)),
        no_environment if local else nullcontext(),
        _trainables_are_kept(),
    ):
        yield


def _next_event(manager: Any, own_next: Callable[..., bool], timeout: float | None = None) -> bool:
    """Handle the next event of Tune's workers, and return whether there was one: as the manager's ``own_next`` does.

    That looks at the futures of all workers for each event. Here all tasks that have ended are found at once, and are
    handled one by one, in the order in which they were started, before others are looked for. An event of resources,
    or of a worker that starts or stops, still comes first, and a task that was canceled meanwhile is not handled.
    """
    tasks = manager._actor_task_events
    tracked = tasks._tracked_futures
    ended = _ended_tasks(manager)
    urgent = [*manager._resource_manager.get_resource_futures(), *manager._actor_state_events.get_futures()]
    if manager._live_actors_to_kill or (urgent and ray.wait(urgent, timeout=0)[0]):
        return own_next(manager, timeout)
    manager._try_start_actors()
    while ended and ended[0] not in tracked:
        ended.popleft()
    if not ended and tracked:
        ended.extend(ray.wait(list(tracked), num_returns=len(tracked), timeout=0)[0])
    if not ended:
        return own_next(manager, timeout)
    tasks.resolve_future(ended.popleft())
    manager._try_start_actors()
    return True


def _ended_tasks(manager: Any) -> deque[Any]:
    """Return the tasks of a manager's workers that have ended, as they were found."""
    ended: deque[Any] = vars(manager).setdefault("ended_tasks", deque())
    return ended


@contextmanager
def busy_steps(all_slots_are_taken: Callable[[], bool]) -> Iterator[None]:
    """In the block, let each step of Tune's loop handle events until one of them leaves something to do for the loop.

    Of a report after which the worker trains on, there is nothing: the loop would look for a trial to start, for which
    there is no slot, and call what is called in each step. Steps last a twentieth of a second at most.
    """
    from ray.air.execution._internal import RayActorManager

    next_events = partialmethod(_next_events, RayActorManager.next, all_slots_are_taken)
    with mock.patch.object(RayActorManager, "next", next_events):
        yield


def _next_events(
    manager: Any,
    next_event: Callable[..., bool],
    all_slots_are_taken: Callable[[], bool],
    timeout: float | None = None,
) -> bool:
    """Handle events, and return whether there was one; wait up to ``timeout`` seconds for the first."""
    tracked, end = manager._actor_task_events._tracked_futures, time.monotonic() + _STEP_SECONDS
    found, are_all_busy = False, True
    while are_all_busy and (not found or time.monotonic() < end):
        busy = len(tracked)
        if not next_event(manager, timeout=0 if found else timeout):
            break
        found = True
        are_all_busy = len(tracked) >= busy and bool(_ended_tasks(manager)) and all_slots_are_taken()
    return found


@contextmanager
def _trainables_are_kept() -> Iterator[None]:
    """Let Tune's registry keep what it has read: Tune asks Ray's servers three times per trial for its trainable.

    No other process registers any for this job.
    """
    from ray.tune.registry import _Registry

    kept: dict[tuple[str, str], Any] = {}
    own_get: Callable[..., Any] = _Registry.get
    own_contains: Callable[..., bool] = _Registry.contains

    def forgetting(own: Callable[..., None]) -> Callable[..., None]:
        def change(registry: Any, category: str, key: str, *value: Any) -> None:
            kept.pop((category, key), None)
            own(registry, category, key, *value)

        return change

    def get(registry: Any, category: str, key: str) -> Any:
        if (category, key) not in kept:
            kept[category, key] = own_get(registry, category, key)
        return kept[category, key]

    def contains(registry: Any, category: str, key: str) -> bool:
        return (category, key) in kept or own_contains(registry, category, key)

    register, unregister = forgetting(_Registry.register), forgetting(_Registry.unregister)
    with mock.patch.multiple(_Registry, get=get, contains=contains, register=register, unregister=unregister):
        yield


def forget_trial(trial: Trial) -> None:
    """Delete what Tune keeps of a trial that has ended, but its state: nothing reads it any more."""
    trial.run_metadata.last_result = {}
    trial._default_result_or_future = None
    trial._Trial__unresolved_config = trial.config = {}  # type: ignore[attr-defined]
    trial.evaluated_params = {}
    trial.storage = None


def last_failure(trial: Trial) -> list[str]:
    """Return the lines that Tune wrote about a trial's newest failure; at least one."""
    text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    lines = text.rpartition("Failure # ")[2].splitlines()[1:]
    return [line.strip() for line in lines if line.strip()] or ["failed without a message"]


def is_worker_death(failure: Sequence[str]) -> bool:
    """Return whether a trial failed because its worker died; else the trial's own code raised an error."""
    return failure[0].startswith("The actor ")


def is_out_of_memory(failure: Sequence[str]) -> bool:
    """Return whether Ray's memory monitor killed the worker of a trial; pages of advice follow the first line."""
    return "killed due to the node running low on memory" in failure[0]
