"""Rules that each concern one place of a file, as declared in ``rules.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vae_tune.cli.check.document import Document, Keys, Problem, advise, nearest


@cache
def _sections() -> dict[str, list[dict[str, Any]]]:
    sections: dict[str, list[dict[str, Any]]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return sections


def declared(document: Document, kind: object, start: Keys = ()) -> Iterator[Problem]:
    """Find what the rules for a provider or a kind of file forbid; their places are below ``start``."""
    for names, rules in _sections().items():
        for rule in rules if kind in names.split() else ():
            for keys in places(document, rule["at"], start):
                for found, words in _broken(rule, document.get(*keys)):
                    advice = rule["do"].format(*words) if "do" in rule else advise(words[0], rule["known"].split())
                    what = rule["say"].format(*words, at=keys, value=document.get(*keys))
                    yield Problem(rule.get("level", "error"), document.where(*keys, *found), what, advice)


def places(document: Document, pattern: str, start: Keys = ()) -> list[Keys]:
    """Return the places that a pattern such as ``docker.*run_options.*`` names."""
    found = [start]
    for part in filter(None, pattern.split(".")):
        found = [(*keys, name) for keys in found for name in _names(document, keys, part)]
    return found


def _names(document: Document, keys: Keys, part: str) -> list[str | int]:
    if "*" not in part:
        return [part]
    inside = [*document.mapping(*keys), *range(len(document.items(*keys)))]
    return [name for name in inside if fnmatchcase(str(name), part)]


def _broken(rule: Mapping[str, Any], value: Any) -> Iterator[tuple[Keys, tuple[Any, ...]]]:
    """Yield the place of each violation, from the place of the rule, and the words for its message."""
    text = "" if value is None else str(value)
    keys = value if isinstance(value, dict) else {}
    if "unless" in rule and re.search(rule["unless"], text):
        return
    if any(keys.get(key) for key in rule.get("lacks", "").split()):
        return
    for match in re.finditer(rule.get("is", "^"), text):
        if "known" not in rule:
            yield (), match.groups()
            continue
        known = rule["known"].split()
        for word in keys or [value]:
            guess = nearest(word, known, rule.get("cutoff", 0.6))
            if word not in known and (guess or "cutoff" not in rule):
                yield (word,) if keys else (), (word, guess)
