"""The trials that could win, kept in order as trials change."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import merge
from itertools import islice

from vae_tune.config import names
from vae_tune.record.trials import TrialRow

_Key = tuple[float, int]
"""Loss and number of a trial: the lower, the better."""
_COMPLETE = 0
"""In place of an epoch: the group of the trials that are COMPLETE at ``max_epochs``."""


class Leaderboard:
    """Knows what :func:`vae_tune.record.trials.ranked` returns of the same trials.

    A change of one trial takes a time that hardly grows with their number: no other row is looked at.
    """

    def __init__(self, max_epochs: int, rows: Iterable[TrialRow] = ()):
        self._max_epochs = max_epochs
        self._rows: dict[int, TrialRow] = {}
        """The trials that could win, by number."""
        self._places: dict[int, tuple[int, _Key]] = {}
        """Group and key of each of them."""
        self._groups: dict[int, list[_Key]] = {}
        """The keys in order, of the trials at each epoch; of those that are COMPLETE at the last one apart."""
        self._earlier_ends: Counter[int] = Counter()
        """How many of them were complete at an epoch before the search was made longer."""
        for row in rows:
            self.update(row)

    def update(self, row: TrialRow) -> None:
        """Take a new trial, or a known one as it is now."""
        if row.trial in self._places:
            self._remove(row.trial)
        if not row.epochs or row.state == names.FAIL:
            return
        is_complete = row.state == names.COMPLETE and row.epochs == self._max_epochs
        group, key = _COMPLETE if is_complete else row.epochs, (row.loss or 0, row.trial)
        insort(self._groups.setdefault(group, []), key)
        self._places[row.trial], self._rows[row.trial] = (group, key), row
        if row.complete_at:
            self._earlier_ends[row.complete_at] += 1

    def best(self, count: int) -> Sequence[TrialRow]:
        """Return the first ``count`` trials by the one rule, the best first; fewer where there are fewer."""
        if not self._groups:
            return []
        group = _COMPLETE if _COMPLETE in self._groups else max(self._groups)
        keys: Iterable[_Key] = self._groups[group]
        if group and (least := max(self._earlier_ends, default=0)):
            keys = merge(*(found for epoch, found in self._groups.items() if epoch >= least))
        return [self._rows[number] for _, number in islice(keys, count)]

    @property
    def winner(self) -> TrialRow | None:
        """The best trial, or None where there is none."""
        return next(iter(self.best(1)), None)

    def _remove(self, number: int) -> None:
        group, key = self._places.pop(number)
        self._earlier_ends -= Counter([self._rows.pop(number).complete_at])
        keys = self._groups[group]
        del keys[bisect_left(keys, key)]
        if not keys:
            del self._groups[group]
