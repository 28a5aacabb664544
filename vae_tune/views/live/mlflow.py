"""MLflow: one run for the study, and one nested run per trial.

Only MLflow's client is used, which keeps no state in the process. A resumed search finds its runs by their tags.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vae_tune.config import names
from vae_tune.config.files import read_json
from vae_tune.config.metric import Metric
from vae_tune.config.names import BEST_FOLDER, COMPLETE, DEVICE, EPOCH, FAIL, FAILED, METRICS_FILE, NODE, RUNNING, TIME
from vae_tune.record.trials import TrialRow, now, settled, winner
from vae_tune.views.live.view import DrawSamples, LiveView

EXPERIMENT = "vae_tune"  # MLflow's experiment, unless $MLFLOW_EXPERIMENT_NAME names another
STUDY_TAG, STARTED_TAG, TRIAL_TAG = "vae_tune.study", "vae_tune.started", "vae_tune.trial"

_PARENT_TAG = "mlflow.parentRunId"
_BEST_TAG = "vae_tune.best_trial"
_STATUS = {COMPLETE: "FINISHED", names.PRUNED: "KILLED", FAIL: "FAILED", RUNNING: "RUNNING"}
_PAUSED = "SCHEDULED"  # MLflow's status of a trial that continues when the search is resumed
_MAX_BATCH, _MAX_RUNS = 1_000, 50_000  # metrics that MLflow accepts, and runs that it returns, in one request
_ENVIRONMENT = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # BackgroundView retries
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass
class _Run:
    """A trial's run as it is in MLflow."""

    id: str
    status: str
    epochs: int
    tags: dict[str, str]


class MLflow(LiveView):
    """Keeps the runs of a study up to date; the files in ``best/`` become artifacts at the end."""

    name = "MLflow"
    package = "mlflow"

    def __init__(self, address: str, folder: Path, metadata: Mapping[str, Any]):
        """Connect to the tracking server or database at ``address``, and find or create the runs of the study."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow.entities
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # Ray may have imported them already, with other levels
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._entities = mlflow.entities
        self._client = MlflowClient(address)
        self._folder = folder
        self._max_epochs = metadata["reference"]["max_epochs"]
        self._ranking = Metric.of(metadata["metric"])
        self._rows: dict[int, TrialRow] = {}
        self._best_may_be_new = False
        self._experiment = self._find_experiment(address)
        self._study = self._find_study(metadata)
        self._runs: dict[int, _Run] = {}
        for run in self._search(_PARENT_TAG, self._study):
            info, tags, epochs = run.info, dict(run.data.tags), int(run.data.metrics.get(EPOCH, 0))
            self._runs[int(tags[TRIAL_TAG])] = _Run(info.run_id, info.status, epochs, tags)

    def show(self, row: TrialRow, draw_samples: DrawSamples | None) -> None:  # noqa: ARG002  # best/ has samples
        """Log the new reports, tags and status of a trial."""
        self._rows[row.trial] = row
        run = self._runs.get(row.trial) or self._begin(row)
        tags = {names.STATE: row.state, names.REASON: row.reason, NODE: row.node, DEVICE: row.device}
        new = {f"vae_tune.{name}": text for name, text in tags.items() if text}
        self._log(run.id, row.reports[run.epochs :], {} if new.items() <= run.tags.items() else new)
        run.epochs, run.tags = len(row.reports), {**run.tags, **new}
        if run.status != _STATUS[row.state]:
            self._set_status(run, _STATUS[row.state], row.ended)
            self._best_may_be_new |= row.state != RUNNING
        if self._best_may_be_new and len(self._rows) >= len(self._runs):  # else earlier trials follow
            self._log_best()
            self._best_may_be_new = False

    def close(self, status: str) -> None:
        """Log the winner, the files of ``best/`` and the status of the search."""
        for number, run in self._runs.items():
            if number in self._rows and self._rows[number].state == RUNNING:
                self._set_status(run, _PAUSED)
        known = self._client.get_run(self._study).data.tags.get(_BEST_TAG)
        if (row := self._best()) is not None and known != str(row.trial):  # MLflow was down when that trial ended
            self._log_best()
        self._client.set_tag(self._study, "vae_tune.status", status)
        best = self._folder / BEST_FOLDER
        if (best / METRICS_FILE).exists():
            numbers, moment = _flat(read_json(best / METRICS_FILE)), _milliseconds(now())
            metrics = [self._entities.Metric(name, float(value), moment, 0) for name, value in numbers.items()]
            self._client.log_batch(self._study, metrics=metrics)
            self._client.log_artifacts(self._study, str(best), BEST_FOLDER)
        ends = {names.INTERRUPTED: "KILLED", names.PAUSED: "KILLED", FAILED: "FAILED", "running": "FAILED"}
        self._client.set_terminated(self._study, ends.get(status, "FINISHED"))

    def _find_experiment(self, uri: str) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        if (known := self._client.get_experiment_by_name(name)) is not None:
            return str(known.experiment_id)
        scheme, path = urlsplit(uri)[0:3:2]
        location = None
        if scheme.startswith("sqlite"):  # beside the database; MLflow's default depends on the working directory
            location = Path(path[1:]).absolute().with_name("mlartifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _find_study(self, metadata: Mapping[str, Any]) -> str:
        """Return the id of the study's run, new or found by its tags, and set it to running."""
        tags = {STUDY_TAG: metadata["name"], STARTED_TAG: metadata["runs"][0]["started"]}
        for run in self._search(STARTED_TAG, tags[STARTED_TAG]):
            if run.data.tags.get(STUDY_TAG) == metadata["name"]:
                self._client.update_run(run.info.run_id, "RUNNING")
                return str(run.info.run_id)
        started = _milliseconds(tags[STARTED_TAG])
        run = self._client.create_run(self._experiment, started, tags, run_name=metadata["name"])
        settings = {"reference": metadata["reference"], **{key: metadata[key] for key in ("data", "space", "fixed")}}
        self._client.log_batch(run.info.run_id, params=self._params(_flat(settings, numbers=False)))
        return str(run.info.run_id)

    def _begin(self, row: TrialRow) -> _Run:
        tags = {_PARENT_TAG: self._study, TRIAL_TAG: str(row.trial)}
        started, name = _milliseconds(row.started), f"trial {row.trial}"
        run = self._client.create_run(self._experiment, started, tags, run_name=name)
        self._client.log_batch(run.info.run_id, params=self._params(row.values))
        self._runs[row.trial] = _Run(run.info.run_id, "RUNNING", 0, {})
        return self._runs[row.trial]

    def _log(self, run_id: str, reports: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> None:
        """Log reports, each with its epoch as a metric, and tags; in one request if they fit."""
        metrics = [
            self._entities.Metric(name, float(report[name]), _milliseconds(report[TIME]), report[EPOCH])
            for report in reports
            for name in self._ranking.report_columns
        ]
        new_tags = [self._entities.RunTag(name, text) for name, text in tags.items()]
        for start in range(0, max(len(metrics), len(tags)), _MAX_BATCH):
            batch = metrics[start : start + _MAX_BATCH]
            self._client.log_batch(run_id, metrics=batch, tags=new_tags if start == 0 else [])

    def _best(self) -> TrialRow | None:
        return winner(settled(self._rows.values()), self._max_epochs)

    def _log_best(self) -> None:
        if (best := self._best()) is not None:
            name = self._ranking.name
            ended = sum(row.state != RUNNING for row in self._rows.values())
            metric = self._entities.Metric(f"best_{name}", best.reports[-1][name], _milliseconds(now()), ended)
            tag = self._entities.RunTag(_BEST_TAG, str(best.trial))
            self._client.log_batch(self._study, metrics=[metric], tags=[tag])

    def _set_status(self, run: _Run, status: str, ended: str = "") -> None:
        if status in ("RUNNING", _PAUSED):
            self._client.update_run(run.id, status)
        else:
            self._client.set_terminated(run.id, status, _milliseconds(ended) if ended else None)
        run.status = status

    def _search(self, tag: str, text: str) -> list[Any]:
        """Return all runs of the experiment that have this tag."""
        return list(self._client.search_runs([self._experiment], f"tags.`{tag}` = '{text}'", max_results=_MAX_RUNS))

    def _params(self, values: Mapping[str, Any]) -> list[Any]:
        return [self._entities.Param(name, str(value)) for name, value in values.items()]


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def _flat(values: Mapping[str, Any], prefix: str = "", *, numbers: bool = True) -> dict[str, Any]:
    """Return the leaves of nested mappings by their path: numbers only, or all."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/", numbers=numbers)
        elif not numbers or isinstance(value, (int, float)):
            flat[f"{prefix}{name}"] = value
    return flat
