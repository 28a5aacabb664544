"""Private parts of torchvision, checked with torchvision 0.29: where its packages lie and where it keeps labels."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@cache
def mnist_module() -> ModuleType:
    """Return ``torchvision.datasets.mnist``: MNIST and its relatives.

    Importing torchvision also imports its models, its operators and torch's compiler, which takes up to 1.5 seconds
    of CPU. So if nothing has imported torchvision yet, load this module alone, inside empty packages that are removed
    again afterwards: a later import of torchvision gets all of it.
    """
    name = "torchvision.datasets.mnist"
    if "torchvision" in sys.modules:
        return import_module(name)
    (place,) = find_spec("torchvision").submodule_search_locations  # type: ignore[union-attr,misc]
    for package, folder in (("torchvision", place), ("torchvision.datasets", os.path.join(place, "datasets"))):
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [folder]
    try:
        return import_module(name)
    finally:
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "torchvision"]:
            del sys.modules[loaded]


def kept_labels(data: Any) -> tuple[Any, Sequence[object]]:
    """Return the label of each item of a torchvision data set without reading its pictures, and the classes' names.

    Most of its classes keep labels in one of three attributes, and others beside the paths of their files. The labels
    can be anything; there are none if the class keeps them elsewhere.
    """
    kept = (getattr(data, name, None) for name in ("targets", "labels", "_labels"))
    found = next((each for each in kept if each is not None), None)
    if found is None:
        pairs = getattr(data, "_samples", None) or getattr(data, "_flat_character_images", None) or []
        found = [pair[1] for pair in pairs]
    return found, getattr(data, "classes", None) or getattr(data, "_characters", None) or []
