"""A YAML file with the line of each of its keys, and what a check finds in it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from vae_tune.config.errors import UsageError, telling_line

Keys = tuple[str | int, ...]
"""The path to a value: ``("provider", "region")``; list items are counted from 0."""
Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong (error), or that will cost money, time or safety (warning)."""

    level: Level
    where: str
    """``file:line``, or a node."""
    what: str
    advice: str

    def __str__(self) -> str:
        """Return the problem on one line."""
        return f"{self.where}: {self.level}: {self.what} {self.advice}".rstrip().replace("\n", " ")


def nearest(name: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the word in ``known`` that ``name`` probably means, ignoring case."""
    by_case = {word.lower(): word for word in sorted(known)}
    found = difflib.get_close_matches(str(name).lower(), by_case, n=1, cutoff=cutoff)
    return by_case[found[0]] if found else None


def advise(name: object, known: Iterable[str]) -> str:
    """Return the advice for an unknown key."""
    known = sorted(known)
    if guess := nearest(name, known):
        return f"Did you mean {guess!r}?"
    return f"Known are {', '.join(known)}." if len(known) < 20 else "Remove it."


@dataclass(frozen=True)
class Document:
    """A YAML file."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Keys, int]
    """The line of each key and list item, counted from 1."""
    texts: Sequence[tuple[Keys, str]]
    """Every scalar of the file as text, with its place."""
    repeated: Sequence[Keys]
    """Keys that a mapping has twice; YAML uses the last."""

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

    def error(self, keys: Keys, what: str, advice: str) -> Problem:
        """Return a problem at ``keys`` that keeps the cluster from working, or makes it unsafe."""
        return Problem("error", self.where(*keys), what, advice)

    def warning(self, keys: Keys, what: str, advice: str) -> Problem:
        """Return a problem at ``keys`` that costs money, time or safety."""
        return Problem("warning", self.where(*keys), what, advice)


def read_text(path: Path) -> str:
    """Return the text of a file; raise UsageError if it cannot be read or is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text.") from error


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UsageError: it is missing, not YAML, or not a mapping.
    """
    text = read_text(path)
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        nodes = list(_nodes(root)) if root else []  # before merge keys (<<) are expanded
        data = loader.construct_document(root) if root else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: not valid YAML: {telling_line(error.problem)}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is not valid YAML: {telling_line(error)}.") from error
    except RecursionError as error:
        raise UsageError(f"{path} holds an alias of itself, which no cluster file does.") from error
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no mapping, so it is no cluster file.")
    counts = Counter(keys for keys, _, _ in nodes)
    texts = [(keys, node.value) for keys, _, node in nodes if isinstance(node, yaml.ScalarNode)]
    lines = {keys: line for keys, line, _ in nodes}
    return Document(path, data, lines, texts, [keys for keys, count in counts.items() if count > 1])


def _nodes(node: yaml.Node, keys: Keys = ()) -> Iterator[tuple[Keys, int, yaml.Node]]:
    """Yield the path, the line and the node of each value below ``node``."""
    if isinstance(node, yaml.MappingNode):
        inside = [((*keys, str(key.value)), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inside = [((*keys, index), value, value) for index, value in enumerate(node.value)]
    else:
        return
    for place, start, value in inside:
        yield place, start.start_mark.line + 1, value
        yield from _nodes(value, place)
