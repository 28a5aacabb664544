"""The code of a user's model or metric as text: read once where the user named it, run from the text anywhere.

A class or a function travels to workers and to other hosts as the text of its file, and of what that file imports
from its own folder: never as a pickle, and never from a results folder. Its modules are made from the text under a
package name of their own, so that they hide no other module and two versions can be there at once.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vae_tune.config.errors import UsageError, telling_line

_FORMS = {
    "model": "model must be FILE.py:CLASS or MODULE:CLASS",
    "metric": "metric must be FILE.py:FUNCTION or MODULE:FUNCTION",
}
"""The form of a name of a user's code, by the option that takes it."""
_NOT_TAKEN = {"vae_tune"}
"""Names of modules that are never taken from a user's folder, such as a checkout of this project."""


@dataclass(frozen=True)
class Code:
    """A class or a function, and the text of its module and of those that it imports from the same folder."""

    model: str
    """FILE.py:CLASS or MODULE:CLASS, or with a function, as the user named it."""
    module: str
    """The dotted name of the module that has it, in the folder."""
    texts: Mapping[str, str] = field(repr=False)
    """The text of each module by its dotted name; of a package that of ``__init__.py``, which may be missing."""
    paths: Mapping[str, str] = field(repr=False)
    """Where each was read, for messages."""
    packages: frozenset[str] = frozenset()
    """Those that are packages."""

    @property
    def name(self) -> str:
        """The name of the class or the function."""
        return self.model.rpartition(":")[2]

    @property
    def digest(self) -> str:
        """The SHA-256 of the syntax trees: comments, blank lines, docstrings and the name of the file may change."""
        trees = [self.name]
        for module in sorted(self.texts, key=lambda module: (module != self.module, module)):
            name = module if module != self.module else ""
            trees.append(f"{name}\n{ast.unparse(_without_docstrings(self.texts[module]))}")
        return hashlib.sha256("\0".join(trees).encode()).hexdigest()


def is_own(model: str) -> bool:
    """Return whether a model is a user's class, rather than a built-in one by name."""
    return ":" in model


def read_code(model: str, option: str = "model") -> Code:
    """Return the code of FILE.py:CLASS or MODULE:CLASS, without running it; of a function for the option ``metric``.

    Of a file, all that it imports from its own folder is taken too; of a module, all from its own package.

    Raises:
        UsageError: a file is missing, or is no Python; names it, and the line.
    """
    form = _FORMS[option]
    place, _, name = model.rpartition(":")
    if not name.isidentifier() or not place:
        raise UsageError(f"{form}, but got {model!r}.")
    if place.endswith(".py"):
        path = Path(place).expanduser()
        if not path.is_file():
            raise UsageError(f"{form}, but there is no file {place}.")
        root, module, only = path.parent, path.stem, None
    else:
        root, module, only = _root_of(place, form), place, place.partition(".")[0]
        path = None
    texts: dict[str, str] = {}
    paths: dict[str, str] = {}
    packages = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in texts or (found := path if current == module and path else _file_of(root, current)) is None:
            continue
        is_file = found.suffix == ".py"
        texts[current] = _read(found) if is_file else ""
        paths[current] = str(found)
        if not is_file or found.name == "__init__.py":
            packages.add(current)
        tree = _parsed(texts[current], str(found))
        package = current if current in packages else current.rpartition(".")[0]
        for imported in _imports(tree, package):
            if imported.partition(".")[0] not in _NOT_TAKEN and only in (None, imported.partition(".")[0]):
                waiting += _with_parents(imported)
    if module not in texts:
        raise UsageError(
            f"{form}, but there is no module {place}. Name a file to take it from there: my_{option}.py:{name}."
        )
    return Code(model, module, texts, paths, frozenset(packages))


def where(error: BaseException, code: Code) -> str:
    """Return an error in the code of a model as FILE:LINE in FUNCTION: ERROR, in one line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    place, trace = "", error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_filename in code.paths.values():
            function = frame.f_code.co_name
            place = f"{frame.f_code.co_filename}:{trace.tb_lineno}"
            place += "" if function == "<module>" else f" in {function}"
        trace = trace.tb_next
    return f"{place or code.model}: {type(error).__name__}: {telling_line(error)}".rstrip(".")


def _root_of(module: str, form: str) -> Path:
    """Return the folder on Python's path that has the module, without importing it."""
    top = module.partition(".")[0]
    for folder in map(Path, sys.path):
        if _file_of(folder, top) is not None:
            return folder
    raise UsageError(f"{form}, but there is no module {module} on Python's path.")


def _file_of(root: Path, module: str) -> Path | None:
    """Return the file of a module in a folder, the folder of a package without ``__init__.py``, or None."""
    place = root.joinpath(*module.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    return place if place.is_dir() and any(place.rglob("*.py")) and "." not in place.name else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _parsed(text: str, path: str) -> ast.Module:
    try:
        return ast.parse(text, path)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        raise UsageError(f"{path}:{line}: not valid Python: {getattr(error, 'msg', None) or error}.") from error


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield each module that is imported, or may be, by its dotted name in the folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = _absolute(node, package)
            yield from [start] if start else []
            yield from (f"{start}.{alias.name}".lstrip(".") for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the dotted name of the module from which ``node`` imports, in a module of ``package``."""
    if not node.level:
        return str(node.module)
    parts = package.split(".") if package else []
    return ".".join([*parts[: len(parts) + 1 - node.level], *filter(None, [node.module])])


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _without_docstrings(text: str) -> ast.Module:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
