"""The search space: the built-in one, a YAML file, or a mapping."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from vae_tune.config.compat.optuna import contains
from vae_tune.config.errors import UsageError, telling_line
from vae_tune.config.fields import read_number
from vae_tune.config.message_hints import did_you_mean
from vae_tune.config.settings import TrialConfig

_RANGE_KEYS = {"type", "low", "high", "log", "step"}
_KEYS = {"int": _RANGE_KEYS, "float": _RANGE_KEYS, "categorical": {"type", "choices"}}
_PACKAGED = resources.files("vae_tune.config") / "spaces"
_EXAMPLE = "{type: float, low: 1.0e-4, high: 1.0e-2, log: true}"


@dataclass(frozen=True)
class Space:
    """The values that the sampler may choose, by name of a :class:`TrialConfig` field."""

    distributions: Mapping[str, BaseDistribution]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields with the same value in all trials, including the reference."""

    def contains(self, config: TrialConfig) -> bool:
        """Return whether the sampler could have proposed ``config``."""
        return not self.outside(config) and all(getattr(config, name) == value for name, value in self.fixed.items())

    def outside(self, config: TrialConfig) -> dict[str, Any]:
        """Return the values of ``config`` that the sampler could not have proposed, by name."""
        values = {name: getattr(config, name) for name in self.distributions}
        return {name: value for name, value in values.items() if not contains(self.distributions[name], value)}


@dataclass(frozen=True)
class Grid:
    """Configurations to train to the end, in addition to the reference, trial 0."""

    kind: str
    """Of the study: ``exploration`` or ``confirmation``."""
    space: Space
    points: Sequence[Mapping[str, Any]]


DEFAULT_SPACE = Space(
    {
        "latent_size": IntDistribution(2, 64, log=True),
        "hidden_width": IntDistribution(64, 1024, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    }
)


def load_space(source: Path | Mapping[str, Any] | None, base: TrialConfig) -> Space:
    """Return the space that a YAML file or a mapping describes; without one, the built-in space.

    A field is a mapping with ``type`` int, float or categorical, ``low`` and ``high`` or ``choices``, and
    ``log`` or ``step`` if wanted; a plain value fixes that field for all trials::

        latent_size: {type: int, low: 2, high: 64, log: true}
        learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
        encoder_activation: {type: categorical, choices: [linear, relu]}
        batch_size: 256

    A name without a suffix, such as ``wide``, is also that of a file in ``vae_tune/config/spaces``. A UsageError names
    the file, the line, the field and the value at fault.
    """
    if source is None:
        return DEFAULT_SPACE
    if isinstance(source, Path):
        where, entries = str(source), _file_entries(source, base)
    else:
        where, entries = "space", (_Entry("space", str(name), spec, base) for name, spec in source.items())
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {}
    for entry in entries:
        if entry.name in distributions or entry.name in fixed:
            entry.refuse("is there twice")
        if isinstance(entry.spec, dict):
            distributions[entry.name] = entry.distribution()
        else:
            fixed[entry.name] = entry.value(entry.spec)
    if not distributions:
        raise UsageError(f"{where}: nothing to search: every field is fixed.\nGive one a range: {_EXAMPLE}")
    return Space(distributions, fixed)


def _file_entries(path: Path, base: TrialConfig) -> Iterator[_Entry]:
    text = _read_file(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}:{line_of(error, text)}: not valid YAML: {problem(error)}.") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise UsageError(
            f"{path}:1: a space is a mapping from fields to ranges, for instance\n  learning_rate: {_EXAMPLE}"
        )
    for key, node in root.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{where}: a field is a plain name, such as latent_size.")
        try:
            spec = construct(node)
        except Exception as error:  # PyYAML lets through what int(), date() and the like raise at a bad value
            raise UsageError(f"{where}: {key.value} cannot be read: {problem(error)}.") from error
        yield _Entry(where, key.value, spec, base)


def _read_file(path: Path) -> str:
    """Return the text of a space file, or of the one with that name in the package."""
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        packaged = {file.name.removesuffix(".yaml"): file for file in _PACKAGED.iterdir()}
        if str(path) in packaged and not path.exists():
            return packaged[str(path)].read_text()
        reason = getattr(error, "strerror", None) or error
        meant = did_you_mean(path, packaged) if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"The space file {path} cannot be read: {reason}.{meant}") from error


def construct(node: yaml.Node) -> Any:
    """Return the value of a node of a YAML file.

    Raises ValueError if a mapping has a key twice, or whatever PyYAML raises at a bad value.
    """
    if isinstance(node, yaml.MappingNode) and (twice := repeated([key.value for key, _ in node.value])):
        raise ValueError(f"its key {twice[0]!r} is there twice")
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def repeated(values: list[Any]) -> list[Any]:
    """Return the values that appear again."""
    return [value for index, value in enumerate(values) if value in values[:index]]


def line_of(error: Any, text: str) -> int:
    """Return the line of a syntax error; for a bad character, PyYAML gives only its position in the text."""
    if mark := getattr(error, "problem_mark", None):
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(error, "position", 0)) + 1


def problem(error: Exception) -> str:
    """Return one line that says what is wrong with a YAML file."""
    return telling_line(getattr(error, "problem", None) or error)


@dataclass(frozen=True)
class _Entry:
    """One field of a space file, and where it is, for messages."""

    where: str
    name: str
    spec: Any
    base: TrialConfig

    def refuse(self, why: str, meant: str = "") -> NoReturn:
        raise UsageError(f"{self.where}: {self.name} {why}.{meant}")

    def value(self, value: Any) -> Any:
        """Return ``value`` converted and checked by the rules of the configuration."""
        hint = self._hint()
        if isinstance(value, str) and hint in (int, float):  # YAML 1.1 reads 1e-4, without a dot, as a text
            try:
                value = read_number(value, hint)
            except ValueError as error:
                self.refuse(str(error))
        try:
            return getattr(dataclasses.replace(self.base, **{self.name: value}), self.name)
        except UsageError as error:
            raise UsageError(f"{self.where}: {error}") from error

    def distribution(self) -> BaseDistribution:
        hint = self._hint()
        if self.name == "max_epochs":
            self.refuse("cannot be searched: it is what trials are compared at; use --max-epochs")
        kind = self.spec.get("type")
        if not isinstance(kind, str) or kind not in _KEYS:
            self.refuse(f"needs a type, one of {', '.join(_KEYS)}, but got {kind!r}", did_you_mean(kind, _KEYS))
        if unknown := sorted(set(map(str, self.spec)) - _KEYS[kind]):
            known = sorted(_KEYS[kind])
            meant = did_you_mean(unknown[0], known)
            self.refuse(f"has an unknown key {unknown[0]!r}; {kind} takes {', '.join(known)}", meant)
        if kind == "categorical":
            choices = self.spec.get("choices")
            if not isinstance(choices, (list, tuple)) or not choices:
                self.refuse(f"needs choices, a list, but got {choices!r}")
            values = [self.value(choice) for choice in choices]
            if None in values:
                self.refuse("has a choice without a value: name what it stands for")
            if twice := repeated(values):
                self.refuse(f"has the choice {twice[0]!r} twice")
            return CategoricalDistribution(values)
        if hint is not {"int": int, "float": float}[kind]:
            self.refuse(f"is of type {getattr(hint, '__name__', 'text')}, which {kind} does not fit")
        return self._range(kind)

    def _range(self, kind: str) -> BaseDistribution:
        bounds = []
        for key in ("low", "high"):
            if key not in self.spec:
                self.refuse(f"needs {key}")
            bounds.append(self.value(self.spec[key]))
        low, high = bounds
        log = self.spec.get("log", False)
        if not isinstance(log, bool):
            self.refuse(f"log must be true or false, but got {log!r}")
        if not low < high:
            self.refuse(f"low < high must hold, but got {low!r} >= {high!r}")
        if log and low <= 0:
            self.refuse(f"low must be > 0 on a log scale, but got {low!r}")
        step = None if self.spec.get("step") is None else self._step(low, high, log)
        if kind == "int":
            return IntDistribution(low, high, log=log, step=step or 1)
        return FloatDistribution(low, high, log=log, step=step)

    def _step(self, low: float, high: float, log: bool) -> Any:
        """Return the step of a range, which must reach ``high`` exactly: Optuna would lower ``high``."""
        if log:
            self.refuse("takes log or step, not both")
        kind, step = type(low), self.spec["step"]
        try:
            step = self.value(step)
        except UsageError:  # what the field cannot hold is no step either
            step = 0
        if step <= 0:
            rule = "a whole number > 0" if kind is int else "> 0"
            self.refuse(f"step must be {rule}, but got {self.spec['step']!r}")
        first, last, exact_step = (Fraction(str(number)) for number in (low, high, step))  # as written, in decimals
        count = (last - first) / exact_step
        if not 1 <= count < 2**53:
            self.refuse(f"step must go 1 to 2**53 times into high - low, but got {step!r} for {low!r} to {high!r}")
        if count.denominator != 1:
            reached = kind(first + int(count) * exact_step)
            self.refuse(f"step {step!r} does not lead from {low!r} to {high!r}; high {reached!r} would fit")
        return step

    def _hint(self) -> Any:
        hints = get_type_hints(TrialConfig)
        if self.name not in hints:
            self.refuse(f"is no field of a trial; choose from {', '.join(hints)}", did_you_mean(self.name, hints))
        return hints[self.name]
