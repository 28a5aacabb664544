"""A YAML file with the line of each of its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vae_tune.cli.check.findings import Finding, Level
from vae_tune.config.settings import UsageError, telling_line

Keys = tuple[str | int, ...]
"""Where a value is: ``("provider", "region")``, list places counted from 0."""


@dataclass(frozen=True)
class Document:
    """A file and what it says."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Keys, int]
    """The line of each key and list item, counted from 1."""
    repeated: Sequence[Keys] = ()
    """Keys that a mapping has twice; YAML takes the last."""

    def get(self, *keys: str | int) -> Any:
        """Return the value at ``keys``, None where there is none."""
        value: Any = self.data
        for key in keys:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def mapping(self, *keys: str | int) -> dict[str, Any]:
        """Return the mapping at ``keys``, an empty one where there is none."""
        value = self.get(*keys)
        return value if isinstance(value, dict) else {}

    def items(self, *keys: str | int) -> list[Any]:
        """Return the list at ``keys``, an empty one where there is none."""
        value = self.get(*keys)
        return value if isinstance(value, list) else []

    def where(self, *keys: str | int) -> str:
        """Return ``file:line`` of ``keys``, or of the nearest mapping around it."""
        for length in range(len(keys), -1, -1):
            if keys[:length] in self.lines:
                return f"{self.path}:{self.lines[keys[:length]]}"
        return f"{self.path}:1"

    def find(self, level: Level, keys: Keys, what: str, advice: str) -> Finding:
        """Return what was found at ``keys``."""
        return Finding(level, self.where(*keys), what, advice)

    def error(self, keys: Keys, what: str, advice: str) -> Finding:
        """Return what keeps the cluster from working, or makes it unsafe."""
        return self.find("error", keys, what, advice)

    def warning(self, keys: Keys, what: str, advice: str) -> Finding:
        """Return what is better otherwise."""
        return self.find("warning", keys, what, advice)

    def texts(self) -> Iterator[tuple[Keys, str]]:
        """Yield every text of the file with its place."""
        yield from _texts(self.data, ())


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UsageError: it is not there, no YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text.") from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        places = list(_places(node, ())) if node else []  # before merge keys (<<) are written out
        data = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: this is no YAML: {telling_line(error.problem)}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is no YAML: {telling_line(error)}.") from error
    except RecursionError as error:
        raise UsageError(f"{path} holds an alias of itself, which no cluster configuration does.") from error
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no mapping, so it is no cluster configuration.")
    seen: set[Keys] = set()
    repeated = [keys for keys, _ in places if keys in seen or seen.add(keys)]  # type: ignore[func-returns-value]
    return Document(path, data, dict(places), repeated)


def _places(node: yaml.Node, keys: Keys) -> Iterator[tuple[Keys, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*keys, str(key.value))
            yield place, key.start_mark.line + 1
            yield from _places(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            place = (*keys, index)
            yield place, value.start_mark.line + 1
            yield from _places(value, place)


def _texts(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*keys, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*keys, index))
