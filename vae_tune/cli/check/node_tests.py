"""What a node is asked: its versions, and whether it can use the results folder."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution
from pathlib import Path

from vae_tune.cli.check.document import Level, Problem
from vae_tune.config.errors import telling_line
from vae_tune.config.files import absolute, named_path
from vae_tune.config.storage import QUICK, exists, write_bytes

_PACKAGES = ("vae-tune", "ray", "torch", "optuna", "numpy", "safetensors")
"""Packages whose objects or files the driver and its workers exchange."""
_MARK = "driver"
_CONTENT = b"vae-tune check\n"


def own_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, on this machine."""
    installed = {name: next(iter(Distribution.discover(name=name)), None) for name in _PACKAGES}
    found = {name: package.version if package else "none" for name, package in installed.items()}
    return {"Python": platform.python_version(), **found}


def version_problems(where: str, theirs: Mapping[str, str], here: Mapping[str, str]) -> Iterator[Problem]:
    """Find versions of a node that differ from those of this machine."""
    for name, own in here.items():
        their = theirs.get(name, "none")
        if their != own:
            level: Level = "error" if name in ("Python", "ray", "vae-tune") else "warning"
            what = f"{name} is {their} there, but {own} here."
            yield Problem(level, where, what, "Install the versions of constraints.txt on every node.")


def open_storage(results_dir: str) -> tuple[Path | None, str | None]:
    """Create a folder to test the storage in; return it, or what went wrong."""
    folder = absolute(named_path(results_dir)) / f".check-{uuid.uuid4().hex}"
    try:
        write_bytes(folder / _MARK, _CONTENT, QUICK)
    except (OSError, ValueError) as error:
        return None, telling_line(error)
    return folder, None


def try_storage(folder: Path) -> str | None:
    """Read what the driver wrote, and write something; return what went wrong."""
    try:
        if not exists(folder / _MARK):
            return "it is not shared: this node has another folder of that name."
        write_bytes(folder / uuid.uuid4().hex, _CONTENT, QUICK)
    except (OSError, ValueError) as error:
        return telling_line(error)
    return None
