"""Searches that begin without Ray, with all of their own checks."""

import contextlib

from vae_tune.cluster.ray_runtime import RunningRay
from vae_tune.cluster.slots import Slots
from vae_tune.tasks import search, search_start


@contextlib.contextmanager
def _ray(*_):
    yield RunningRay()


@contextlib.contextmanager
def _slots(*_):
    yield Slots(count=1, cpus=1, gpus=0)


def without_ray(monkeypatch):
    """Let searches of this process begin without Ray, and end as soon as their record is open."""
    monkeypatch.setattr(search_start, "running_ray", _ray)
    monkeypatch.setattr(search_start, "requested_slots", _slots)
    monkeypatch.setattr(search, "train_trials", lambda running: running.record.set_status("interrupted"))
    monkeypatch.setattr(search, "finish_search", lambda running, study: study)
