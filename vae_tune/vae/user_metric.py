"""A metric of the user's: a function of a model and images, whose first value ranks the trials of a search.

    f(model, images) -> float | dict[str, float]

``model`` is the :class:`~vae_tune.vae.model.VAE` in eval mode, ``images`` are (n, channels, height, width) in [0, 1]
on its device. No gradient is recorded, and random numbers are the same for every trial and epoch.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from vae_tune.config import names
from vae_tune.config.errors import UsageError
from vae_tune.config.fields import plain_number
from vae_tune.config.metric import Metric
from vae_tune.config.settings import TrialConfig
from vae_tune.vae.networks.code import Code, read_code, where
from vae_tune.vae.networks.code_modules import load_function

if TYPE_CHECKING:
    from torch import Tensor

    from vae_tune.vae.model import VAE

_SEED = 24_113_011
_NAME = re.compile(r"\w[\w.%-]*")
_TAKEN = {field.name for field in fields(TrialConfig)} | {str(name) for name in vars(names).values()}
_TAKEN |= {"negative_elbo", "reconstruction", "kl"}
"""Names of hyperparameters, and of columns of the record and of the tables made from it."""


class MetricFailed(Exception):
    """A metric has no value: the reason, with the line where an error was raised."""


@dataclass(frozen=True)
class UserMetric:
    """The function as text, and what it returns."""

    code: Code
    ranking: Metric

    def __call__(self, model: VAE, images: Tensor) -> dict[str, float]:
        """Return the values by name, that which ranks first; the training and its random numbers are not changed.

        Raises:
            MetricFailed: the function raised an error, or returned anything but finite numbers.
        """
        import torch

        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), _own_random_numbers(images.device.index if images.is_cuda else None):
                returned = load_function(self.code)(model, images)
        except Exception as error:
            raise MetricFailed(where(error, self.code)) from error
        finally:
            model.train(was_training)
        return self._checked(returned)

    def report(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the entries of a worker's report: the values, and that which ranks as a loss."""
        own = {f"{names.METRICS_PREFIX}{name}": value for name, value in values.items()}
        return own | {names.RANKED_LOSS: float(self.ranking.loss(values[self.ranking.name]))}

    def describe(self) -> dict[str, Any]:
        """Return ``metric`` of a ``study.json``."""
        kind = {"name": self.ranking.name, "unit": "", "kind": self.kind, "direction": self.ranking.direction}
        own = {names.COLUMNS: list(self.ranking.columns), names.FUNCTION: self.code.model}
        return {**kind, **own, names.SHA256: self.code.digest}

    @property
    def kind(self) -> str:
        """The kind of number; it differs if the function, its code or the direction differs."""
        name, better = self.ranking.name, "higher" if self.ranking.maximize else "lower"
        origin = "" if name == self.code.name else f" of {self.code.name}"
        return f"{name}{origin} ({better} is better, code {self.code.digest[:8]})"

    def _checked(self, returned: Any) -> dict[str, float]:
        given = returned if isinstance(returned, Mapping) else {self.code.name: returned}
        if not given:
            raise MetricFailed(f"{self.code.name} returned an empty dict")
        values = {}
        for name, value in given.items():
            number = plain_number(value)
            what = self.code.name if given is not returned else f"{name!r} of {self.code.name}"
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise MetricFailed(f"{what} is no number, but of type {type(value).__name__}")
            if not math.isfinite(number):
                raise MetricFailed(f"{what} is {number}")
            values[name] = float(number)
        known = self.ranking.columns
        if known and tuple(values) != known:
            raise MetricFailed(f"{self.code.name} returned {', '.join(map(str, values))}, before {', '.join(known)}")
        return values


def read_metric(function: str | None, *, maximize: bool = False) -> UserMetric | None:
    """Return the metric FILE.py:FUNCTION or MODULE:FUNCTION, before it was called; None for None.

    Raises:
        UsageError: there is no such function, or its module cannot be imported.
    """
    if function is None:
        return None
    code = read_code(function, "metric")
    load_function(code)
    return UserMetric(code, Metric.of_users(code.name, maximize=maximize))


def probe_metric(metric: UserMetric, config: TrialConfig, shape: tuple[int, int, int], images: Any) -> UserMetric:
    """Return the metric with the names of its values, after a call with an untrained model and two ``images``.

    Raises:
        UsageError: the function fails, or a name cannot be that of a column.
    """
    import torch

    from vae_tune.vae.model import build_model

    pair = torch.from_numpy(images[:2].copy()).div(255.0)
    try:
        values = metric(build_model(config, shape), pair)
    except MetricFailed as failed:
        raise UsageError(
            f"metric {metric.code.model} fails for an untrained model and two images: {failed}.\n"
            "It must return a finite number, or a dict of such by name."
        ) from failed
    for name in values:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
            why = "which is a column of the record already" if name in _TAKEN else "which cannot be a column's"
            raise UsageError(f"metric {metric.code.model} gives a value the name {name!r}, {why}.\nChoose another.")
    columns = tuple(values)
    return replace(metric, ranking=replace(metric.ranking, name=columns[0], columns=columns))


@contextmanager
def _own_random_numbers(gpu: int | None) -> Iterator[None]:
    """Let the block draw from generators of fixed seed, and leave all generators as they were."""
    import numpy as np
    import torch

    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[] if gpu is None else [gpu]):
        torch.default_generator.manual_seed(_SEED)
        if gpu is not None:
            torch.cuda.manual_seed(_SEED)
        random.seed(_SEED)
        np.random.seed(_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
