"""The best trials of a running search are kept as trials end; what this needs is imported once it is needed."""

from __future__ import annotations

import contextlib
from functools import cached_property
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from vae_tune.config.machine_limits import usable_cpus
from vae_tune.config.names import RUNNING
from vae_tune.config.settings import SLURM
from vae_tune.record.trials import TrialRow
from vae_tune.tasks.search_start import RunningSearch

if TYPE_CHECKING:
    from vae_tune.cluster.slots import Slots
    from vae_tune.tasks.winner import WinnerKeeper

_OF_THE_REPORT = (
    "jinja2",
    "vae_tune.analysis.early_stopping_audit",
    "vae_tune.views.report.figures",
    "vae_tune.views.report.page",
    "vae_tune.views.report.provenance",
    "vae_tune.views.report.summary",
    "vae_tune.views.report.trial_table",
)


class WinnerListener(contextlib.ExitStack):
    """A listener of the record, and a context in which it may be called.

    It keeps the best of the ended trials. It imports torch only once the workers train, since they import it too.
    """

    def __init__(self, search: RunningSearch):
        super().__init__()
        self._search = search
        self._importing = Thread(target=import_ahead, args=[search.plan.config.num_samples])

    def __call__(self, row: TrialRow) -> None:
        """Handle a change of one trial."""
        if row.state != RUNNING:
            self.keeper(row)
        elif row.reports and self._importing.ident is None:
            self._importing.start()

    @cached_property
    def keeper(self) -> WinnerKeeper:
        """The writer of ``best/``."""
        from vae_tune.tasks.winner import WinnerKeeper
        from vae_tune.vae.threads import cpu_threads

        search = self._search
        # the trials have the other cores; and as many threads as theirs give the same numbers
        self.enter_context(cpu_threads(search.slots.cpus))
        plan = search.plan
        limits = plan.base.max_epochs, plan.config.keep
        threads = _evaluation_threads(search.slots, plan.config.resources.address)
        return WinnerKeeper(search.record, search.images, *limits, search.view.warn, plan.metric, threads)


def import_ahead(num_samples: int) -> None:
    """Import the modules that are first needed between two trials or at the end, where it would cost waiting.

    An import that fails here fails again, with a message, where it is needed. After the end of the search some modules
    cannot be imported any more; that is silent.
    """
    with contextlib.suppress(Exception):
        for name in ("scipy.special", "vae_tune.tasks.winner", "vae_tune.replay.forecast", *_OF_THE_REPORT):
            import_module(name)
        from vae_tune.analysis.hyperparameters import MIN_TRIALS
        from vae_tune.replay.surrogate import FEWEST

        for fewest, name in ((FEWEST, "sklearn.gaussian_process"), (MIN_TRIALS, "optuna.importance")):
            if num_samples >= fewest:  # from fewer there is no forecast, and no importance
                import_module(name)


def _evaluation_threads(slots: Slots, address: str | None) -> int:
    """Return how many threads may evaluate once no trial trains: all that the trials had on this machine.

    Beside a cluster that the search joined, perhaps on its head or a login node, they are those of one trial.
    """
    return min(usable_cpus(), slots.count * slots.cpus) if address in (None, SLURM) else slots.cpus
