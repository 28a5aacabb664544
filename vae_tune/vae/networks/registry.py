"""The models by name: the built-in ones, and the classes of users, which run only where their code was admitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_tune.config.errors import UsageError
from vae_tune.config.message_hints import did_you_mean
from vae_tune.config.model_options import FIELDS_OF, OptionValues, Signature
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.networks.code import Code, is_own, read_code
from vae_tune.vae.networks.code_modules import load_class
from vae_tune.vae.networks.signature import signature_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BuiltIn:
    """A network that comes with the package; its module is imported when it is needed."""

    module: str
    name: str
    """Of the class. Its constructor takes (shape, outputs, latent_size, *, OPTIONS), or (shape, outputs, config) where
    :data:`vae_tune.config.model_options.FIELDS_OF` names its hyperparameters."""


BUILT_IN: Mapping[str, BuiltIn] = {
    "mlp": BuiltIn("vae_tune.vae.networks.mlp", "MLP"),
    "conv": BuiltIn("vae_tune.vae.networks.conv", "Conv"),
}
"""Every built-in model by the name that ``--model`` takes."""


_ADMITTED: dict[str, tuple[Code, type[Any]]] = {}
"""The classes of users that this process may run, by the name that configurations have of each."""


def admit(code: Code, model: str | None = None) -> None:
    """Let this process build a user's class, under the name ``model`` in a record, by default that of the code.

    Call it only for code that the user has named: a name in a results folder does not grant permission.

    Raises:
        UsageError: the code cannot be imported, or the class is no model.
    """
    from torch import nn

    cls = load_class(code)
    if not issubclass(cls, nn.Module):
        raise UsageError(f"model {code.model} must be a subclass of torch.nn.Module.")
    if missing := [name for name in ("encode", "decode") if not callable(getattr(cls, name, None))]:
        raise UsageError(f"model {code.model} has no method {missing[0]}: a model has encode(x) and decode(z).")
    signature_of(cls, code.model)
    _ADMITTED[model or code.model] = code, cls


def admitted_code(model: str) -> Code | None:
    """Return the code of a user's class that this process may run; else None."""
    return _ADMITTED[model][0] if model in _ADMITTED else None


def admit_again(
    recorded: Iterable[str], digests: Mapping[str, str | None], named: Iterable[str], where: str
) -> dict[str, str]:
    """Admit the code of users' classes in a record, which the user has ``named`` for it, perhaps by another path.

    A class whose code this process runs already need not be named again. Of several classes of one name, each is that
    whose code is the record's.

    Args:
        recorded: the models of the record.
        digests: the SHA-256 of each class' code, by its name in the record.
        named: FILE.py:CLASS or MODULE:CLASS, for classes of these names.
        where: the record, for messages.

    Returns:
        The name in the record of each class that is named.

    Raises:
        UsageError: a class is not named, or its code is not that of the record.
    """
    own, codes = list(filter(is_own, recorded)), [read_code(model) for model in dict.fromkeys(named) if is_own(model)]
    names: dict[str, str] = {}
    for model in own:
        digest, before = digests.get(model), admitted_code(model)
        alike = [code for code in codes if code.name == model.rpartition(":")[2]]
        same = [code for code in alike if digest in (None, code.digest)]
        if same:
            found = next((code for code in same if code.model == model), same[0])
            admit(found, model)
            names[found.model] = model
            continue
        if changed := [code.model for code in alike if code.digest not in digests.values()]:
            raise UsageError(
                f"The code of {changed[0]} is not that of {where}: only comments and docstrings may change.\n"
                f"Name the file as it was (best/code has a copy to read), or start a new study."
            )
        if before is None or digest != before.digest:
            raise UsageError(unnamed(model, where) if len(own) < 2 else _several_unnamed(own, where))
    return names


def admit_named(digests: Mapping[str, str], named: Iterable[str], where: str) -> None:
    """Admit the classes of a record whose files the user has ``named``, perhaps by other paths; the others not.

    ``digests`` and ``where`` are as in :func:`admit_again`. Raises UsageError if a file has other code.
    """
    for model in named:
        code = read_code(model)
        same = [recorded for recorded, digest in digests.items() if digest == code.digest]
        if not same:
            raise UsageError(f"The code of {model} is not that of a model of {where}: only comments may change.")
        for recorded in same:
            admit(code, recorded)


def unnamed(code: str, where: str, option: str = "model") -> str:
    """Return a message that asks for the file of a user's class, or ``metric``, in a record."""
    return (
        f"The {option} of {where} is {code}, code of yours, which runs only from a file that you name.\n"
        f"Name it with --{option} {code}, or {option}= in Python."
    )


def _several_unnamed(models: Iterable[str], where: str) -> str:
    """Return a message that asks for the files of several classes, of which ``--model`` could name one."""
    return (
        f"The models of {where} are {' and '.join(models)}, code of yours, which runs only from files that you name.\n"
        f"Name all of them in a space file, with --space, or space= in Python."
    )


def network_class(model: str) -> type[nn.Module]:
    """Return the class of a model.

    Raises:
        UsageError: there is none of that name, or it is a user's, whose code was not admitted here.
    """
    if model in BUILT_IN:
        found: type[nn.Module] = getattr(import_module(BUILT_IN[model].module), BUILT_IN[model].name)
        return found
    if model in _ADMITTED:
        return _ADMITTED[model][1]
    if is_own(model):
        raise UsageError(unnamed(model, "it"))
    known = f"{', '.join(BUILT_IN)}, FILE.py:CLASS or MODULE:CLASS"
    raise UsageError(f"model must be {known}, but got {model!r}.{did_you_mean(model, BUILT_IN)}")


def read_signature(model: str) -> Signature:
    """Return the options of a model by name, without those that are fields of a trial's configuration."""
    return {} if model in FIELDS_OF else signature_of(network_class(model), model)


def build_network(config: TrialConfig, shape: tuple[int, int, int], outputs: int) -> Any:
    """Return a network for images of ``shape`` and so many likelihood parameters per pixel.

    Options of ``config`` that its model lacks are those of the other models of a search: they are left out.
    """
    cls = network_class(config.model)
    if config.model in FIELDS_OF:
        return cls(shape, outputs, config)
    known = read_signature(config.model)
    options = {name: known[name].read(value) for name, value in config.model_options.items() if name in known}
    return cls(shape, outputs, config.latent_size, **options)


def read_options(config: TrialConfig, models: Mapping[str, Signature]) -> OptionValues:
    """Return the options of ``config`` with the types that the signatures of ``models`` give them.

    Raises:
        UsageError: no model has such an option, or a value does not fit it.
    """
    values = {}
    for name, value in config.model_options.items():
        having = [signature[name] for signature in models.values() if name in signature]
        if not having:
            known = list(dict.fromkeys(option for signature in models.values() for option in signature))
            offer = f"choose from {', '.join(known)}" if known else "there are none"
            meant = did_you_mean(name, known)
            raise UsageError(f"model_options: {name!r} is no option of {' or '.join(models)}; {offer}.{meant}")
        for option in having:
            try:
                values[name] = option.read(value)
            except ValueError as error:
                raise UsageError(f"model_options: {name} {error}.") from error
    return OptionValues(values)
