"""Freeze-thaw search: after each epoch, the trial with the highest expected gain per epoch trains the next one.

Source of the idea: Swersky et al. 2014, "Freeze-Thaw Bayesian Optimization" (arXiv:1406.3896). The model is in
:mod:`vae_tune.search.learning_curves`, the choice in :mod:`vae_tune.search.expected_gain`.

A decision is a function of the seed and of what it saw: the first reports of the record, the trials that had begun,
and which of them were running. The record keeps this with each epoch that a decision started. So a resumed search
decides alike, and an audit derives each decision again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vae_tune.config.metric import loss_of
from vae_tune.config.names import FAIL, ORDER, PRUNED, REFERENCE_TRIAL, RUNNING
from vae_tune.config.settings import AshaConfig
from vae_tune.record.basis import MODEL_VERSION, Basis
from vae_tune.search.scheduler import CONTINUE, PAUSE, STOP, Decision, Outlook

if TYPE_CHECKING:
    from vae_tune.config.space import Space
    from vae_tune.record.trials import TrialRow
    from vae_tune.search.expected_gain import Chooser, Known, Options
    from vae_tune.search.unit_cube import Array

_CLOSE = 1e-6
"""Relative difference of gains per epoch, and difference of places, that count as equal in an audit."""


@dataclass
class _Trial:
    place: Array
    losses: list[float] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)
    """Place of each loss among all reports, from 1."""
    is_running: bool = True
    has_diverged: bool = False
    has_ended: bool = False
    """Whether it does not go on, although it was not trained to the end."""


@dataclass(frozen=True)
class _Choice:
    """What a free worker trains: a paused trial, a new configuration, or neither."""

    trial: int | None = None
    place: Array | None = None


class FreezeThaw:
    """Decides after each epoch which trial trains next; the reference trains to the end without a pause.

    So there is a complete trial as early as one can be, and the winner has something to be compared with.
    """

    resumes: ClassVar[bool] = True
    proposes: ClassVar[bool] = True
    reopens: ClassVar[bool] = True

    def __init__(self, config: AshaConfig, max_epochs: int, seed: int = 0):
        """Start before the first report; :meth:`open` comes before the first decision."""
        self._min_gain = config.min_gain
        self._max_epochs = max_epochs
        self._seed = seed
        self._trials: dict[int, _Trial] = {}
        self._reports = self._order = 0
        self._num_samples: int | None = None
        self._space: Space | None = None
        self._chooser: Chooser | None = None
        self._next: tuple[Basis, _Choice] | None = None
        self.basis: Basis | None = None

    @property
    def pauses(self) -> Sequence[int]:
        """Return all epochs but the last."""
        return range(1, self._max_epochs)

    def open(self, space: Space, num_samples: int | None) -> None:
        """Learn what is searched, and with how many trials."""
        from vae_tune.search.expected_gain import Chooser  # with NumPy, which the help of a command does without

        self._space, self._num_samples = space, num_samples
        self._chooser = Chooser(space, self._max_epochs, self._seed)

    def begin(self, trial: int, values: Mapping[str, Any]) -> None:
        """Learn that a worker trains a trial with these hyperparameters."""
        self._order += trial not in self._trials
        place = self._opened().cube.place(values)
        known = self._trials.setdefault(trial, _Trial(place))
        known.place, known.is_running = place, True

    def decide(self, trial: int, epoch: int, loss: float) -> Decision:
        """Pause a trial, unless it is the one that a free worker would train."""
        known, self.basis = self._trials[trial], None
        known.is_running = False
        if not math.isfinite(loss):
            known.has_diverged = True
            return STOP
        self._reports += 1
        known.losses.append(loss)
        known.orders.append(self._reports)
        if epoch >= self._max_epochs:
            return STOP
        if trial == REFERENCE_TRIAL:
            known.is_running = True
            return CONTINUE
        may_open = self._num_samples is None or len(self._trials) < self._num_samples
        if self._choose(may_open=may_open).trial != trial:
            return PAUSE
        self._order += 1
        known.is_running = True
        return CONTINUE

    def quota(self, reached: int) -> int:
        """Return all: there are no rungs."""
        return reached

    def next_paused(self, *, may_open: bool = False) -> int | None:
        """Return the paused trial with the highest gain per epoch, unless a new one has a higher one."""
        choice = self._choose(may_open=may_open)
        if choice.trial is not None:
            self._order += 1
            self._trials[choice.trial].is_running = True
        return choice.trial

    def proposal(self) -> Mapping[str, Any] | None:
        """Return the new configuration that was chosen last, if one was."""
        if self._next is None or self._next[1].place is None or self._chooser is None:
            return None
        return self._chooser.cube.values(self._next[1].place)

    def rebuild(self, rows: Sequence[TrialRow]) -> Mapping[int, Decision]:
        """Take the reports; a trial whose next epoch a decision has started goes on, as does the reference."""
        decisions = {}
        self._order = max((basis.order + 1 for row in rows for basis in row.decisions.values()), default=0)
        for row in rows:
            if row.state == FAIL and not row.diverged:
                continue
            trial = self._trials[row.trial] = _trial_of(row, self._opened().cube.place(row.values))
            self._reports += row.epochs
            begun = row.epochs + 1 in row.decisions or row.trial == REFERENCE_TRIAL or not row.epochs
            trial.is_running = row.state == RUNNING and row.epochs < self._max_epochs and begun
            trial.has_ended = row.state == PRUNED
            if row.epochs:
                decisions[row.trial] = CONTINUE if trial.is_running else PAUSE
        return decisions

    def verify(self, rows: Sequence[TrialRow]) -> Iterator[str]:
        """Derive each decision of this model's version again from what it saw; yield where another promised more."""
        from vae_tune.search.expected_gain import Chooser

        if self._space is None:
            return
        places = {row.trial: self._opened().cube.place(row.values) for row in rows}
        made = [(basis, row, epoch) for row in rows for epoch, basis in row.decisions.items()]
        mine = [one for one in made if one[0].model == MODEL_VERSION]
        lengths = {basis.max_epochs or self._max_epochs for basis, _, _ in mine}
        choosers = {last: Chooser(self._space, last, self._seed) for last in lengths}
        for basis, row, epoch in sorted(mine, key=lambda one: one[0].order):
            last = basis.max_epochs or self._max_epochs
            begun = [_as_seen(other, places[other.trial], basis) for other in rows if other.trial < basis.trials]
            seen = [known for known in begun if known]
            where = f"trial {row.trial} was given epoch {epoch} after {basis.reports} reports"
            if not any(known.number == row.trial and known.waits(last) for known in seen) and epoch > 1:
                yield f"{where}, when it did not wait for it"
                continue
            new = places[row.trial] if epoch == 1 else None
            if not _is_chosen(choosers[last], seen, row.trial, new, basis):
                yield f"{where}, when another choice promised a higher gain per epoch"

    def outlook(self, rows: Sequence[TrialRow]) -> Outlook | None:
        """Return what training all trials that are paused, or were at the end, is expected to bring."""
        chooser = self._chooser
        known = [row for row in rows if row.epochs and (row.state != FAIL or row.diverged)]
        if chooser is None or not any(row.epochs >= self._max_epochs for row in known):
            return None
        trials = [_known(row.trial, _trial_of(row, chooser.cube.place(row.values))) for row in known]
        left = [self._max_epochs - len(trial.losses) for trial in trials if trial.waits(self._max_epochs)]
        options = chooser.options(trials, may_open=False)
        least = 0.0 if options is None else self._least_gain(options, trials)
        return Outlook(*chooser.outlook(trials), len(left), sum(left), least)

    def describe(self) -> str:
        """Name the scheduler."""
        return "freeze-thaw: after each epoch, the trial with the highest expected gain per epoch goes on"

    def _choose(self, *, may_open: bool) -> _Choice:
        """Return what a free worker trains now; note what the decision saw."""
        running = tuple(number for number, trial in self._trials.items() if trial.is_running)
        begun = max(self._trials, default=-1) + 1
        self.basis = Basis(self._order, self._reports, begun, running, may_open, MODEL_VERSION)
        if self._next is None or self._next[0] != self.basis:
            self._next = self.basis, self._choice(may_open=may_open)
        return self._next[1]

    def _choice(self, *, may_open: bool) -> _Choice:
        chooser = self._opened()
        number = max(self._trials, default=-1) + 1
        if may_open and chooser.is_initial(number):
            return _Choice(place=chooser.anywhere(number))
        trials = [_known(number, trial) for number, trial in self._trials.items()]
        options = chooser.options(trials, may_open=may_open)
        if options is None:
            return _Choice(place=chooser.anywhere(number) if may_open else None)
        best = options.best
        if not may_open and options.gains.max() < self._least_gain(options, trials):
            return _Choice()
        if options.numbers[best] >= 0:
            return _Choice(trial=int(options.numbers[best]))
        return _Choice(place=chooser.anywhere(number) if chooser.is_anywhere(number) else options.places[best])

    def _opened(self) -> Chooser:
        """Return the chooser that :meth:`open` made."""
        if self._chooser is None:
            raise RuntimeError("open() comes before the first trial")
        return self._chooser

    def _least_gain(self, options: Options, trials: Sequence[Known]) -> float:
        """Return the gain for which a trial is trained on; 0 until a trial is complete."""
        if not any(len(trial.losses) >= self._max_epochs for trial in trials):
            return 0.0
        return options.worth if self._min_gain is None else self._min_gain


def _trial_of(row: TrialRow, place: Array) -> _Trial:
    """Return a trial as it stands, without a worker."""
    losses, orders = [loss_of(report) for report in row.reports], [int(report[ORDER]) for report in row.reports]
    diverged, closed = row.state == FAIL and row.diverged, row.closed is not None
    return _Trial(place, losses, orders, is_running=False, has_diverged=diverged, has_ended=closed)


def _known(number: int, trial: _Trial) -> Known:
    from vae_tune.search.expected_gain import Known

    losses, orders = trial.losses, trial.orders
    return Known(number, trial.place, losses, orders, trial.is_running, trial.has_diverged, trial.has_ended)


def _as_seen(row: TrialRow, place: Array, basis: Basis) -> Known | None:
    """Return a trial as a decision saw it; None if it had broken by then."""
    whole = _trial_of(row, place)
    count = sum(order <= basis.reports for order in whole.orders)
    is_running = row.trial in basis.running
    last = row.decisions.get(row.epochs + 1)
    has_failed = row.state == FAIL and not is_running and (last is None or last.order < basis.order)
    if has_failed and not row.diverged:
        return None
    is_closed = row.closed is not None and row.closed <= basis.order
    losses, orders = whole.losses[:count], whole.orders[:count]
    return _known(row.trial, _Trial(place, losses, orders, is_running, has_failed, is_closed))


def _is_chosen(chooser: Chooser, seen: Sequence[Known], trial: int, place: Array | None, basis: Basis) -> bool:
    """Return whether a decision on what it saw gives an epoch to a trial, or to a new one at ``place``."""
    first = place is not None and chooser.is_initial(trial)
    options = None if first else chooser.options(seen, may_open=basis.may_open)
    if options is None:
        return place is not None and bool(abs(place - chooser.anywhere(trial)).max() < _CLOSE)
    if place is None:
        rows = options.numbers == trial
    elif chooser.is_anywhere(trial):
        rows = (options.numbers < 0) & (abs(place - chooser.anywhere(trial)).max() < _CLOSE)
    else:
        rows = (options.numbers < 0) & (abs(options.places - place).max(axis=1) < _CLOSE)
    highest = options.per_epoch.max()
    return bool((options.per_epoch[rows] >= highest * (1 - _CLOSE)).any())
