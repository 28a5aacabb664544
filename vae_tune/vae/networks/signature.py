"""The options of a network's class, read from its signature: scvi-tools tried a registry of them, and gave it up."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vae_tune.config.errors import UsageError
from vae_tune.config.model_options import Option, Signature

_GIVEN = ("shape", "outputs", "latent_size")
_KINDS = {int: "int", float: "float", bool: "bool", str: "str"}
_FORM = "def __init__(self, shape, outputs, latent_size, *, depth: int = 2)"


def signature_of(cls: type[Any], name: str) -> Signature:
    """Return the keyword-only arguments of a class, by name, in its order; ``name`` is that of the class in messages.

    Raises:
        UsageError: its constructor takes other positional arguments than (shape, outputs, latent_size), or an option
            lacks an annotation or a default, or they do not fit each other.
    """
    try:
        parameters = list(inspect.signature(cls).parameters.values())
        hints = get_type_hints(cls.__init__)
    except (TypeError, ValueError, NameError, AttributeError) as error:
        raise UsageError(f"{name}: its signature cannot be read: {error}.\nIt has the form {_FORM}.") from error
    given = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if tuple(given) != _GIVEN or any(one.kind is one.VAR_POSITIONAL for one in parameters):
        found = f"({', '.join(given)})"
        raise UsageError(
            f"{name} must take {', '.join(_GIVEN)}, and its options after a *, but takes {found}.\nWrite {_FORM}."
        )
    options = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    return {one.name: _option(one, hints.get(one.name), name) for one in options}


def _option(parameter: inspect.Parameter, hint: Any, name: str) -> Option:
    subject = f"{name}: the option {parameter.name}"
    if hint is None:
        raise UsageError(f"{subject} needs an annotation: int, float, bool, str or Literal.")
    if parameter.default is parameter.empty:
        raise UsageError(f"{subject} needs a default, with which the reference configuration is trained.")
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    kind = "choice" if choices and all(isinstance(choice, int | str) for choice in choices) else _KINDS.get(hint)
    if kind is None:
        raise UsageError(f"{subject} must be of int, float, bool, str or Literal, but is of {_written(hint)}.")
    option = Option(parameter.name, kind, parameter.default, choices)
    try:
        default = option.read(parameter.default)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{subject}: its default {error}.") from error
    return Option(parameter.name, kind, default, choices)


def _written(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")
