"""Weights & Biases: one run per trial, in a group named after the study, on a server or in files to send later.

The folder ``wandb`` of the study holds the runs of wandb's offline mode, and notes which trials are whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae_tune.config.metric import Metric
from vae_tune.config.names import DEVICE, EPOCH, FAIL, NODE, REASON, RUNNING, STATE, WANDB_FOLDER
from vae_tune.record.trials import TrialRow
from vae_tune.views.live.view import DrawSamples, LiveView

_OFFLINE = ("offline", "dryrun")
_ENVIRONMENT = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
_SETTINGS = {
    "console": "off",
    "silent": True,
    "init_timeout": 20.0,  # seconds
    "finish_timeout": 10.0,  # seconds; what is not sent then lies in the study's folder
    "symlink": False,  # object storage has none
    "disable_code": True,
    "x_disable_machine_info": True,  # the command line among it, which may name a secret address
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class WandB(LiveView):
    """Logs the numbers of each trial by epoch; at its end also its state, and samples of its model.

    A resumed search goes on with the runs of its unfinished trials: on a server by their ids, where epochs that are
    there already are ignored; offline by writing them anew.
    """

    name = "W&B"
    package = "wandb"

    def __init__(self, address: str, folder: Path, metadata: Mapping[str, Any]):
        """Log to the project ``address``, PROJECT or ENTITY/PROJECT, of the server that wandb is configured for.

        Raises:
            ConnectionError: wandb is not logged in there, and not set to its offline mode.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import wandb

        entity, _, self._project = address.rpartition("/")
        self._entity = entity or None
        self._offline = wandb.setup().settings.mode in _OFFLINE
        if not self._offline and not wandb.login(prompt=False, verify=False):
            raise ConnectionError("not logged in: run `wandb login`, or set WANDB_MODE=offline")
        self._wandb = wandb
        self._folder = folder.absolute()
        self._group = str(metadata["name"])
        self._key = [address, self._group, metadata["runs"][0]["started"]]
        self._ranking = Metric.of(metadata["metric"])
        self._runs: dict[int, Any] = {}
        self._logged: dict[int, int] = {}  # epochs, by trial

    def show(self, row: TrialRow, draw_samples: DrawSamples | None) -> None:
        """Log the new epochs of a trial; end its run with the trial."""
        if self._is_whole(row):
            return
        run = self._runs.get(row.trial) or self._begin(row)
        reports = row.reports[self._logged[row.trial] :]
        for report in reports:
            run.log({name: report[name] for name in self._ranking.report_columns}, step=report[EPOCH])
        self._logged[row.trial] += len(reports)
        if row.state == RUNNING:
            return
        if draw_samples is not None and (sheet := draw_samples()) is not None:
            run.log({"samples": self._wandb.Image(sheet)}, step=row.epochs)
        self._finish(row.trial, row.state, {REASON: row.reason, NODE: row.node, DEVICE: row.device})
        self._marker(row.trial).write_text(str(row.epochs))

    def close(self, status: str) -> None:  # noqa: ARG002
        """End the runs of unfinished trials, which a resume goes on with."""
        for trial in list(self._runs):
            self._finish(trial, RUNNING, {})

    def _begin(self, row: TrialRow) -> Any:
        run_id = self._id(row.trial)
        place = self._folder / WANDB_FOLDER
        place.mkdir(exist_ok=True)
        for unfinished in place.glob(f"offline-run-*-{run_id}"):  # of a search that was interrupted
            shutil.rmtree(unfinished)
        run = self._wandb.init(
            entity=self._entity,
            project=self._project,
            group=self._group,
            name=f"trial {row.trial}",
            id=run_id,
            dir=self._folder,
            config=dict(row.values),
            resume="allow",
            reinit="create_new",
            settings=_SETTINGS,
        )
        self._runs[row.trial], self._logged[row.trial] = run, 0
        return run

    def _finish(self, trial: int, state: str, notes: Mapping[str, str]) -> None:
        run = self._runs.pop(trial)
        run.summary.update({STATE: state, **{name: text for name, text in notes.items() if text}})
        run.finish(exit_code=1 if state == FAIL else 0)

    def _id(self, trial: int) -> str:
        """Return the id of a trial's run, the same in each run of the search, and unique in its project."""
        return hashlib.sha256(json.dumps([*self._key, trial]).encode()).hexdigest()[:16]

    def _is_whole(self, row: TrialRow) -> bool:
        """Return whether the run of a trial has ended with it; of one that goes on after its end, it goes on too."""
        try:
            epochs = self._marker(row.trial).read_text()
        except OSError:
            return False
        return row.state != RUNNING and epochs in ("", str(row.epochs))  # older versions wrote nothing

    def _marker(self, trial: int) -> Path:
        """Return the path of a file that is there once the run of an ended trial has ended."""
        return self._folder / WANDB_FOLDER / f"{self._id(trial)}.whole"
