"""Rules for what is installed on the nodes and runs there: files, versions, the commands that start Ray."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vae_tune.cli.check.document import Document, Problem

SETUP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
START = ("head_start_ray_commands", "worker_start_ray_commands")
CLOUDS = ("aws", "gcp", "azure", "aliyun", "vsphere")
"""Providers whose defaults install a nightly Ray and open its dashboard."""
_PIN = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*)(?:\[[^\]]*\])?\s*==\s*([0-9][\w.!+*-]*)")
_IMAGE = re.compile(r"(?:^|/)ray(?:-ml)?:([0-9][0-9.]*)(?:-py3(\d+))?")
_OLDEST_PYTHON = 11
_HEAVY = (".venv", ".venv-lowest", ".git")


@cache
def _constraints(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the versions pinned by the nearest ``constraints.txt`` above ``path``, or by the one here.

    A package has several if they differ by platform or Python.
    """
    for folder in (*path.absolute().parents, Path.cwd()):
        if (folder / "constraints.txt").is_file():
            pins: dict[str, tuple[str, ...]] = {}
            for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", (folder / "constraints.txt").read_text()):
                pins[_canonical(name)] = (*pins.get(_canonical(name), ()), version)
            return pins
    return {}


def wanted_versions(name: str, path: Path) -> tuple[str, ...]:
    """Return the versions of a package that the constraints allow, else the version installed here."""
    try:
        return _constraints(path).get(_canonical(name)) or (importlib.metadata.version(name),)
    except importlib.metadata.PackageNotFoundError:
        return ()


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned_versions(document: Document) -> Iterator[Problem]:
    """Find versions of packages and images that differ from the constraints."""
    for keys, text in document.texts:
        for name, version in _PIN.findall(text):
            wanted = wanted_versions(name, document.path)
            if wanted and version not in wanted:
                what = f"{name}=={version} is installed, but constraints.txt has {wanted[-1]}."
                yield document.error(keys, what, f"Write {name}=={wanted[-1]}.")
        if keys[-1] in ("image", "head_image", "worker_image") and (image := _IMAGE.search(text)):
            wanted = wanted_versions("ray", document.path)
            if wanted and image[1] not in wanted:
                what = f"The image has Ray {image[1]}, but constraints.txt has {wanted[-1]}."
                yield document.error(keys, what, f"Take ray:{wanted[-1]}.")
            if image[2] and int(image[2]) < _OLDEST_PYTHON:
                what = f"The image has Python 3.{image[2]}, but vae_tune needs 3.{_OLDEST_PYTHON} or newer."
                yield document.error(keys, what, f"Take -py3{_OLDEST_PYTHON + 1}.")


def package(document: Document) -> Iterator[Problem]:
    """Find nodes without vae_tune, or with the nightly build of Ray that the defaults of a provider install."""
    if document.get("provider", "type") in CLOUDS and not document.items("setup_commands"):
        what = "There are no setup_commands, and those of the provider install a nightly build of Ray."
        yield document.error(("setup_commands",), what, "Copy those of the cluster.yaml that comes with vae_tune.")
        return
    commands = [text for keys, text in document.texts if keys[0] in SETUP]
    if document.get("docker", "image") or document.get("docker", "head_image"):
        return
    if not any(re.search(r"install\b[^;&|]*vae[-_]tune", text) for text in commands):
        what = "Nothing installs vae_tune on the nodes, so no trial can run."
        yield document.error(("setup_commands",), what, 'Mount the checkout and add: pip install "$HOME/vae_tune".')


def file_mounts(document: Document) -> Iterator[Problem]:
    """Find sources that do not exist and targets that are not absolute, before the head costs money."""
    for target, source in document.mapping("file_mounts").items():
        keys = ("file_mounts", target)
        if not isinstance(source, str):
            yield document.error(keys, f"The source of {target} is no path.", "Write target: source.")
            continue
        path = Path(os.path.expanduser(source))
        if not target.startswith(("/", "~/")):
            yield document.error(keys, f"The target {target} is not absolute.", f"Write ~/{target}: {source}.")
        if is_token(target):
            continue  # another rule checks it
        if not path.exists():
            what = f"{source} does not exist (seen from {Path.cwd()})."
            yield document.error(keys, what, "ray up would stop halfway.")
        elif heavy := next((name for name in _HEAVY if (path / name).exists()), None):
            what = f"{source} holds {heavy}, all of which ray up reads each time and copies to each node."
            yield document.warning(keys, what, "Mount only what is needed.")


def mounted_sources(document: Document) -> Iterator[Problem]:
    """Find setup commands that use a folder which no mount creates."""
    targets = [target.removeprefix("~/") for target in document.mapping("file_mounts") if target.startswith("~/")]
    for keys, text in document.texts:
        if keys[0] not in SETUP:
            continue
        for name in sorted(set(re.findall(r"(?:\$HOME|~)/(vae[_-]tune)\b", text))):
            if not any(target == name or target.startswith(f"{name}/") for target in targets):
                what = f"The command uses ~/{name}, but no file_mounts copy anything there."
                yield document.error(keys, what, f"Add file_mounts under ~/{name}.")


def is_token(target: str) -> bool:
    """Whether Ray looks for its token at this path of a node by default."""
    return target.endswith("/.ray/auth_token")


RULES = (file_mounts, mounted_sources, package, pinned_versions)
