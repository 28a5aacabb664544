"""The words of a command line as a configuration: its help, and one line where they do not fit."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from vae_tune.config.compat.tyro import ParseErrorEvent, on_parse_error
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.suggestions import did_you_mean

_NO_NUMBER = re.compile(r"(int\(\) with base 10: |string to float: |matching (INT|FLOAT) could.* from \[)('.*')")
"""What Python and tyro say of a text that should be a number."""


def parse(
    options: type[Any], arguments: Sequence[str], prog: str, default: Any = None, examples: Sequence[str] = ()
) -> Any:
    """Return ``arguments`` as a configuration of the type ``options``, or print its help and exit.

    Args:
        options: a dataclass; a field is an option, its docstring the help, and a dataclass in it a group.
        arguments: the words after the command.
        prog: how the command is called.
        default: what holds where no option says otherwise; by default what ``options`` says itself.
        examples: command lines to show in the help.

    Raises:
        UsageError: they do not fit; says in a line what, and what was meant perhaps.
    """

    def refuse(event: ParseErrorEvent) -> None:
        raise UsageError(_explain(event, options))

    width = shutil.get_terminal_size().columns  # a line that begins with a letter tyro would join to the one before
    lines = textwrap.wrap(inspect.getdoc(options) or "", width, subsequent_indent="  ")
    lines += ["", "Examples:", *(f"  {line}" for line in examples)] if examples else []
    registry = ConstructorRegistry()
    registry.struct_rule(_as_options)
    with on_parse_error(refuse):
        return tyro.cli(
            options,
            prog=prog,
            description="\n".join(lines),
            default=tyro.MISSING_NONPROP if default is None else default,
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction),
            registry=registry,
        )


def _as_options(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Tell tyro of the fields of a dataclass, with help that wraps at the terminal's width."""
    if not is_dataclass(info.type):
        return None
    hints = get_type_hints(info.type, include_extras=True)
    given = info.default if isinstance(info.default, info.type) else None
    specs = []
    for spec in fields(info.type):
        default = spec.default if spec.default is not MISSING else tyro.MISSING_NONPROP
        if spec.default_factory is not MISSING:
            default = spec.default_factory()
        default = default if given is None else getattr(given, spec.name)
        text = partial(_help, info.type, spec.name)
        specs.append(StructFieldSpec(name=spec.name, type=_typed(hints[spec.name]), default=default, helptext=text))
    return StructConstructorSpec(instantiate=info.type, fields=tuple(specs))


def _typed(hint: Any) -> Any:
    """Return the annotation of an option as a command line has it: None cannot be typed, nor a mapping."""
    bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(bare) not in (Union, UnionType):
        return hint
    kinds = [kind for kind in get_args(bare) if get_origin(kind) is not Mapping and kind is not NoneType]
    name = "|".join(_name(kind) for kind in kinds)
    shown = tyro.conf.arg(
        metavar=f"[{name}]" if tyro.conf.Positional in extras else name,
        help_behavior_hint=lambda default: "" if default == "None" else f"(default: {default})",
    )
    return Annotated[(Union[*kinds, None], *extras, shown)]


def _name(kind: Any) -> str:
    """Return what stands for a value in the help."""
    return f"{{{','.join(map(str, get_args(kind)))}}}" if get_origin(kind) is Literal else kind.__name__.upper()


def _help(options: type[Any], name: str) -> str | None:
    """Return the docstring of a field."""
    return next((said[name] for said in map(_docstrings, options.__mro__) if name in said), None)


@cache
def _docstrings(cls: type[Any]) -> dict[str, str]:
    """Return the docstrings below the fields of a class, each in one line."""
    if not is_dataclass(cls):
        return {}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    said = {}
    for field, text in pairwise(tree.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                said[name] = " ".join(words.split())
    return said


def _flags(options: type[Any]) -> Iterator[str]:
    """Yield the options of a configuration, those of its groups too."""
    for name, hint in get_type_hints(options, include_extras=True).items():
        bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if is_dataclass(bare):
            yield from _flags(bare)  # type: ignore[arg-type]
        elif tyro.conf.Positional not in extras and tyro.conf.Suppress not in extras:
            names = [extra.name for extra in extras if getattr(extra, "name", None)]
            yield "--" + (names or [name])[0].replace("_", "-")


def _explain(event: Any, options: type[Any]) -> str:
    """Return one line for what tyro refused."""
    argument = getattr(event, "argument", None)
    flag = argument.lowered.name_or_flags[-1] if argument is not None else ""
    match type(event).__name__:
        case "MissingArgs":
            names = ", ".join(missing.arg.display_name() for missing in event.missing_arguments)
            return f"missing {names}; see {event.prog} --help."
        case "UnrecognizedArgs":
            word = event.tokens[0].partition("=")[0]
            meant = did_you_mean(word, _flags(options)) or f" See {event.prog} --help."
            return f"unknown option {event.tokens[0]}.{meant}"
        case "InvalidChoice":
            known = f"{flag} must be one of {', '.join(event.choices)}, but got {event.value!r}."
            return known + did_you_mean(event.value, event.choices)
        case "BadValue":
            return f"{flag} needs a value; see {event.prog} --help."
        case "InstantiationFailure":
            return _explain_value(flag, telling_line(event.message).replace("{None}|", ""))
    return f"the options do not fit ({type(event).__name__}); see {event.prog} --help."


def _explain_value(flag: str, message: str) -> str:
    """Return what is wrong with an option's value, given tyro's words."""
    if number := _NO_NUMBER.search(message):
        kind = "a number" if "float" in number[1].lower() else "a whole number"
        return f"{flag} must be {kind}, but got {number[3]}."
    return f"{flag or 'the options'}: {message}".rstrip(".") + "."
