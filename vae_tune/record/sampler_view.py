"""The study history as presented to the sampler.

A trial that was set aside at an epoch (paused or audited there) is presented as pruned at that epoch, whatever it does
now. A pruned or running trial is presented as complete, with the loss that is expected of it at the last epoch: its
own, plus what other trials typically gained since. TPE itself ranks every complete trial above any pruned one, and
learns nothing from a running one; with eight workers most trials are of these two kinds (docs/results.md has numbers).

The trials of a warm start come first. They are stored in an attribute of the study, not among its own trials.

Of a long history the sampler sees the best and the newest trials: a proposal takes TPE a time that grows with the
number of trials, and GP with its cube.
"""

from __future__ import annotations

import copy
import math
import statistics
from bisect import insort
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from vae_tune.config.compat.optuna import set_study_system_attr, study_system_attrs
from vae_tune.config.names import WARM_START

SET_ASIDE = "set_aside"
"""User attribute of an Optuna trial: the epoch at which it counts as pruned for the sampler; 0 for none."""

_WARM_START_ATTRIBUTE = "vae_tune:warm_start"
"""System attribute of the study: the trials of other studies that its sampler learns from. They are not among its own
trials, so that its best trial is one that it trained."""
_ORIGIN = "from"

MOST = 250
"""Trials that a sampler learns from."""
_BEST = 50
"""Of these, the trials chosen for their loss; TPE takes at most 25 as its good ones."""
_LEARNED = (TrialState.COMPLETE, TrialState.PRUNED)
Merit = tuple[int, int, float]
"""The lower, the better."""


def sampler_view(name: str, storage: BaseStorage, warm_start: Sequence[FrozenTrial] = ()) -> optuna.Study:
    """Return the study ``name`` as presented to its sampler; trials asked of it are created in ``storage``."""
    directions = storage.get_study_directions(storage.get_study_id_from_name(name))
    view = _ViewStorage(storage, warm_start, maximize=directions == [StudyDirection.MAXIMIZE])
    return optuna.load_study(study_name=name, storage=cast(BaseStorage, view))


def store_warm_start_trials(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Store trials of other studies, all of one space and marked with their origin, for the sampler of ``study``."""
    if trials:
        searched = {name: known for trial in trials for name, known in trial.distributions.items()}
        distributions = {name: distribution_to_json(known) for name, known in searched.items()}
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
        stored: Any = {"distributions": distributions, "trials": entries}
        set_study_system_attr(study, _WARM_START_ATTRIBUTE, stored)


def read_warm_start_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of other studies that the sampler of ``study`` was given at its creation."""
    stored = study_system_attrs(study).get(_WARM_START_ATTRIBUTE)
    if stored is None:
        return []
    distributions = {name: json_to_distribution(text) for name, text in stored["distributions"].items()}
    return [
        create_trial(  # its number, -1, counts as older than all of the study's own
            state=TrialState[entry["state"]],
            value=entry["value"],
            params=entry["params"],
            distributions={name: distributions[name] for name in entry["params"]},
            intermediate_values={int(epoch): loss for epoch, loss in entry["losses"].items()},
            user_attrs={WARM_START: entry[_ORIGIN]},
        )
        for entry in stored["trials"]
    ]


class _ViewStorage:
    """A storage that answers :meth:`get_all_trials`, by which samplers learn, with the presented history."""

    def __init__(self, storage: BaseStorage, warm_start: Sequence[FrozenTrial], *, maximize: bool):
        self._storage = storage
        self._sign = -1 if maximize else 1
        self._warm_start = list(warm_start)
        self._known = 0
        """Trials at the last call. A trial is identified by its place among all, those of the warm start first."""
        self._unfinished: list[int] = []
        """The places of unfinished trials at the last call. The others do not change any more."""
        self._finished: list[int] = []
        """The places of COMPLETE and PRUNED trials."""
        self._merits: list[tuple[Merit, int]] = []
        """The same trials, the best first."""
        self._failed: list[int] = []
        self._trials: list[FrozenTrial] = []
        """All trials at the last call."""
        self._set_aside: list[FrozenTrial] = []
        """The same, as :func:`as_set_aside` returns them."""
        self._shown: list[FrozenTrial] = []
        """Those of them that are presented."""
        self._extrapolated: list[FrozenTrial] | None = None
        """The same with their expected losses, once a sampler has asked for them."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the presented trials in one of ``states``."""
        trials = [*self._warm_start, *self._storage.get_all_trials(study_id, deepcopy=False)]
        if not self._is_known(trials):
            self._shown = [self._set_aside[place] for place in self._best_and_newest(trials)]
            self._trials, self._extrapolated = trials, None
        shown = self._shown
        if states is None or TrialState.COMPLETE in states:
            shown = self._extrapolated = self._extrapolated or extrapolate(shown)
        found = [trial for trial in shown if (states is None or trial.state in states) and not _is_empty(trial)]
        return copy.deepcopy(found) if deepcopy else found

    def _is_known(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether these are the trials of the last call: TPE asks twice for a proposal.

        A storage replaces a trial by another object when it changes, and it never changes one that has ended.
        """
        known = self._trials
        return len(trials) == len(known) and all(trials[place] is known[place] for place in self._unfinished)

    def _best_and_newest(self, trials: Sequence[FrozenTrial]) -> Iterable[int]:
        """Return the places of the trials that are presented; all unfinished and failed ones are.

        They follow from the history alone; what is kept from call to call only saves time.
        """
        merits = []  # of the unfinished ones that are presented as pruned
        unfinished, self._unfinished = [*self._unfinished, *range(self._known, len(trials))], []
        for place in unfinished:
            has_changed = place >= self._known or trials[place] is not self._trials[place]
            if has_changed:
                self._set_aside[place : place + 1] = [as_set_aside(trials[place])]
            trial = self._set_aside[place]
            if not has_changed or not trials[place].state.is_finished():
                self._unfinished.append(place)
                if trial.state in _LEARNED:
                    merits.append((_merit(trial, self._sign), place))
            elif trial.state in _LEARNED:
                insort(self._merits, (_merit(trial, self._sign), place))
                insort(self._finished, place)
            else:
                self._failed.append(place)
        self._known = len(trials)
        if len(self._finished) + len(merits) <= MOST:
            return range(len(trials))
        set_aside = {place for _, place in merits}
        newest = sorted([*self._finished[_BEST - MOST :], *set_aside])[_BEST - MOST :]
        best = [place for _, place in sorted([*self._merits[:_BEST], *merits])[:_BEST]]
        running = set(self._unfinished) - set_aside
        return sorted({*newest, *best, *self._failed, *running})


def extrapolate(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials; pruned or running ones that have reported as COMPLETE, with the loss expected of them.

    That is their last loss plus, for each later epoch that any trial has reached, the median change of the loss in
    that epoch among the trials that reached it.
    """
    losses = [trial.intermediate_values for trial in trials]
    last = max((max(known, default=0) for known in losses), default=0)
    to_come = {last: 0.0}
    for epoch in range(last - 1, 0, -1):
        changes = [known[epoch + 1] - known[epoch] for known in losses if epoch in known and epoch + 1 in known]
        to_come[epoch] = to_come[epoch + 1] + (statistics.median(changes) if changes else 0.0)
    return [_extrapolate(trial, to_come) for trial in trials]


def _extrapolate(trial: FrozenTrial, to_come: Mapping[int, float]) -> FrozenTrial:
    if trial.state not in (TrialState.PRUNED, TrialState.RUNNING) or not trial.intermediate_values:
        return trial
    epoch, loss = max(trial.intermediate_values.items())
    complete = _copied(trial)
    complete.state, complete.value = TrialState.COMPLETE, loss + to_come[epoch]
    complete.datetime_complete = trial.datetime_complete or trial.datetime_start
    return complete


def _is_empty(trial: FrozenTrial) -> bool:
    """Return whether a trial is presented as finished but has no hyperparameters: a reference outside of the space.

    Optuna's TPE (5.0) proposes jointly the hyperparameters that all finished trials share. With an empty one among
    them, it proposes each hyperparameter by itself, as if they did not interact.
    """
    return trial.state in _LEARNED and not trial.distributions


def _merit(trial: FrozenTrial, sign: int) -> Merit:
    """Order trials as TPE does: COMPLETE ones by loss, then PRUNED ones by epochs, the most first, and by loss.

    ``sign`` is -1 where the values are to be maximized.
    """
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return 0, 0, sign * trial.value
    epoch, value = max(trial.intermediate_values.items(), default=(0, sign * math.inf))
    return 1, -epoch, sign * value


def as_set_aside(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial that was set aside at an epoch as pruned there; any other as it is."""
    epoch = trial.user_attrs.get(SET_ASIDE, 0)
    if not epoch or trial.state not in (TrialState.RUNNING, TrialState.COMPLETE):
        return trial
    pruned = _copied(trial)
    pruned.intermediate_values = {step: loss for step, loss in trial.intermediate_values.items() if step <= epoch}
    pruned.state, pruned.value = TrialState.PRUNED, pruned.intermediate_values.get(epoch)
    return pruned


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """Return a shallow copy, in a seventh of the time of ``copy.copy``: a replay makes tens of thousands of them."""
    copied = object.__new__(FrozenTrial)
    copied.__dict__.update(trial.__dict__)
    return copied
