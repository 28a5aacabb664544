"""Check the fields of a configuration against their types; convert it to JSON values and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from numbers import Number
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vae_tune.config.errors import UsageError
from vae_tune.config.files import LONGEST_NAME, address, can_be_path, named_path
from vae_tune.config.message_hints import did_you_mean

_Config = TypeVar("_Config")
_PATH = f"a path of printable names, each at most {LONGEST_NAME} bytes long"


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON values (paths as strings)."""
    return {key: _plain(value) for key, value in asdict(config).items()}


def from_dict(cls: type[_Config], values: Any) -> _Config:
    """Rebuild the configuration of type ``cls`` that :func:`to_dict` wrote.

    Raises UsageError if ``values`` is no mapping, a key is no field of ``cls``, or its validation refuses a value.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{cls.__name__} must be a mapping of its fields, but got {values!r}.")
    hints = _hints(cls)
    if unknown := [name for name in values if name not in hints]:
        meant = did_you_mean(unknown[0], hints)
        raise UsageError(f"{cls.__name__} has no field {unknown[0]!r}.{meant} Its fields: {', '.join(hints)}.")
    nested = {name for name, value in values.items() if is_dataclass(hints[name]) and isinstance(value, dict)}
    return cls(**{name: from_dict(hints[name], value) if name in nested else value for name, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if getattr(value, "shape", ()) and hasattr(value, "tolist"):  # an array of NumPy or pandas
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return address(value) if isinstance(value, Path) else plain_number(value)


_hints: Callable[[type], dict[str, Any]] = cache(get_type_hints)
"""Return the types of a configuration's fields, cached: a report builds thousands of configurations."""


def check_types(config: Any) -> None:
    """Raise UsageError at a value of the wrong type; convert values from Python, YAML or JSON that fit.

    Numbers of NumPy, pandas and torch become Python's, a whole float becomes an int where one is needed, a text
    becomes a path, and a path gets ``~`` expanded and a name at its end (unlike ``.``).
    """
    hints = _hints(type(config))
    for spec in fields(config):
        given, hint = getattr(config, spec.name), hints[spec.name]
        value = _fitting(given, hint)
        if value is not given:
            object.__setattr__(config, spec.name, value)
        if isinstance(value, int) and (bits := value.bit_length()) > 63:  # repr(), float() or torch would fail on it
            raise UsageError(f"{spec.name} must be a number of at most 63 bits, but got one of {bits}.")
        if get_origin(hint) is tuple:
            kind, words = get_args(hint)[0], "paths" if get_args(hint)[0] is Path else "texts"
            whole = isinstance(value, tuple) and all(isinstance(one, kind) for one in value)
            fits = whole and all(can_be_path(one) for one in value if isinstance(one, Path))
            require(config, spec.name, fits, f"a list of {words}")
        elif (choices := _choices(hint)) and (value is not None or not _accepts(hint, type(None))):
            if value not in choices:
                known = f"{spec.name} must be one of {', '.join(map(str, choices))}, but got {value!r}."
                raise UsageError(known + did_you_mean(value, choices))
        elif isinstance(value, bool):
            require(config, spec.name, _accepts(hint, bool), "a number or a text, not true or false")
        elif isinstance(value, Path) and _accepts(hint, Path):
            require(config, spec.name, can_be_path(value), _PATH)
        else:
            names = [kind.__name__ for kind in _kinds(hint) if kind is not type(None)]
            require(config, spec.name, _accepts(hint, type(value)), f"of type {' or '.join(names)}")


def _fitting(value: Any, hint: Any) -> Any:
    """Return ``value`` converted to the type ``hint`` if that loses nothing, else unchanged."""
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        return tuple(_fitting(one, get_args(hint)[0]) for one in value)
    if isinstance(value, Mapping):
        return value if isinstance(value, Hashable) else _plain(value)
    if isinstance(value, Path) or (isinstance(value, str) and value and _accepts(hint, Path) > _accepts(hint, str)):
        return named_path(value)
    value = plain_number(value)
    if isinstance(value, float) and value.is_integer() and _accepts(hint, int) > _accepts(hint, float):
        return int(value)
    if type(value) is int and value.bit_length() <= 63 and _accepts(hint, float) > _accepts(hint, int):
        return float(value)
    return value


def plain_number(value: Any) -> Any:
    """Return a number of NumPy, pandas, torch or the standard library as int or float; anything else unchanged."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Number) and not isinstance(value, (bool, int, float, complex)):
        return float(value)  # type: ignore[arg-type]  # a fraction or a decimal
    return value


def read_number(text: str, kind: type) -> Any:
    """Return the number in a text as ``kind``, ``20.0`` as the whole number 20; else raise a ValueError."""
    with suppress(ValueError):
        return kind(text)
    with suppress(ValueError):
        if kind is int and float(text).is_integer():
            return int(float(text))
    raise ValueError(f"must be a {'whole ' if kind is int else ''}number, but got {text!r}")


def _accepts(hint: Any, cls: type) -> bool:
    """Return whether the annotation ``hint`` allows an instance of ``cls``; a bool is not an int here."""
    return any(kind is bool if cls is bool else issubclass(cls, kind) for kind in _kinds(hint))


@cache
def _kinds(hint: Any) -> list[type]:
    """Return the classes that an annotation allows, except those of a Literal."""
    if get_origin(hint) in (Union, UnionType):
        return [kind for option in get_args(hint) for kind in _kinds(option)]
    return [] if get_origin(hint) is Literal else [get_origin(hint) or hint]


@cache
def _choices(hint: Any) -> list[Any]:
    """Return the values of a Literal, also of one inside a union."""
    options = [hint, *get_args(hint)]
    return [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]


def require(config: Any, name: str, holds: bool, rule: str) -> None:
    """Raise UsageError about the field ``name``, "must be ``rule``", unless ``holds``."""
    if not holds:
        value = getattr(config, name)
        raise UsageError(f"{name} must be {rule}, but got {(str(value) if isinstance(value, Path) else value)!r}.")
