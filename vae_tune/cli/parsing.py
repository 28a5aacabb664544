"""Command-line arguments parsed into a dataclass, with help, and errors of one line."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from vae_tune.config.compat.tyro import ParseErrorEvent, on_parse_error
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.message_hints import did_you_mean

_NO_NUMBER = re.compile(r"(int\(\) with base 10: |string to float: |matching (INT|FLOAT) could.* from \[)('.*')")
"""Messages of Python and tyro about a text that should be a number."""
_DEFAULT = re.compile(r"; default: (.+?)\.(?= |$)")
"""The part of a docstring that says what holds without the option."""
_FIELD = re.compile(
    r"^model_options(?=: )|"
    r"^\w+(?= must | <= | is (?!no )| \S+ cannot be | \S+ is neither )|(?<=<= )\w+(?= must )|\b\w+=(?=\d)"
)
"""A field in a message: its subject, the other side of a rule, or with its value."""
_PAIRS = Annotated[tuple[str, ...], tyro.conf.arg(name="model-option", metavar="NAME=VALUE")]
"""The option in place of the one field that is a mapping: each time it is given, it adds an entry."""


def parse(
    options: type[Any], arguments: Sequence[str], prog: str, default: Any = None, examples: Sequence[str] = ()
) -> Any:
    """Parse ``arguments`` into an instance of ``options``, or print the help, with ``examples``, and exit.

    ``options`` is a dataclass. Each field is an option with its docstring as help; a dataclass in it is a group.
    ``default`` is an instance that holds other defaults than ``options`` itself.

    Raises:
        UsageError: an argument is invalid; names it in one line, with a suggestion if there is one.
    """

    def refuse(event: ParseErrorEvent) -> None:
        raise UsageError(_explain(event, options))

    width = shutil.get_terminal_size().columns  # tyro would join a line that begins with a letter to the one before
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
    """Describe the fields of a dataclass to tyro, with help that wraps at the width of the terminal."""
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
        docstring = partial(_docstring, info.type, spec.name)
        kind = _typed(hints[spec.name], docstring)
        if get_origin(kind) is Mapping:
            kind, default = _PAIRS, tuple(f"{name}={value}" for name, value in default.items())
        text = partial(_without_default, docstring)
        specs.append(StructFieldSpec(name=spec.name, type=kind, default=default, helptext=text))
    return StructConstructorSpec(instantiate=info.type, fields=tuple(specs))


def _typed(hint: Any, docstring: Callable[[], str]) -> Any:
    """Return the annotation of an option without what a command line cannot express: None and mappings."""
    bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(bare) not in (Union, UnionType):
        return hint
    kinds = [kind for kind in get_args(bare) if get_origin(kind) is not Mapping and kind is not NoneType]
    name = "|".join(_name(kind) for kind in kinds)
    metavar = f"[{name}]" if tyro.conf.Positional in extras else name
    shown = tyro.conf.arg(metavar=metavar, help_behavior_hint=partial(_default_in_parentheses, docstring))
    return Annotated[(Union[*kinds, None], *extras, shown)]


def _name(kind: Any) -> str:
    """Return the placeholder of a value in the help."""
    return f"{{{','.join(map(str, get_args(kind)))}}}" if get_origin(kind) is Literal else kind.__name__.upper()


def _without_default(docstring: Callable[[], str]) -> str | None:
    return _DEFAULT.sub(".", docstring()) or None


def _default_in_parentheses(docstring: Callable[[], str], default: str) -> str:
    """Return the default of an option: the value, or for None what the docstring says. Never empty.

    Of an empty one, tyro would leave a blank, which may be wrapped into an empty line.
    """
    if default != "None":
        return f"(default: {default})"
    named = _DEFAULT.search(docstring())
    return f"(default: {named[1]})" if named else "(optional)"


def _docstring(options: type[Any], field: str) -> str:
    """Return the docstring below a field, read when it is shown; empty if there is none."""
    return next((found[field] for found in map(_docstrings, options.__mro__) if field in found), "")


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


def as_typed(message: str, options: type[Any]) -> str:
    """Return a message about fields of ``options`` as one about the options that set them."""
    flags = dict(_flags(options))
    flags |= {f"{name}=": f"{flag} " for name, flag in flags.items()}
    return _FIELD.sub(lambda found: flags.get(found[0], found[0]), message)


def _flags(options: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield each field of the options, those of groups too, with the option that sets it."""
    for name, hint in get_type_hints(options, include_extras=True).items():
        bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if is_dataclass(bare):
            yield from _flags(bare)  # type: ignore[arg-type]
        elif tyro.conf.Positional not in extras and tyro.conf.Suppress not in extras:
            extras = [*get_args(_PAIRS)[1:]] if get_origin(bare) is Mapping else extras
            names = [extra.name for extra in extras if getattr(extra, "name", None)]
            yield name, f"--{(names or [name])[0].replace('_', '-')}"


def _explain(event: Any, options: type[Any]) -> str:
    """Return an error of tyro in one line."""
    argument = getattr(event, "argument", None)
    flag = argument.lowered.name_or_flags[-1] if argument is not None else ""
    match type(event).__name__:
        case "MissingArgs":
            names = ", ".join(missing.arg.display_name() for missing in event.missing_arguments)
            return f"missing {names}; see {event.prog} --help."
        case "UnrecognizedArgs":
            word = event.tokens[0].partition("=")[0]
            meant = did_you_mean(word, dict(_flags(options)).values()) or f" See {event.prog} --help."
            return f"unknown option {event.tokens[0]}.{meant}"
        case "InvalidChoice":
            choices = list(event.choices)
            if "None" in choices:  # of an option that may be left out, in no order
                choices = sorted({*choices} - {"None"})
            known = f"{flag} must be one of {', '.join(choices)}, but got {event.value!r}."
            return known + did_you_mean(event.value, choices)
        case "BadValue":
            return f"{flag} needs a value; see {event.prog} --help."
        case "InstantiationFailure":
            return _explain_value(flag, telling_line(event.message).replace("{None}|", ""))
    return f"the options do not fit ({type(event).__name__}); see {event.prog} --help."


def _explain_value(flag: str, message: str) -> str:
    """Return a message about the value of an option, given tyro's."""
    if number := _NO_NUMBER.search(message):
        kind = "a number" if "float" in number[1].lower() else "a whole number"
        return f"{flag} must be {kind}, but got {number[3]}."
    return f"{flag or 'the options'}: {message}".rstrip(".") + "."
