"""Trials of other studies, from which a new study's sampler learns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from vae_tune.config.errors import UsageError
from vae_tune.config.fields import from_dict, to_dict
from vae_tune.config.files import address
from vae_tune.config.local_copies import local_copy
from vae_tune.config.model_options import PREFIX
from vae_tune.config.names import CODE, STARTED, WARM_START
from vae_tune.config.settings import TrialConfig
from vae_tune.config.space import Space
from vae_tune.config.trial_values import with_values
from vae_tune.record.metadata import channels_of, read_metadata
from vae_tune.record.sampler_view import as_set_aside
from vae_tune.record.trials import VALUES_ATTRIBUTE, read_trials
from vae_tune.vae.image_defaults import with_image_defaults


@dataclass(frozen=True)
class WarmStart:
    """The trials of another study that the sampler learns from."""

    folder: Path
    trials: Sequence[FrozenTrial]
    """Its finished trials that lie in the new study's space, each with its origin as an attribute."""
    among: int
    """The number of all its trials."""

    def __str__(self) -> str:
        """Describe the trials in a sentence."""
        if not self.trials:
            what = f"None of the {self.among} trials of {address(self.folder)} has finished in this space"
            return f"{what}: --warm-start teaches the sampler nothing."
        verbs = "lies in this space and teaches" if len(self.trials) == 1 else "lie in this space and teach"
        return f"{len(self.trials)} of {self.among} trials of {address(self.folder)} {verbs} the sampler."


def refuse_repeats(folders: Sequence[Path]) -> None:
    """Refuse a study that is named twice, perhaps by another path or as a copy: its trials would count twice.

    Raises:
        UsageError: names both folders; or a folder is no study.
    """
    first_by_identity: dict[tuple[Any, ...], Path] = {}
    for folder in folders:
        metadata = read_metadata(folder)
        begun = [run[STARTED] for run in metadata["runs"][:1]]
        first = first_by_identity.setdefault((metadata["name"], *begun, metadata["data"]["sha256"]), folder)
        if first is not folder:
            also = "" if address(first) == address(folder) else f", also as {address(folder)}"
            raise UsageError(
                f"--warm-start names {address(first)} twice{also}: its trials would count twice.\nLeave one out."
            )


def read_warm_start(folder: Path, metadata: Mapping[str, Any], space: Space, base: TrialConfig) -> WarmStart:
    """Return the trials of another study that the sampler can learn from.

    Their losses must be comparable: same images, metric and fixed fields, the same hyperparameters searched, and the
    same values of all other settings but the seed. Trials outside of this study's ranges are left out.

    Raises:
        UsageError: the folder is no study, or its trials cannot be compared; names the difference.
    """
    copy = local_copy(folder)
    other = read_metadata(copy)
    mine, theirs = (_comparable(study, metadata["space"]) for study in (metadata, other))
    if theirs["data"] != mine["data"]:
        there, here = (
            f"{data['train']} of {data['dataset']} to train on, checksum {data['sha256'][:8]}"
            for data in (other["data"], metadata["data"])
        )
        raise UsageError(
            f"--warm-start {address(folder)}: its trials cannot be compared: other images ({there}; here {here})."
        )
    for name, value in mine.items():
        if theirs[name] != value:
            raise UsageError(
                f"--warm-start {address(folder)}: its trials cannot be compared: {name} is {theirs[name]!r} "
                f"there, {value!r} here."
            )
    own = [trial for trial in read_trials(copy) if WARM_START not in trial.user_attrs]
    began = [as_set_aside(trial) for trial in own if trial.state != TrialState.WAITING]
    return WarmStart(
        folder, [_with_origin(trial, folder, space) for trial in began if _is_usable(trial, space, base)], len(began)
    )


def _comparable(study: Mapping[str, Any], searched: Collection[str]) -> dict[str, Any]:
    """Return what must agree in two studies; ``searched`` names the hyperparameters of the new one."""
    reference = to_dict(TrialConfig()) | study["reference"]  # with the defaults of what is newer than the study
    reference = to_dict(with_image_defaults(from_dict(TrialConfig, reference), channels_of(study)))
    options = {name: value for name, value in reference["model_options"].items() if f"{PREFIX}{name}" not in searched}
    reference["model_options"] = options
    settings = {name: value for name, value in reference.items() if name not in searched and name != "seed"}
    agreeing = {
        "kind of the losses": study["metric"]["kind"],
        "data": study["data"]["sha256"],
        "fixed": study["fixed"],
    }
    codes = {model: code["sha256"] for model, code in study.get(CODE, {}).items()}
    return agreeing | settings | {"space": sorted(study["space"]), "code of the model": codes}


def _is_usable(trial: FrozenTrial, space: Space, base: TrialConfig) -> bool:
    values = _values(trial)
    finished = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return finished and space.is_complete(values) and space.contains(with_values(base, values))


def _values(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's hyperparameters; Optuna has none for a reference configuration outside of the space."""
    return dict(trial.user_attrs.get(VALUES_ATTRIBUTE, trial.params))


def _with_origin(trial: FrozenTrial, folder: Path, space: Space) -> FrozenTrial:
    return create_trial(
        state=trial.state,
        value=trial.value,
        params=_values(trial),
        distributions={name: space.distributions[name] for name in _values(trial)},
        intermediate_values=trial.intermediate_values,
        user_attrs={WARM_START: f"{address(folder)}: trial {trial.number}"},
    )
