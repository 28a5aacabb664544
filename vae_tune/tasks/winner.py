"""Keeping the best trial: ``best/`` while the search runs, its test numbers at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from vae_tune.config import names
from vae_tune.config.fields import from_dict
from vae_tune.config.files import read_json, write_json
from vae_tune.config.metric import Metric
from vae_tune.config.settings import DataConfig, SearchConfig
from vae_tune.images.code_length import code_length
from vae_tune.images.datasets import Images, to_tensor
from vae_tune.record.leaderboard import Leaderboard
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow, settled, winner
from vae_tune.search.scheduler_factory import SCHEDULERS
from vae_tune.tasks.generate import write_sheets
from vae_tune.tasks.repeats import load_last_checkpoint, values_on_test
from vae_tune.vae.checkpoint import (
    discard_checkpoints,
    keep_newest_checkpoint,
    trials_with_checkpoints,
    write_model,
)
from vae_tune.vae.threads import cpu_threads
from vae_tune.vae.training import evaluate
from vae_tune.vae.user_metric import UserMetric

_OF_THE_METRIC = ("kind", "unit", names.DIMENSIONS)
_CPU = torch.device("cpu")


class WinnerKeeper:
    """A listener of the record that writes ``best/`` when the best trial changes, and deletes other checkpoints.

    While the search runs, it keeps the checkpoints of running trials, of the best ``keep`` ended trials, and of the
    reference, which is evaluated at the end; afterwards the last checkpoint of each of the best ``keep``. Where the
    scheduler can go on with any trial later, it keeps the checkpoints of all trials that have not failed; at the end,
    only the last one of each.
    """

    def __init__(
        self,
        record: StudyRecord,
        images: Images,
        max_epochs: int,
        keep: int,
        say: Callable[[str], None],
        metric: UserMetric | None = None,
        threads: int = 1,
    ):
        """Continue with the ``best/`` of an earlier run; pass lost checkpoints to ``say``.

        The evaluation on the test images takes ``threads`` threads.
        """
        self._record = record
        self._images = images
        self._max_epochs = max_epochs
        self._keep = keep
        self._say = say
        self._metric = metric
        self._threads = threads
        self._ranking = Metric.of(record.metadata["metric"])
        scheduler = from_dict(SearchConfig, record.metadata["config"]).asha.scheduler
        self._keeps_all = SCHEDULERS[scheduler].reopens
        self._folder = record.folder / names.BEST_FOLDER
        present = trials_with_checkpoints(record.place)
        ended = [row for row in record.rows if row.state != names.RUNNING]
        self._ended = Leaderboard(max_epochs, settled(record.rows))
        self._discarded = {row.trial: 0 for row in ended if row.trial not in present}
        """The epoch of the checkpoint that each trial was left, by its number; 0 if it was left none."""
        try:
            self._metrics: dict[str, Any] = read_json(self._folder / names.METRICS_FILE)
        except (FileNotFoundError, ValueError):  # none yet, or damaged: write best/ again
            self._metrics = {}
        self._kept: list[TrialRow] = []
        """The best of the ended trials, whose checkpoints stay."""
        self._update(ended)

    def __call__(self, row: TrialRow) -> None:
        """Handle a change of one trial."""
        if row.state != names.RUNNING:
            self._ended.update(row)
            self._update([row])

    def pause(self) -> None:
        """Write the best trial so far, including running trials: the search was interrupted."""
        best = winner(self._record.rows, self._max_epochs)
        if best is not None and not _is_of(self._metrics.get("winner"), best):
            self._write(best)

    def finish(self) -> None:
        """Add the test numbers of winner and reference, the only use of the test images; delete their checkpoints.

        Of pixel levels, the code length of the test images is added. What an earlier run wrote is not computed again.
        """
        self.pause()
        best = winner(self._record.rows, self._max_epochs)
        if best is None:
            return
        self._write_metrics(best, test=True)
        kept = {row.trial for row in self._ended.best(self._keep)}
        for row in self._record.rows:
            if self._is_kept(row) and row.state != names.RUNNING:
                self._record.after_upload(partial(keep_newest_checkpoint, self._record.place, row.trial))
            elif row.state != names.RUNNING:
                self._discard_checkpoints(row, keep=row.epochs if row.trial in kept else 0)

    def _update(self, ended: Sequence[TrialRow]) -> None:
        """Write the best trial, and delete the checkpoints of others among those that have just ended or were kept.

        One that goes on in a search that was made longer was written at the end of before, or by :meth:`pause` as it
        was later; its checkpoint of the end of before may be gone, and a worker writes its newer ones.
        """
        best = self._ended.best(self._keep)
        if best and best[0].state != names.RUNNING and not _is_of(self._metrics.get("winner"), best[0]):
            self._write(best[0])
        stay = {row.trial for row in best} | {names.REFERENCE_TRIAL}
        for row in (*self._kept, *ended):
            if row.trial not in stay and not self._is_kept(row) and row.state != names.RUNNING:
                self._discard_checkpoints(row, keep=0)
        self._kept = list(best)

    def _is_kept(self, row: TrialRow) -> bool:
        """Return whether the checkpoint of a trial stays, however good it is."""
        return self._keeps_all and row.state != names.FAIL

    def _write(self, best: TrialRow) -> None:
        checkpoint = load_last_checkpoint(self._record.place, best, self._images, self._say)
        data = from_dict(DataConfig, self._record.metadata["config"]["data"])
        checksum = self._record.metadata["data"][names.SHA256]
        code = self._metric.code if self._metric else None
        write_model(self._folder, checkpoint.state.model, checkpoint.config, data, checksum, code)
        write_sheets(self._folder, checkpoint.state.model, self._images.validation)
        self._write_metrics(best, test=False)

    def _write_metrics(self, best: TrialRow, *, test: bool) -> None:
        deepest = f"at epoch {best.complete_at} or later" if best.complete_at else "at the deepest epoch reached"
        at = f"at max_epochs={self._max_epochs}" if best.state == names.COMPLETE else deepest
        rule = f"{self._ranking.best} {self._ranking.name} {at}"
        metrics: dict[str, Any] = {
            **{name: value for name, value in self._record.metadata["metric"].items() if name in _OF_THE_METRIC},
            "rule": rule + ("" if best.state == names.COMPLETE else ", none is complete"),
            "winner": self._numbers(best, test=test),
        }
        reference = self._record.rows[names.REFERENCE_TRIAL]
        if best.state != names.COMPLETE:
            reference = next(iter(settled([reference])), reference)
        if reference.epochs == best.epochs and reference.state != names.FAIL:
            metrics["reference"] = self._numbers(reference, test=test)
            metrics["improvement"] = {
                split: self._ranking.improvement(metrics["reference"][split], metrics["winner"][split])
                for split in ("validation", "test")
                if all(self._ranking.key in metrics[who].get(split, {}) for who in ("winner", "reference"))
            }
        if known := self._metrics.get(names.CODE_LENGTH):
            metrics[names.CODE_LENGTH] = known
        elif test and names.DIMENSIONS in metrics and self._record.metadata["kind"] != names.CONFIRMATION:
            metrics[names.CODE_LENGTH] = asdict(code_length(self._images.train, self._images.test))
        write_json(self._folder / names.METRICS_FILE, metrics)
        self._metrics = metrics

    def _numbers(self, row: TrialRow, *, test: bool) -> dict[str, Any]:
        for known in (self._metrics.get("winner"), self._metrics.get("reference")):
            if known and _is_of(known, row) and "test" in known:
                return dict(known)
        report = row.reports[-1]
        numbers = {
            "trial": row.trial,
            "epochs": row.epochs,
            "hyperparameters": dict(row.values),
            "latent_size": row.values.get("latent_size", self._record.metadata["reference"]["latent_size"]),
            "validation": {
                "negative_elbo": report[names.VAL_LOSS],
                "reconstruction": report[names.VAL_RECONSTRUCTION],
                "kl": report[names.VAL_KL],
                "active_units": report[names.ACTIVE_UNITS],
                **{name: report[name] for name in self._ranking.columns},
            },
        }
        if test:
            checkpoint = load_last_checkpoint(self._record.place, row, self._images, self._say)
            images = to_tensor(self._images.test, _CPU)
            with cpu_threads(self._threads):  # their number changes no bit
                numbers["test"] = asdict(evaluate(checkpoint.state.model, images, checkpoint.config))
            if self._metric:
                numbers["test"] |= values_on_test(self._metric, row, checkpoint.state.model, images, self._say)
        return numbers

    def _discard_checkpoints(self, row: TrialRow, *, keep: int) -> None:
        if self._discarded.get(row.trial, keep + 1) > keep:
            self._discarded[row.trial] = keep
            self._record.after_upload(partial(discard_checkpoints, self._record.place, row.trial, keep))


def _is_of(numbers: Mapping[str, Any] | None, row: TrialRow) -> bool:
    """Whether metrics are those of a trial. They are the last file written to ``best/``, so the others exist too."""
    if not numbers:
        return False
    known = numbers["trial"], numbers["epochs"], numbers.get("validation", {}).get("negative_elbo")
    return known == (row.trial, row.epochs, row.val_loss)
