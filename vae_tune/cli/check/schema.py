"""Rules for the file of ``ray up``: the schema of Ray, and repeated keys and worker counts beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema

from vae_tune.cli.check.document import Document, Problem, advise
from vae_tune.config.files import read_json


def ray_schema() -> dict[str, Any]:
    """Return the schema of the file from the installed Ray, without importing Ray."""
    spec = find_spec("ray")
    assert spec is not None
    return dict(read_json(Path(str(spec.origin)).with_name("autoscaler") / "ray-schema.json"))


def repeated_keys(document: Document) -> Iterator[Problem]:
    """Find keys given twice, of which YAML silently uses the last."""
    for keys in document.repeated:
        yield document.error(keys, f"{keys[-1]!r} is given twice; only this one holds.", "Remove one of them.")


def against_schema(document: Document) -> Iterator[Problem]:
    """Find what the schema of Ray refuses."""
    data = dict(document.data)
    if document.get("provider", "type") == "local":
        data.pop("min_workers", None)  # Ray moves it elsewhere before it validates
    validator = jsonschema.Draft7Validator(ray_schema())
    for error in sorted(validator.iter_errors(data), key=lambda error: str(error.absolute_path)):
        keys = tuple(error.absolute_path)
        name = ".".join(map(str, keys)) or "the file"
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for key in sorted(set(map(str, error.instance)) - set(known)):
                yield document.error((*keys, key), f"{name} has no key {key!r}.", advise(key, known))
        else:
            yield document.error(keys, f"{name}: {error.message[:120]}.", "Change it.")


def head_type(document: Document) -> Iterator[Problem]:
    """Find a head that is none of the node types."""
    types = document.mapping("available_node_types")
    head = document.get("head_node_type")
    if types and head is None:
        what = "There is no 'head_node_type'."
        yield document.error(("available_node_types",), what, f"Add one of {', '.join(types)}.")
    elif types and head not in types:
        what = f"head_node_type {head!r} is none of available_node_types."
        yield document.error(("head_node_type",), what, advise(head, types))


def worker_counts(document: Document) -> Iterator[Problem]:
    """Find minima above maxima, and a cluster that cannot have workers."""
    types, head = document.mapping("available_node_types"), document.get("head_node_type")
    total = document.get("max_workers")
    total = total if isinstance(total, int) else 2 if types else None  # Ray's default
    least = most = 0
    for name in types:
        low, high = (document.get("available_node_types", name, key) for key in ("min_workers", "max_workers"))
        low = low if isinstance(low, int) else 0
        high = high if isinstance(high, int) else 0 if name == head else total
        keys = ("available_node_types", name, "min_workers")
        if low < 0 or (high is not None and low > high):
            what = f"Node type {name!r} has min_workers {low} > max_workers {high}."
            what = f"Node type {name!r} has min_workers {low} < 0." if low < 0 else what
            yield document.error(keys, what, "Change min_workers or max_workers.")
        if total is not None and high is not None and high > total:
            what = f"Node type {name!r} may have {high} workers, but the cluster {total} (max_workers)."
            yield document.warning((*keys[:2], "max_workers"), what, "Raise max_workers of the cluster.")
        least, most = least + max(low, 0), most + max(high or 0, 0)
    if total is not None and least > total:
        what = f"The node types have at least {least} workers (min_workers), but the cluster at most {total}."
        yield document.error(("max_workers",), what, f"Raise max_workers to {least} or lower min_workers.")
    if types and (most == 0 or total == 0):
        what = "No worker can ever start: max_workers is 0."
        yield document.error(("max_workers",), what, "Raise it: the head only drives the search.")


def idle_time(document: Document) -> Iterator[Problem]:
    """Find a long idle timeout: an idle node costs as much as a busy one."""
    minutes = document.get("idle_timeout_minutes")
    if isinstance(minutes, int | float) and minutes > 60:
        what = f"An idle node is kept and paid for {minutes:g} minutes."
        yield document.warning(("idle_timeout_minutes",), what, "5 is enough: a search asks for nodes by itself.")


RULES = (repeated_keys, against_schema, head_type, worker_counts, idle_time)
