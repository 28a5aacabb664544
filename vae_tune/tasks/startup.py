"""What a search waits for before its first trial: Ray, the images, room for the trials."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from vae_tune.cluster.ray_runtime import RunningRay, running_ray
from vae_tune.cluster.slots import Slots, release_command, requested_slots
from vae_tune.images.datasets import Images, load_images
from vae_tune.search.crash_notice import last_word
from vae_tune.search.stopping import Ending, interruptible
from vae_tune.tasks.search_plan import Plan
from vae_tune.views.terminal import View

_KILLED_EARLY = "The search was killed before its first trial."


@contextlib.contextmanager
def started(plan: Plan, view: View, ending: Ending) -> Iterator[tuple[Images, Slots, RunningRay]]:
    """Yield the images, and the slots of a Ray that runs while the block lasts.

    A signal is heeded once Ray is up (a SIGTERM that Ray itself heeds, at once): torn from its start, Ray can leave a
    lock behind that everything waits for.
    """
    resources = plan.config.resources
    with ThreadPoolExecutor(1) as reader, contextlib.ExitStack() as running:
        reading = reader.submit(load_images, plan.config.data)
        early = last_word(_KILLED_EARLY, release_command(resources.address))
        with interruptible(ending):
            try:
                ray = running.enter_context(running_ray(resources, view.warn))
            except SystemExit as exited:  # of SIGTERM, for which Ray has handlers of its own as it starts
                raise KeyboardInterrupt("nothing was begun.") from exited
        with interruptible(ending), early:  # once more: Ray has put a handler of its own in its place
            while not (ending.reason or reading.done()):
                wait([reading], timeout=0.1)
            if not ending.reason:
                images = reading.result()
                there = requested_slots(resources, _most_trials(plan), view.say, lambda: bool(ending.reason))
                slots = running.enter_context(there)
        if ending.reason:
            raise KeyboardInterrupt("nothing was begun.")
        yield images, slots, ray


def _most_trials(plan: Plan) -> int:
    """Return how many trials there will be side by side at most."""
    return max(1, plan.remaining, plan.config.confirm and (plan.config.confirm + 1) * plan.config.confirm_seeds)
