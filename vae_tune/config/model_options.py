"""The options of a model: the keyword-only arguments of its class, which are hyperparameters of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from vae_tune.config.errors import UsageError
from vae_tune.config.fields import plain_number
from vae_tune.config.message_hints import did_you_mean

OptionValue = int | float | str | bool
PREFIX = "model."
"""Before the name of a model's option where it stands among the fields of a trial: in a space, or in a table."""
FIELDS_OF: Mapping[str, tuple[str, ...]] = {
    "mlp": ("hidden_width", "hidden_layers", "encoder_activation", "decoder_activation"),
}
"""The fields of a trial's configuration that are a model's own, of the model that is older than ``--model``."""


class OptionValues(dict[str, OptionValue]):
    """Values of a model's options by name: a mapping that is hashable, since nothing changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        """Return the same for equal mappings."""
        return hash(frozenset(self.items()))

    def __setitem__(self, name: str, value: OptionValue) -> None:
        """Refuse a change."""
        raise TypeError("A configuration does not change: make another one with dataclasses.replace.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make the mapping again, for pickle and copy."""
        return OptionValues, (dict(self),)

    def __deepcopy__(self, _: Any) -> Self:
        """Return the mapping itself."""
        return self


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a model's class."""

    name: str
    kind: str
    """``int``, ``float``, ``bool``, ``str``, or ``choice`` for a Literal."""
    default: OptionValue
    choices: tuple[OptionValue, ...] = ()

    @property
    def words(self) -> str:
        """The values that it takes, for people."""
        return "true or false" if self.kind == "bool" else ", ".join(map(str, self.choices)) or self.kind

    def read(self, value: Any) -> OptionValue:
        """Return ``value`` with the type of the option; a text, as of a command line, is read.

        Raises ValueError, "must be ...", if it does not fit.
        """
        value = plain_number(value)
        found = _choice(value, self.choices) if self.kind == "choice" else _READERS[self.kind](value)
        if found is None:
            near = did_you_mean(value, self.choices).removesuffix("?")
            raise ValueError(f"must be {_WANTED.get(self.kind) or f'one of {self.words}'}, but got {value!r}{near}")
        return found


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(value if isinstance(value, int) else number) if number is not None and number.is_integer() else None


def _number(value: Any) -> float | None:
    with suppress(TypeError, ValueError, OverflowError):
        number = float(value)
        return number if math.isfinite(number) and not isinstance(value, bool) else None
    return None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _choice(value: Any, choices: tuple[OptionValue, ...]) -> OptionValue | None:
    same = [choice for choice in choices if type(choice) is type(value) and choice == value]
    written = [choice for choice in choices if isinstance(value, str) and str(choice) == value]
    return next(iter([*same, *written]), None)


_READERS: Mapping[str, Callable[[Any], OptionValue | None]] = {
    "int": _whole,
    "float": _number,
    "bool": _truth,
    "str": _text,
}
_WANTED = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "a text"}


Signature = Mapping[str, Option]
"""The options of a model by name."""


def option_values(given: Any) -> Any:
    """Return options given as a mapping, or as texts NAME=VALUE, as :class:`OptionValues`; another value as it is.

    Raises UsageError if a text has another form, or a value is neither number, text, nor true or false.
    """
    if isinstance(given, OptionValues):
        return given
    if isinstance(given, list | tuple):
        pairs = [str(text).partition("=") for text in given]
        if wrong := [text for text, (name, sign, _) in zip(given, pairs, strict=True) if not name.strip() or not sign]:
            raise UsageError(f"model_options must be NAME=VALUE, such as depth=3, but got {wrong[0]!r}.")
        given = {name.strip(): value for name, _, value in pairs}
    if not isinstance(given, Mapping):
        return given
    values = {str(name): plain_number(value) for name, value in given.items()}
    for name, value in values.items():
        if not isinstance(value, int | float | str | bool):
            raise UsageError(f"model_options must be numbers, texts, true or false, but got {name}={value!r}.")
    return OptionValues(values)


def own_hyperparameters(model: str, signature: Signature) -> dict[str, Option | None]:
    """Return what is a model's own, by its name in a space: the options; None for each field of a trial."""
    options = {f"{PREFIX}{option.name}": option for option in signature.values()}
    return {**dict.fromkeys(FIELDS_OF.get(model, ())), **options}


def signature_to_dict(signature: Signature) -> dict[str, dict[str, Any]]:
    """Return a signature as ``study.json`` holds it."""
    return {
        option.name: {"type": option.kind, "default": option.default}
        | ({"choices": list(option.choices)} if option.choices else {})
        for option in signature.values()
    }
