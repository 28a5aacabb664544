"""The search space: the built-in one, a YAML file, or a mapping."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from vae_tune.config.model_options import FIELDS_OF, PREFIX, Option, Signature, own_hyperparameters
from vae_tune.config.settings import TrialConfig
from vae_tune.config.trial_values import MODEL, value_of

_RANGE_KEYS = {"type", "low", "high", "log", "step"}
_KEYS = {"int": _RANGE_KEYS, "float": _RANGE_KEYS, "categorical": {"type", "choices"}}
_PACKAGED = resources.files("vae_tune.config") / "spaces"
_EXAMPLE = "{type: float, low: 1.0e-4, high: 1.0e-2, log: true}"


@dataclass(frozen=True)
class Space:
    """The values that the sampler may choose, by name of a hyperparameter: see :mod:`.hyperparameters`."""

    distributions: Mapping[str, BaseDistribution]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Hyperparameters with the same value in all trials, including the reference."""
    conditions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """The models that have a hyperparameter, where models are searched and not all have it, nor the reference."""

    def applies(self, name: str, model: str) -> bool:
        """Return whether trials of ``model`` have the hyperparameter ``name``."""
        return model in self.conditions.get(name, (model,))

    def active(self, model: str) -> dict[str, BaseDistribution]:
        """Return the hyperparameters searched for trials of ``model``."""
        return {name: searched for name, searched in self.distributions.items() if self.applies(name, model)}

    @property
    def shared(self) -> dict[str, BaseDistribution]:
        """The hyperparameters searched for all trials, with their ranges."""
        return {name: searched for name, searched in self.distributions.items() if name not in self.conditions}

    @property
    def branches(self) -> list[dict[str, BaseDistribution]]:
        """The same for the trials of each model; one entry if no hyperparameter has a condition."""
        if not self.conditions:
            return [dict(self.distributions)]
        searched: Any = self.distributions[MODEL]
        return [{**self.active(model), MODEL: CategoricalDistribution([model])} for model in searched.choices]

    def is_complete(self, values: Mapping[str, Any]) -> bool:
        """Return whether ``values`` are those of a whole trial."""
        if not self.conditions:
            return values.keys() == self.distributions.keys()
        return MODEL in values and values.keys() == self.active(values[MODEL]).keys()

    def values(self, config: TrialConfig) -> dict[str, Any]:
        """Return the searched hyperparameters of ``config``."""
        return {name: value_of(config, name) for name in self.active(config.model)}

    def contains(self, config: TrialConfig) -> bool:
        """Return whether the sampler could have proposed ``config``."""
        fixed = {name: value for name, value in self.fixed.items() if self.applies(name, config.model)}
        return not self.outside(config) and all(value_of(config, name) == value for name, value in fixed.items())

    def outside(self, config: TrialConfig) -> dict[str, Any]:
        """Return the values of ``config`` that the sampler could not have proposed, by name."""
        given = self.values(config)
        values = {name: value for name, value in given.items() if value is not None}  # None: left to the model
        return {name: value for name, value in values.items() if not contains(self.distributions[name], value)}

    def with_models(self, names: Mapping[str, str]) -> Space:
        """Return the space with other names for some of its models: ``names`` has the new one by the old one."""
        distributions, fixed = dict(self.distributions), dict(self.fixed)
        if MODEL in fixed:
            fixed[MODEL] = names.get(fixed[MODEL], fixed[MODEL])
        if MODEL in distributions:
            searched: Any = distributions[MODEL]
            distributions[MODEL] = CategoricalDistribution([names.get(model, model) for model in searched.choices])
        having = self.conditions.items()
        return Space(distributions, fixed, {name: tuple(names.get(one, one) for one in some) for name, some in having})


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


def load_space(
    source: Path | Mapping[str, Any] | None,
    base: TrialConfig,
    read_signature: Callable[[str], Signature] = lambda _: {},
) -> Space:
    """Return the space that a YAML file or a mapping describes; without one, the built-in space of the model.

    A field, or an option of a model with ``model.`` before its name, is a mapping with ``type`` int, float or
    categorical, ``low`` and ``high`` or ``choices``, and ``log`` or ``step`` if wanted; a plain value fixes it for all
    trials::

        latent_size: {type: int, low: 2, high: 64, log: true}
        learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
        encoder_activation: {type: categorical, choices: [linear, relu]}
        batch_size: 256

    ``model`` may be a choice, whose options are then searched for its trials alone. ``read_signature`` returns the
    options of a model by name. A name without a suffix, such as ``wide``, is also that of a file in
    ``vae_tune/config/spaces``. A UsageError names the file, the line, the field and the value at fault.
    """
    if source is None:
        return _default_space(base, read_signature)
    where, entries = _entries(source, base)
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {}
    having: dict[str, tuple[str, ...]] = {}
    models = _models(entries, base, read_signature)
    for entry in (dataclasses.replace(entry, models=models) for entry in entries):
        if entry.name in having:
            entry.refuse("is there twice")
        having[entry.name] = tuple(model for model, own in models.items() if _has(own, entry.name))
        if isinstance(entry.spec, dict):
            distributions[entry.name] = entry.distribution()
        else:
            fixed[entry.name] = entry.value(entry.spec)
    if not distributions:
        raise UsageError(f"{where}: nothing to search: every field is fixed.\nGive one a range: {_EXAMPLE}")
    alien = MODEL in distributions and base.model not in models  # the reference, which then has no option of theirs
    own = [name for name, some in having.items() if len(some) < len(models) or (alien and name.startswith(PREFIX))]
    conditions = {name: having[name] for name in own}
    if conditions:  # the model comes first: what else is proposed depends on it
        distributions = {MODEL: distributions[MODEL], **distributions}
    return Space(distributions, fixed, conditions)


def read_models(source: Path | Mapping[str, Any]) -> list[str]:
    """Return the models that a space file or a mapping names."""
    base = TrialConfig()
    return _chosen(_entries(source, base)[1], base)[0]


def _default_space(base: TrialConfig, read_signature: Callable[[str], Signature]) -> Space:
    """Return the space without ``--space``: the file of the model's name in the package, else what all models have."""
    if base.model in FIELDS_OF:
        return DEFAULT_SPACE
    if (_PACKAGED / f"{base.model}.yaml").is_file():
        return load_space(Path(base.model), base, read_signature)
    return Space({name: searched for name, searched in DEFAULT_SPACE.distributions.items() if _has({}, name)})


def _models(entries: Sequence[_Entry], base: TrialConfig, read_signature: Callable[[str], Signature]) -> Models:
    """Return what each model of a space has of its own; there are several where the space has a choice of them."""
    chosen, where = _chosen(entries, base)
    try:
        return {model: own_hyperparameters(model, read_signature(model)) for model in chosen}
    except UsageError as error:
        raise UsageError(f"{where}{error}") from error


def _chosen(entries: Sequence[_Entry], base: TrialConfig) -> tuple[list[str], str]:
    """Return the models of a space, and where they are named, for messages."""
    for entry in entries:
        if entry.name == MODEL:
            searched: Any = entry.distribution() if isinstance(entry.spec, dict) else None
            return list(searched.choices) if searched else [entry.value(entry.spec)], f"{entry.where}: "
    return [base.model], ""


def _has(own: Mapping[str, Option | None], name: str) -> bool:
    """Return whether a model with these hyperparameters of its own has the one of that name."""
    of_a_model = name.startswith(PREFIX) or any(name in fields for fields in FIELDS_OF.values())
    return name in own or not of_a_model


def _entries(source: Path | Mapping[str, Any], base: TrialConfig) -> tuple[str, list[_Entry]]:
    """Return the name of a space, and its entries."""
    if isinstance(source, Path):
        return str(source), list(_file_entries(source, base))
    return "space", [_Entry("space", str(name), spec, base) for name, spec in source.items()]


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


Models = Mapping[str, Mapping[str, Option | None]]
"""The own options of each model of a space: see :func:`vae_tune.config.model_options.own_hyperparameters`."""


@dataclass(frozen=True)
class _Entry:
    """One hyperparameter of a space file, and where it is, for messages."""

    where: str
    name: str
    spec: Any
    base: TrialConfig
    models: Models = dataclasses.field(default_factory=dict)

    def refuse(self, why: str, meant: str = "") -> NoReturn:
        raise UsageError(f"{self.where}: {self.name} {why}.{meant}")

    def value(self, value: Any) -> Any:
        """Return ``value`` converted and checked by the rules of the configuration, or by a model's annotation."""
        if self.name.startswith(PREFIX):
            return self._option_value(value)
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

    def _option_value(self, value: Any) -> Any:
        for option in self._options():
            try:
                value = option.read(value)
            except ValueError as error:
                self.refuse(str(error))
        return value

    def _options(self) -> list[Option]:
        """Return the options of this name, one per model that has it."""
        found = [option for own in self.models.values() if (option := own.get(self.name))]
        if not found:
            known = [name for own in self.models.values() for name in own if name.startswith(PREFIX)]
            offer = f"choose from {', '.join(known)}" if known else "there are none"
            self.refuse(f"is no option of {' or '.join(self.models)}; {offer}", did_you_mean(self.name, known))
        if len(kinds := {option.kind: option for option in found}) > 1:
            self.refuse(f"is of different types in {' and '.join(self.models)}: {', '.join(kinds)}")
        return found

    def distribution(self) -> BaseDistribution:
        hint = self._hint()
        if self.name == "max_epochs":
            self.refuse("cannot be searched: it is what trials are compared at; use --max-epochs")
        kind = self.spec.get("type")
        if not isinstance(kind, str) or kind not in _KEYS:
            self.refuse(f"needs a type, one of {', '.join(_KEYS)}, but got {kind!r}", did_you_mean(kind, _KEYS))
        if unknown := sorted(set(map(str, self.spec)) - _KEYS[kind]):
            meant = did_you_mean(unknown[0], sorted(_KEYS[kind]))
            self.refuse(f"has an unknown key {unknown[0]!r}; {kind} takes {', '.join(sorted(_KEYS[kind]))}", meant)
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
            if self.name.startswith(PREFIX) and (words := self._options()[0].words) != hint.__name__:
                self.refuse(f"must be {words}, which {kind} does not fit: take categorical")
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
        if self.name.startswith(PREFIX):
            return {"int": int, "float": float}.get(self._options()[0].kind, str)
        hints = {name: hint for name, hint in get_type_hints(TrialConfig).items() if name != "model_options"}
        if self.name not in hints:
            own = [name for options in self.models.values() for name in options if name == f"{PREFIX}{self.name}"]
            meant = did_you_mean(own[0] if own else self.name, own or hints)
            self.refuse(f"is no field of a trial; choose from {', '.join(hints)}", meant)
        if self.models and not any(_has(own, self.name) for own in self.models.values()):
            self.refuse(f"is not of {' or '.join(self.models)}: it is an option of {_model_of(self.name)}")
        return hints[self.name]


def _model_of(field: str) -> str:
    return next(model for model, fields in FIELDS_OF.items() if field in fields)
