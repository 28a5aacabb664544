"""What the sampler sees of a study.

Trials that were set aside at an epoch look pruned there, whatever they do now. A trial that has not come to the last
epoch, pruned or running, is shown with the loss that is to be expected of it there: its own, and what others typically
gained since. TPE itself takes every complete trial for better than any pruned one, and learns nothing from a running
one; with eight workers most of what a search knows is of these two kinds (docs/results.md has what it makes).

Trials that a warm start has brought come first. They are kept beside the study's own trials, in an attribute of it.

And of a long history the sampler sees the best and the newest trials: a suggestion costs TPE a time that grows with
the trials it learns from, and GP their cube.
"""

from __future__ import annotations

import math
import statistics
from bisect import insort
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from vae_tune.config.compat.optuna import set_study_system_attr, study_system_attrs
from vae_tune.config.names import WARM_START

SET_ASIDE = "set_aside"
"""User attribute of an Optuna trial: the epoch at which it counts as pruned for the sampler; 0 for none."""

_BORROWED = "vae_tune:warm_start"
"""System attribute of the study: the trials of other studies that its sampler learns from; they are none of its own,
so its best trial is one that it trained."""
_ORIGIN = "from"
_NO_NUMBER = -1
"""Number of a borrowed trial: before all of the study's own, as the oldest."""

MOST = 250
"""Trials that a sampler learns from."""
_BEST = 50
"""Of these, those that are shown for their loss; TPE takes 25 for its good ones, however many there are."""
_LEARNT = (TrialState.COMPLETE, TrialState.PRUNED)
Merit = tuple[int, int, float]
"""The lower, the better."""


def seen_study(name: str, storage: BaseStorage, borrowed: Sequence[FrozenTrial] = ()) -> optuna.Study:
    """Return the study called ``name`` as the sampler is to see it; trials asked of it are those of the storage."""
    return optuna.load_study(study_name=name, storage=cast(BaseStorage, _Seen(storage, borrowed)))


def lend(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Note trials of other studies, all of one space, for the sampler of ``study``; each is marked with its origin."""
    if trials:
        distributions = {name: distribution_to_json(known) for name, known in trials[0].distributions.items()}
        entries = [
            {
                _ORIGIN: trial.user_attrs[WARM_START],
                "state": trial.state.name,
                "value": trial.value,
                "params": trial.params,
                "losses": trial.intermediate_values,
            }
            for trial in trials
        ]
        noted: Any = {"distributions": distributions, "trials": entries}
        set_study_system_attr(study, _BORROWED, noted)


def borrowed_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of other studies that the sampler of ``study`` was given at its creation."""
    noted = study_system_attrs(study).get(_BORROWED)
    if noted is None:
        return []
    distributions = {name: json_to_distribution(text) for name, text in noted["distributions"].items()}
    return [_borrowed(entry, distributions) for entry in noted["trials"]]


def _borrowed(entry: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    trial = create_trial(
        state=TrialState[entry["state"]],
        value=entry["value"],
        params=entry["params"],
        distributions=dict(distributions),
        intermediate_values={int(epoch): loss for epoch, loss in entry["losses"].items()},
        user_attrs={WARM_START: entry[_ORIGIN]},
    )
    trial.number = _NO_NUMBER
    return trial


class _Seen:
    """A storage, with other answers to the one question by which samplers learn."""

    def __init__(self, storage: BaseStorage, borrowed: Sequence[FrozenTrial] = ()):
        self._storage = storage
        self._first = list(borrowed)
        """Trials before all others."""
        self._known = 0
        """Trials that were there when it was asked last. Each is told by its place among all."""
        self._going: list[int] = []
        """Of these, those that had not ended. The others change no more: they are learnt from, or failed."""
        self._learnt: list[int] = []
        self._merits: list[tuple[Merit, int]] = []
        """Those that are learnt from, the best first."""
        self._failed: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in one of ``states``, with what is expected of them, without what is forgotten."""
        trials = [*self._first, *self._storage.get_all_trials(study_id, deepcopy=deepcopy)]
        seen = [as_seen(trials[place]) for place in self._remembered(trials)]
        if states is None or TrialState.COMPLETE in states:
            seen = foretold(seen)
        return [trial for trial in seen if (states is None or trial.state in states) and not _teaches_nothing(trial)]

    def _remembered(self, trials: Sequence[FrozenTrial]) -> Iterable[int]:
        """Return the places of all trials but those neither among the best nor among the newest.

        It is a function of the history alone; what is kept from call to call only saves time.
        """
        merits = []  # of those that go on, but look pruned
        going, self._going = [*self._going, *range(self._known, len(trials))], []
        for place in going:
            trial = as_seen(trials[place])
            if not trials[place].state.is_finished():
                self._going.append(place)
                if trial.state in _LEARNT:
                    merits.append((_merit(trial), place))
            elif trial.state in _LEARNT:
                insort(self._merits, (_merit(trial), place))
                insort(self._learnt, place)
            else:
                self._failed.append(place)
        self._known = len(trials)
        if len(self._learnt) + len(merits) <= MOST:
            return range(len(trials))
        paused = {place for _, place in merits}
        newest = sorted([*self._learnt[_BEST - MOST :], *paused])[_BEST - MOST :]
        best = [place for _, place in sorted([*self._merits[:_BEST], *merits])[:_BEST]]
        return sorted({*newest, *best, *self._failed, *(place for place in self._going if place not in paused)})


def foretold(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials; those pruned or running that have reported as COMPLETE, with the loss expected of them.

    That is their last loss plus, for each later epoch that any trial has reached, the median change of the loss in
    that epoch among the trials that were there.
    """
    losses = [trial.intermediate_values for trial in trials]
    last = max((max(known, default=0) for known in losses), default=0)
    to_come = {last: 0.0}
    for epoch in range(last - 1, 0, -1):
        changes = [known[epoch + 1] - known[epoch] for known in losses if epoch in known and epoch + 1 in known]
        to_come[epoch] = to_come[epoch + 1] + (statistics.median(changes) if changes else 0.0)
    return [_foretold(trial, to_come) for trial in trials]


def _foretold(trial: FrozenTrial, to_come: Mapping[int, float]) -> FrozenTrial:
    if trial.state not in (TrialState.PRUNED, TrialState.RUNNING) or not trial.intermediate_values:
        return trial
    epoch, loss = max(trial.intermediate_values.items())
    complete = _copied(trial)
    complete.state, complete.value = TrialState.COMPLETE, loss + to_come[epoch]
    complete.datetime_complete = trial.datetime_complete or trial.datetime_start
    return complete


def _teaches_nothing(trial: FrozenTrial) -> bool:
    """Return whether a trial has ended, for the sampler, without a hyperparameter: a reference outside of the space.

    Optuna's TPE (5.0) proposes together what all such trials have in common. With one that has nothing, it proposes
    each hyperparameter by itself, as if they did not interact.
    """
    return trial.state in _LEARNT and not trial.distributions


def _merit(trial: FrozenTrial) -> Merit:
    """Order trials as TPE does: the COMPLETE by their loss, then the PRUNED by how far they came, and their loss."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return 0, 0, trial.value
    epoch, loss = max(trial.intermediate_values.items(), default=(0, math.inf))
    return 1, -epoch, loss


def as_seen(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as the sampler is to see it."""
    epoch = trial.user_attrs.get(SET_ASIDE, 0)
    if not epoch or trial.state not in (TrialState.RUNNING, TrialState.COMPLETE):
        return trial
    pruned = _copied(trial)
    pruned.intermediate_values = {step: loss for step, loss in trial.intermediate_values.items() if step <= epoch}
    pruned.state, pruned.value = TrialState.PRUNED, pruned.intermediate_values.get(epoch)
    return pruned


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """Return a shallow copy, in a seventh of the time of ``copy.copy``: a replay makes tens of thousands."""
    copied = object.__new__(FrozenTrial)
    copied.__dict__.update(trial.__dict__)
    return copied
