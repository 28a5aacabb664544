"""Modules made from the text of a user's code, as Python's import system makes them from files."""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from vae_tune.config.errors import UsageError
from vae_tune.config.message_hints import did_you_mean
from vae_tune.vae.networks.code import Code, where

_PREFIX = "vae_tune_code_"
"""Begins the names of the packages that hold the modules of users' code."""


def load_class(code: Code) -> type[Any]:
    """Return the class, from modules made from the text; the same one each time in a process.

    Raises:
        UsageError: the module raises an error, or has no such class; names the line.
    """
    found: type[Any] = _load(code, "model", "class", inspect.isclass)
    return found


def load_function(code: Code) -> Callable[..., Any]:
    """Return the function, from modules made from the text; the same one each time in a process.

    Raises:
        UsageError: the module raises an error, or has no such function; names the line.
    """
    found: Callable[..., Any] = _load(code, "metric", "function", inspect.isroutine)
    return found


def _load(code: Code, option: str, what: str, fits: Callable[[Any], bool]) -> Any:
    package = f"{_PREFIX}{hashlib.sha256(repr(sorted(code.texts.items())).encode()).hexdigest()[:16]}"
    if package not in _FINDER.codes:
        _FINDER.codes[package] = code
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    try:
        module = import_module(f"{package}.{code.module}")
    except Exception as error:
        raise UsageError(f"{option} {code.model} cannot be imported: {where(error, code)}.") from error
    found = getattr(module, code.name, None)
    if not fits(found):
        meant = did_you_mean(code.name, [name for name, value in vars(module).items() if fits(value)])
        raise UsageError(f"{code.paths[code.module]} has no {what} {code.name!r}.{meant}")
    return found


class _Finder(MetaPathFinder, Loader):
    """Finds and runs the modules of the codes that were loaded in this process."""

    def __init__(self) -> None:
        self.codes: dict[str, Code] = {}

    def find_spec(self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> Any:
        """Return how to load a module of a code; None for all other modules."""
        package, _, name = fullname.partition(".")
        code = self.codes.get(package)
        if code is None or (name and name not in code.texts):
            return None
        origin = code.paths[name] if name else None
        return ModuleSpec(fullname, self, origin=origin, is_package=not name or name in code.packages)

    def exec_module(self, module: ModuleType) -> None:
        """Run the text of a module."""
        package, _, name = module.__name__.partition(".")
        code = self.codes[package]
        if not name:
            return
        text, path = code.texts[name], code.paths[name]
        module.__file__ = path
        linecache.cache[path] = len(text), None, text.splitlines(keepends=True), path  # for tracebacks
        depth = len(name.split(".")) + (name in code.packages)
        tree = _Relative(code, depth).visit(ast.parse(text, path))
        exec(compile(ast.fix_missing_locations(tree), path, "exec"), module.__dict__)


_FINDER = _Finder()


class _Relative(ast.NodeTransformer):
    """Makes the absolute imports of a code's own modules relative: they are in a package here."""

    def __init__(self, code: Code, level: int):
        self._code = code
        self._level = level

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        """Make ``from layers import Block`` relative."""
        if not node.level and node.module in self._code.texts:
            node.level = self._level
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        """Make ``import layers``, ``import blocks.layers`` and ``import blocks.layers as layers`` relative."""
        return [ast.copy_location(made, node) for alias in node.names for made in self._import(alias)]

    def _import(self, alias: ast.alias) -> list[ast.stmt]:
        if alias.name not in self._code.texts:
            return [ast.Import([alias])]
        parent, _, last = alias.name.rpartition(".")
        if alias.asname or not parent:
            return [self._from(parent, last, alias.asname)]
        top = alias.name.partition(".")[0]
        return [self._from(parent, last, f"_{last}"), self._from("", top, None)]

    def _from(self, module: str, name: str, asname: str | None) -> ast.stmt:
        return ast.ImportFrom(module or None, [ast.alias(name, asname)], self._level)
