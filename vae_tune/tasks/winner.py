"""What is kept of the best trial: ``best/`` while the search runs, its test numbers at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from vae_tune.config.files import read_json, write_json
from vae_tune.config.names import (
    ACTIVE_UNITS,
    BEST_FOLDER,
    COMPLETE,
    DIMENSIONS,
    FAIL,
    METRICS_FILE,
    RECONSTRUCTIONS_FILE,
    REFERENCE_TRIAL,
    RUNNING,
    SAMPLES_FILE,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)
from vae_tune.config.settings import DataConfig, from_dict
from vae_tune.images.datasets import Images, to_tensor
from vae_tune.record.study_record import StudyRecord
from vae_tune.record.trials import TrialRow, ranked, winner
from vae_tune.tasks.generate import reconstruction_sheet, sample_sheet
from vae_tune.tasks.repeats import last_checkpoint
from vae_tune.vae.checkpoint import Checkpoint, discard_checkpoints, trials_with_checkpoints, write_model
from vae_tune.vae.training import evaluate

_OF_THE_METRIC = ("kind", "unit", DIMENSIONS)
_CPU = torch.device("cpu")


class WinnerKeeper:
    """Listens to the record: writes ``best/`` whenever the best trial changes, and deletes what lost.

    While the search runs, checkpoints stay of running trials, of the best ``keep`` ended ones, and of the reference,
    which the end needs; afterwards the last one of the best ``keep``.
    """

    def __init__(self, record: StudyRecord, images: Images, max_epochs: int, keep: int, say: Callable[[str], None]):
        """Take up ``best/`` where an earlier run left it; ``say`` hears of checkpoints that were lost."""
        self._record = record
        self._images = images
        self._max_epochs = max_epochs
        self._keep = keep
        self._say = say
        self._folder = record.folder / BEST_FOLDER
        present = trials_with_checkpoints(record.place)
        self._discarded = {row.trial: 0 for row in record.rows if row.trial not in present and row.state != RUNNING}
        """Up to which epoch each trial was left its newest checkpoint, by its number; 0 where it was left none."""
        try:
            self._metrics: dict[str, Any] = read_json(self._folder / METRICS_FILE)
        except (FileNotFoundError, ValueError):  # none yet, or damaged: best/ is written again
            self._metrics = {}
        self._update()

    def __call__(self, row: TrialRow) -> None:
        """Handle a change of one trial."""
        if row.state != RUNNING:
            self._update()

    def pause(self) -> None:
        """Write the best so far, running trials included: the search was interrupted."""
        best = winner(self._record.rows, self._max_epochs)
        if best is not None and not _is_of(self._metrics.get("winner"), best):
            self._write(best)

    def finish(self) -> None:
        """Add the test numbers of winner and reference, the one use of the test images; delete what only they needed.

        Numbers that an earlier end of the search has written are taken from there.
        """
        self.pause()
        best = winner(self._record.rows, self._max_epochs)
        if best is None:
            return
        self._write_metrics(best, test=True)
        kept = self._best()
        for row in self._ended():
            self._discard_checkpoints(row, keep=row.epochs if row in kept else 0)

    def _update(self) -> None:
        best = self._best()
        if best and not _is_of(self._metrics.get("winner"), best[0]):
            self._write(best[0])
        for row in self._ended():
            if row not in best and row.trial != REFERENCE_TRIAL:
                self._discard_checkpoints(row, keep=0)

    def _ended(self) -> list[TrialRow]:
        return [row for row in self._record.rows if row.state != RUNNING]

    def _best(self) -> list[TrialRow]:
        return ranked(self._ended(), self._max_epochs)[: self._keep]

    def _write(self, best: TrialRow) -> None:
        checkpoint = last_checkpoint(self._record.place, best, self._images, self._say)
        data = from_dict(DataConfig, self._record.manifest["config"]["data"])
        write_model(self._folder, checkpoint.state.model, checkpoint.config, data)
        self._draw(checkpoint)
        self._write_metrics(best, test=False)

    def _write_metrics(self, best: TrialRow, *, test: bool) -> None:
        at = f"at max_epochs={self._max_epochs}" if best.state == COMPLETE else "at the deepest epoch reached"
        metrics: dict[str, Any] = {
            **{name: value for name, value in self._record.manifest["metric"].items() if name in _OF_THE_METRIC},
            "rule": f"lowest {VAL_LOSS} {at}" + ("" if best.state == COMPLETE else ", none is complete"),
            "winner": self._numbers(best, test=test),
        }
        reference = self._record.rows[REFERENCE_TRIAL]
        if reference.epochs == best.epochs and reference.state != FAIL:
            metrics["reference"] = self._numbers(reference, test=test)
            metrics["improvement"] = {
                split: metrics["reference"][split]["negative_elbo"] - metrics["winner"][split]["negative_elbo"]
                for split in ("validation", "test")
                if split in metrics["winner"] and split in metrics["reference"]
            }
        write_json(self._folder / METRICS_FILE, metrics)
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
            "latent_size": row.values.get("latent_size", self._record.manifest["reference"]["latent_size"]),
            "validation": {
                "negative_elbo": report[VAL_LOSS],
                "reconstruction": report[VAL_RECONSTRUCTION],
                "kl": report[VAL_KL],
                "active_units": report[ACTIVE_UNITS],
            },
        }
        if test:
            checkpoint = last_checkpoint(self._record.place, row, self._images, self._say)
            result = evaluate(checkpoint.state.model, to_tensor(self._images.test, _CPU), checkpoint.config)
            numbers["test"] = asdict(result)
        return numbers

    def _draw(self, checkpoint: Checkpoint) -> None:
        model, folder = checkpoint.state.model, self._folder
        sample_sheet(model).write_png(folder / SAMPLES_FILE)
        reconstruction_sheet(model, self._images.validation).write_png(folder / RECONSTRUCTIONS_FILE)

    def _discard_checkpoints(self, row: TrialRow, *, keep: int) -> None:
        if self._discarded.get(row.trial, keep + 1) > keep:
            self._discarded[row.trial] = keep
            self._record.after_upload(partial(discard_checkpoints, self._record.place, row.trial, keep))


def _is_of(numbers: Mapping[str, Any] | None, row: TrialRow) -> bool:
    """Whether numbers in the metrics are a trial's: of ``best/`` they are written last, so the rest is there too."""
    if not numbers:
        return False
    known = numbers["trial"], numbers["epochs"], numbers.get("validation", {}).get("negative_elbo")
    return known == (row.trial, row.epochs, row.val_loss)
