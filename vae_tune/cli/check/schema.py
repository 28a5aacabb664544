"""What Ray's schema refuses, and some that it lets pass: repeated keys, counts that cannot be, unknown resources."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

from vae_tune.cli.check.document import Document, Keys
from vae_tune.cli.check.findings import Finding, meant, nearest

_KINDS = {"array": "a list", "boolean": "true or false", "integer": "a whole number", "number": "a number"}
_KINDS |= {"object": "a mapping", "string": "a text"}
_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")


def ray_schema() -> dict[str, Any]:
    """Return the schema of ``ray up``'s file, from the installed Ray, which need not be imported for it."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], "autoscaler", "ray-schema.json")
    return dict(json.loads(path.read_text()))


def repeated_keys(document: Document) -> Iterator[Finding]:
    """YAML takes the last of two equal keys and says nothing."""
    for keys in document.repeated:
        yield document.error(keys, f"{keys[-1]!r} is given twice; only this one holds.", "Remove one of them.")


def against_schema(document: Document) -> Iterator[Finding]:
    """Everything that Ray's schema refuses."""
    data = dict(document.data)
    if document.get("provider", "type") == "local":
        data.pop("min_workers", None)  # which Ray moves elsewhere before it looks
    validator = jsonschema.Draft7Validator(ray_schema())
    for error in sorted(validator.iter_errors(data), key=lambda error: str(error.absolute_path)):
        yield from _explain(document, tuple(error.absolute_path), error)


def _explain(document: Document, keys: Keys, error: Any) -> Iterator[Finding]:
    name = ".".join(str(key) for key in keys) or "the file"
    rule = error.validator_value
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            for key in sorted(set(map(str, error.instance)) - set(known)):
                yield document.error((*keys, key), f"{name} has no key {key!r}.", meant(key, known))
        case "required":
            missing = sorted(set(rule) - set(error.instance))[0]
            yield document.error(keys, f"{name} lacks {missing!r}.", "Add it.")
        case "type":
            wanted = _KINDS.get(str(rule), str(rule))
            yield document.error(keys, f"{name} must be {wanted}, but is {_short(error.instance)}.", "Change it.")
        case "enum":
            choices = ", ".join(map(str, rule))
            yield document.error(
                keys, f"{name} must be one of {choices}, but is {_short(error.instance)}.", "Change it."
            )
        case "minimum":
            yield document.error(keys, f"{name} must be >= {rule}, but is {_short(error.instance)}.", "Change it.")
        case _:
            yield document.error(keys, f"{name}: {error.message[:120]}.", "Change it.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def head_type(document: Document) -> Iterator[Finding]:
    """The head must be one of the node types."""
    types = document.mapping("available_node_types")
    head = document.get("head_node_type")
    if types and head is None:
        yield document.error(
            ("available_node_types",), "There is no 'head_node_type'.", f"Add one of {', '.join(types)}."
        )
    elif types and head not in types:
        what = f"head_node_type {head!r} is none of available_node_types."
        yield document.error(("head_node_type",), what, meant(head, types))


def worker_counts(document: Document) -> Iterator[Finding]:
    """Minima below their maxima, all of them within the whole, and room for at least one worker."""
    types, head = document.mapping("available_node_types"), document.get("head_node_type")
    total = document.get("max_workers")
    total = total if isinstance(total, int) else 2 if types else None  # Ray's default
    least = most = 0
    for name in types:
        default = 0 if name == head else total
        low, high = (document.get("available_node_types", name, key) for key in ("min_workers", "max_workers"))
        low, high = low if isinstance(low, int) else 0, high if isinstance(high, int) else default
        keys = ("available_node_types", name, "min_workers")
        if high is not None and low > high:
            what = f"Node type {name!r} has min_workers {low} > max_workers {high}."
            yield document.error(keys, what, "Raise max_workers or lower min_workers.")
        if low < 0:
            yield document.error(keys, f"Node type {name!r} has min_workers {low}.", "It must be >= 0.")
        if total is not None and high is not None and high > total:
            what = f"Node type {name!r} may have {high} workers, but the cluster {total} (max_workers)."
            yield document.warning((*keys[:2], "max_workers"), what, "Raise max_workers of the whole.")
        least, most = least + max(low, 0), most + max(high or 0, 0)
    if total is not None and least > total:
        what = f"The node types have {least} workers at least (min_workers), but the cluster {total} at most."
        yield document.error(("max_workers",), what, f"Raise max_workers to {least} or lower the min_workers.")
    if types and (most == 0 or total == 0):
        what = "No worker can ever start: max_workers is 0."
        yield document.error(("max_workers",), what, "Raise it: the head only drives the search.")


def resources(document: Document) -> Iterator[Finding]:
    """Ray takes every name for a resource; ``gpu`` is none that a trial asks for."""
    for name in document.mapping("available_node_types"):
        for key in document.mapping("available_node_types", name, "resources"):
            guess = nearest(key, _RESOURCES, likeness=0.75)
            if guess and key != guess:
                keys = ("available_node_types", name, "resources", key)
                yield document.error(keys, f"Ray takes {key!r} for a resource of your own.", f"Write {guess!r}.")


def idle_time(document: Document) -> Iterator[Finding]:
    """Nodes that nobody uses cost as much as others."""
    minutes = document.get("idle_timeout_minutes")
    if isinstance(minutes, int | float) and minutes > 60:
        what = f"An idle node is kept, and paid, for {minutes:g} minutes."
        yield document.warning(("idle_timeout_minutes",), what, "5 is enough: a search asks for nodes by itself.")


RULES = (repeated_keys, against_schema, head_type, worker_counts, resources, idle_time)
