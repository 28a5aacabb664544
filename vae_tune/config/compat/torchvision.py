"""Private parts of torchvision, checked with torchvision 0.29: how its packages are laid out."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


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
