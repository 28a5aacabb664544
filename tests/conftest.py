"""Images that several test modules share."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import Images, load_images

torch.set_num_threads(1)  # test processes run side by side, and more threads only wait for each other


LONGEST = ("hosts", "resume", "search", "storage", "slurm", "faults", "nodes", "chaos", "color", "damage")
"""The modules of tests/system that take longest; each waits most of the time."""


def pytest_collection_modifyitems(items):
    """Mix the modules of tests/system, which mostly wait, with the others, which compute; the longest first.

    The last are short ones of the others: a long one that begins last keeps one process busy alone.
    """
    modules = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    groups = {True: [], False: []}
    for path in modules:
        groups[path.parent.name == "system"].append(path)
    order = [f"test_{name}" for name in LONGEST]
    groups[True].sort(key=lambda path: order.index(path.stem) if path.stem in order else len(order))
    places = {path: place / len(groups[False]) for place, path in enumerate(groups[False])}
    places |= {path: 0.8 * place / len(groups[True]) for place, path in enumerate(groups[True])}
    items[:] = [item for path in sorted(modules, key=places.__getitem__) for item in modules[path]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI only a missing GPU is a reason to skip: whatever else a test lacks there it has to bring."""
    report = yield
    if report.skipped and os.environ.get("CI") and not item.get_closest_marker("gpu"):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="session")
def mnist() -> Images:
    """2,000 training images of MNIST, with all of its validation and test images."""
    return load_images(DataConfig(train_size=2000))


@pytest.fixture
def tiny() -> Images:
    """Noise in odd sizes, so that a swapped axis or a forgotten last batch shows."""
    random = np.random.default_rng(0)
    return Images(
        train=random.integers(0, 256, (60, 1, 5, 7), np.uint8),
        validation=random.integers(0, 256, (40, 1, 5, 7), np.uint8),
        test=random.integers(0, 256, (30, 1, 5, 7), np.uint8),
    )
