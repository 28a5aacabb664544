"""The search space: the built-in one, or a YAML file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vae_tune.config import TrialConfig, UsageError

_KEYS = {
    "int": {"type", "low", "high", "log", "step"},
    "float": {"type", "low", "high", "log", "step"},
    "categorical": {"type", "choices"},
}
_EXAMPLE = "{type: float, low: 1.0e-4, high: 1.0e-2, log: true}"


@dataclass(frozen=True)
class Space:
    """What the sampler may choose, by name of a :class:`TrialConfig` field."""

    distributions: Mapping[str, BaseDistribution]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that have one value in all trials, the reference included."""

    def contains(self, config: TrialConfig) -> bool:
        """Whether the sampler could have proposed ``config``."""
        for name, distribution in self.distributions.items():
            value = getattr(config, name)
            if isinstance(distribution, CategoricalDistribution):
                if value not in distribution.choices:
                    return False
            elif not distribution._contains(distribution.to_internal_repr(value)):
                return False
        return True


DEFAULT_SPACE = Space(
    {
        "latent_size": IntDistribution(2, 64, log=True),
        "hidden_width": IntDistribution(64, 1024, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    }
)


def load_space(path: Path | None, base: TrialConfig) -> Space:
    """Read a YAML space; without ``path``, return the built-in one.

    A field is a mapping with ``type`` int, float or categorical, ``low`` and ``high`` or ``choices``, and
    ``log`` or ``step`` if wanted; a plain value fixes that field for all trials::

        latent_size: {type: int, low: 2, high: 64, log: true}
        learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
        encoder_activation: {type: categorical, choices: [linear, relu]}
        batch_size: 256

    Raises:
        UsageError: names the file, the line, the field and the value at fault.

    """
    if path is None:
        return DEFAULT_SPACE
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The space file {path} cannot be read: {error}.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: this is no YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: this is no YAML: {error}.") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise UsageError(
            f"{path}:1: a space is a mapping from fields to ranges, for instance\n  learning_rate: {_EXAMPLE}"
        )
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {}
    for key, node in root.value:
        entry = _Entry(f"{path}:{key.start_mark.line + 1}", key.value, _construct(node), base)
        if entry.name in distributions or entry.name in fixed:
            entry.refuse("is there twice")
        if isinstance(entry.spec, dict):
            distributions[entry.name] = entry.distribution()
        else:
            fixed[entry.name] = entry.value(entry.spec)
    if not distributions:
        raise UsageError(f"{path}: nothing to search: every field is fixed.\nGive one a range: {_EXAMPLE}")
    return Space(distributions, fixed)


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise UsageError(f"line {node.start_mark.line + 1}: {error}.") from error
    finally:
        loader.dispose()


@dataclass(frozen=True)
class _Entry:
    """One line of a space file, with what is needed to say where it is wrong."""

    where: str
    name: str
    spec: Any
    base: TrialConfig

    def refuse(self, why: str) -> NoReturn:
        raise UsageError(f"{self.where}: {self.name} {why}.")

    def value(self, value: Any) -> Any:
        """Return ``value`` as the field holds it, checked by the configuration's own rules."""
        hint = self._hint()
        if isinstance(value, str) and hint in (int, float):  # YAML 1.1 reads 1e-4, without a dot, as a text
            try:
                value = hint(value) if hint is int else float(value)
            except ValueError:
                self.refuse(f"must be a number, but got {value!r}")
        try:
            return getattr(dataclasses.replace(self.base, **{self.name: value}), self.name)
        except UsageError as error:
            raise UsageError(f"{self.where}: {error}") from error

    def distribution(self) -> BaseDistribution:
        hint = self._hint()
        if self.name == "max_epochs":
            self.refuse("cannot be searched: it is what trials are compared at; use --max-epochs")
        kind = self.spec.get("type")
        if kind not in _KEYS:
            self.refuse(f"needs a type, one of {', '.join(_KEYS)}, but got {kind!r}")
        if unknown := sorted(set(map(str, self.spec)) - _KEYS[kind]):
            self.refuse(f"has an unknown key {unknown[0]!r}; {kind} takes {', '.join(sorted(_KEYS[kind]))}")
        if kind == "categorical":
            choices = self.spec.get("choices")
            if not isinstance(choices, list) or not choices:
                self.refuse(f"needs choices, a list, but got {choices!r}")
            return CategoricalDistribution([self.value(choice) for choice in choices])
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
        log, step = self.spec.get("log", False), self.spec.get("step")
        if not isinstance(log, bool):
            self.refuse(f"log must be true or false, but got {log!r}")
        if not low < high:
            self.refuse(f"low < high must hold, but got {low!r} >= {high!r}")
        if log and low <= 0:
            self.refuse(f"low must be > 0 on a log scale, but got {low!r}")
        if step is not None:
            if log:
                self.refuse("takes log or step, not both")
            number = isinstance(step, (int, float)) and not isinstance(step, bool)
            if not number or not 0 < step < math.inf or (kind == "int" and step != int(step)):
                self.refuse(f"step must be {'a whole number ' if kind == 'int' else ''}> 0, but got {step!r}")
        if kind == "int":
            return IntDistribution(low, high, log=log, step=1 if step is None else int(step))
        return FloatDistribution(low, high, log=log, step=step)

    def _hint(self) -> Any:
        hints = get_type_hints(TrialConfig)
        if self.name not in hints:
            self.refuse(f"is no field of a trial; choose from {', '.join(hints)}")
        return hints[self.name]
