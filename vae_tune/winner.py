"""What is kept of the best trial: ``best/`` while the search runs, its test numbers at the end."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Any

import torch

from vae_tune.checkpoint import Checkpoint, checkpoint_file, read_checkpoint, write_model
from vae_tune.data import Images, to_tensor
from vae_tune.files import write_json
from vae_tune.generate import grid, reconstructions, samples, side_by_side, write_png
from vae_tune.manifest import KIND
from vae_tune.names import (
    BEST_FOLDER,
    COMPLETE,
    METRICS_FILE,
    RECONSTRUCTIONS_FILE,
    REFERENCE_TRIAL,
    RUNNING,
    SAMPLES_FILE,
    VAL_KL,
    VAL_LOSS,
    VAL_RECONSTRUCTION,
)
from vae_tune.record import StudyRecord, TrialRow, winner
from vae_tune.trainable import checkpoint_folder
from vae_tune.training import evaluate

_COLUMNS = 8
_CPU = torch.device("cpu")


class WinnerKeeper:
    """Listens to the record: writes ``best/`` whenever the best trial changes, and deletes what lost.

    Checkpoints stay only of running trials, of the best one so far, and of the reference, which the end needs.
    """

    def __init__(self, record: StudyRecord, images: Images, max_epochs: int):
        self._record = record
        self._images = images
        self._max_epochs = max_epochs
        finished = [row for row in record.rows if row.state != RUNNING]
        self._best = winner(finished, max_epochs)
        for row in finished:
            self._discard_loser(row)

    def __call__(self, row: TrialRow) -> None:
        """Handle a change of one trial."""
        if row.state == RUNNING:
            return
        best = winner((other for other in self._record.rows if other.state != RUNNING), self._max_epochs)
        if best is not None and best != self._best:
            previous, self._best = self._best, best
            self._write(best, test=False)
            if previous is not None:
                self._discard_loser(previous)
        self._discard_loser(row)

    def finish(self) -> dict[str, Any] | None:
        """Write ``best/`` with the test numbers of winner and reference: the one use of the test images.

        Returns:
            What ``best/metrics.json`` holds, or None where no trial reported anything.

        """
        best = winner(self._record.rows, self._max_epochs)
        return None if best is None else self._write(best, test=True)

    def _write(self, best: TrialRow, *, test: bool) -> dict[str, Any]:
        folder = self._record.folder / BEST_FOLDER
        checkpoint = self._checkpoint(best)
        write_model(folder, checkpoint.state.model, checkpoint.config)
        metrics = self._metrics(best, test=test)
        write_json(folder / METRICS_FILE, metrics)
        self._draw(checkpoint)
        return metrics

    def _metrics(self, best: TrialRow, *, test: bool) -> dict[str, Any]:
        complete = best.state == COMPLETE
        rule = f"at max_epochs={self._max_epochs}" if complete else "at the deepest epoch reached, none is complete"
        metrics: dict[str, Any] = {
            "kind": KIND,
            "unit": "nats per image",
            "rule": f"lowest {VAL_LOSS} {rule}",
            "winner": self._numbers(best, test=test),
        }
        reference = self._record.rows[REFERENCE_TRIAL]
        if reference.epochs == best.epochs and reference.state in (COMPLETE, best.state):
            metrics["reference"] = self._numbers(reference, test=test)
            metrics["improvement"] = {
                split: metrics["reference"][split]["negative_elbo"] - metrics["winner"][split]["negative_elbo"]
                for split in ("validation", "test")
                if split in metrics["winner"]
            }
        return metrics

    def _numbers(self, row: TrialRow, *, test: bool) -> dict[str, Any]:
        report = row.reports[-1]
        numbers = {
            "trial": row.trial,
            "epochs": row.epochs,
            "hyperparameters": dict(row.values),
            "validation": {
                "negative_elbo": report[VAL_LOSS],
                "reconstruction": report[VAL_RECONSTRUCTION],
                "kl": report[VAL_KL],
                "active_units": report["active_units"],
            },
        }
        if test:
            checkpoint = self._checkpoint(row)
            result = evaluate(checkpoint.state.model, to_tensor(self._images.test, _CPU), checkpoint.config)
            numbers["test"] = asdict(result)
        return numbers

    def _draw(self, checkpoint: Checkpoint) -> None:
        model, folder = checkpoint.state.model, self._record.folder / BEST_FOLDER
        originals = self._images.validation[: 4 * _COLUMNS]
        drawn = samples(model, _COLUMNS * _COLUMNS, originals.shape[1:])
        write_png(folder / SAMPLES_FILE, grid(drawn, _COLUMNS))
        pairs = side_by_side(originals, reconstructions(model, originals), _COLUMNS)
        write_png(folder / RECONSTRUCTIONS_FILE, grid(pairs, _COLUMNS))

    def _checkpoint(self, row: TrialRow) -> Checkpoint:
        folder = checkpoint_folder(self._record.folder, row.trial)
        return read_checkpoint(checkpoint_file(folder, row.epochs), _CPU)

    def _discard_loser(self, row: TrialRow) -> None:
        if row.trial != REFERENCE_TRIAL and row != self._best:
            shutil.rmtree(checkpoint_folder(self._record.folder, row.trial), ignore_errors=True)
